"""Layouts of YOLO sets that tools write: the labels are found, and the classes are called what the file calls them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from handeye.vision.data.annotations import AnnotationSet, Categories
from handeye.vision.data.formats import convert, find_images, format_of, images_folder, read_annotations
from handeye.vision.data.yolo_txt import NO_IMAGE
from handeye.vision.errors import DatasetError
from tests.vision.data.drawn_images import draw_set

BOX = "{} 0.3 0.4375 0.4 0.625\n"


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """images/ with three images, without labels."""
    draw_set(tmp_path)
    return tmp_path


def label(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (folder / f"{number}.txt").write_text(BOX.format(number % 2), encoding="utf-8")


def classes_of_boxes(annotations: AnnotationSet) -> dict[str, list[int]]:
    return {image.file_name: image.boxes.class_ids.tolist() for image in annotations.images}


EXPECTED = {"0.png": [0], "1.png": [1], "2.png": [0]}


@pytest.mark.parametrize("place", ["images", "images/project", "other", "labels/images/project"])
def test_labels_beside_the_images_are_read_wherever_the_folder_is(drawn, place):
    folder = drawn / "set" / place
    shutil.copytree(drawn / "images", folder)
    label(folder)
    (folder / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    for images in (None, folder):
        annotations = read_annotations(folder, images)
        assert classes_of_boxes(annotations) == EXPECTED
        assert not annotations.left_out
    assert images_folder(folder) == folder


def test_labels_in_the_folder_named_are_read_for_images_elsewhere(drawn):
    images = (drawn / "images").rename(drawn / "pictures")
    label(drawn / "texts")
    (drawn / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    assert classes_of_boxes(read_annotations(drawn / "texts", images)) == EXPECTED


def test_labels_has_precedence_and_what_it_lacks_is_looked_for_beside(drawn):
    label(drawn / "labels")
    label(drawn / "images")
    (drawn / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    (drawn / "labels/0.txt").write_text(BOX.format(1), encoding="utf-8")
    (drawn / "labels/1.txt").unlink()
    assert classes_of_boxes(read_annotations(drawn)) == EXPECTED | {"0.png": [1]}


def test_a_label_without_an_image_is_told_and_companions_of_macos_are_not(drawn):
    label(drawn / "labels")
    (drawn / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    (drawn / "labels/._0.txt").write_bytes(b"\0\5\x16\7")
    (drawn / "images/._0.png").write_bytes(b"\0\5\x16\7")
    (drawn / "labels/9.txt").write_text(BOX.format(0), encoding="utf-8")
    annotations = read_annotations(drawn)
    assert [(item.reason, Path(item.item).name) for item in annotations.left_out] == [(NO_IMAGE, "9.txt")]


@pytest.mark.parametrize("above", ["labels", "images"])
def test_what_a_folder_holds_decides_its_format_not_what_is_above_it(tmp_path, above):
    annotations, images = draw_set(tmp_path)
    for kind in ("voc", "coco"):
        folder = tmp_path / above / kind
        convert(annotations, images, kind, folder, "copy")
        assert format_of(folder) == kind
        assert read_annotations(folder).num_boxes() == 3


NAMES = ["no", "yes", "on", "1.10", "010", "null", "1e3", "2024-01-01", "~"]


@pytest.mark.parametrize(
    "text",
    [f"[{', '.join(NAMES[:-1])}, '~']", "".join(f"\n  {number}: {name}" for number, name in enumerate(NAMES))],
    ids=["list", "table"],
)
def test_class_names_are_read_as_they_are_written(drawn, text):
    (drawn / "data.yaml").write_text(f"train: images\nnames: {text}\n", encoding="utf-8")
    assert read_annotations(drawn).categories.names == tuple(NAMES)


def test_class_names_survive_our_own_writer(tmp_path):
    annotations, images = draw_set(tmp_path)
    named = AnnotationSet(annotations.images, Categories(tuple(range(1, 10)), tuple(NAMES)))
    convert(named, images, "yolo", tmp_path / "yolo", "link")
    assert read_annotations(tmp_path / "yolo").categories.names == tuple(NAMES)
    assert list(yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"].values()) == NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.yaml", b"train: images\nnames: [a, b, a]\n", "names has 'a' twice"),
        ("data.yaml", b"train: images\nnames: {0: a, 0: b}\n", "duplicate key '0'"),
        ("data.yaml", b"train: images\nnames: [a, [b]]\n", "names must be"),
        ("data.yaml", "train: images\nnames: [a]\n".encode("utf-16"), "expected UTF-8"),
        ("data.yaml", b"train: images\nnames: [a]\nkpt_shape: [17]\n", "kpt_shape: expected"),
        ("data.yaml", b"train: images\nval: null\nnames: [a]\n", "no folder for the split 'val'; it has train"),
        ("classes.txt", "one\ntwo\n".encode("utf-16"), "expected UTF-8"),
        ("classes.txt", "one\ntwo\n".encode("utf-16-le"), "expected UTF-8"),
        ("classes.txt", b"one\n\ntwo\n", "line 2 is empty"),
        ("classes.txt", b"one\none\n", "none of them twice"),
    ],
)
def test_names_that_cannot_be_trusted_are_rejected_in_one_line(drawn, name, content, message):
    label(drawn / "labels")
    (drawn / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message) as caught:
        read_annotations(drawn, split="val" if "val:" in content.decode("latin-1") else "train")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder_name", ["export", "data"])
def test_the_layout_of_darknet_is_read_through_every_file_of_it(drawn, folder_name):
    folder = drawn / folder_name
    shutil.copytree(drawn / "images", folder / "obj_train_data")
    label(folder / "obj_train_data")
    (folder / "obj.names").write_text("no\nyes\n", encoding="utf-8")
    described = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (folder / "obj.data").write_text(described, encoding="utf-8")
    lines = "".join(f"data/obj_train_data/{number}.png\n" for number in range(3))
    (folder / "train.txt").write_text(lines, encoding="utf-8")
    for door in (folder, folder / "obj.data", folder / "train.txt", folder / "obj_train_data"):
        annotations = read_annotations(door)
        assert classes_of_boxes(annotations) == EXPECTED
        assert annotations.categories.names == ("no", "yes")
        assert images_folder(door) == folder / "obj_train_data"
    with pytest.raises(DatasetError, match="no folder for the split 'val'; it has train"):
        read_annotations(folder, split="val")


def test_lists_with_backslashes_are_read(drawn):
    label(drawn / "labels")
    (drawn / "classes.txt").write_text("one\ntwo\n", encoding="utf-8")
    (drawn / "some.txt").write_text("images\\0.png\r\n.\\images\\1.png\r\n", encoding="utf-8")
    assert classes_of_boxes(read_annotations(drawn / "some.txt")) == {"0.png": [0], "1.png": [1]}


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\n",
        "path: .\ntrain: train\nval: valid/images\ntest:\n",
        "train: train/images\nvalid: valid/images\n",
    ],
    ids=["one folder too high", "with path", "valid for val"],
)
def test_a_data_yaml_says_where_its_images_are(drawn, text):
    folder = drawn / "set"
    for split in ("train", "valid"):
        shutil.copytree(drawn / "images", folder / split / "images")
        label(folder / split / "labels")
    (folder / "valid/images/2.png").unlink()
    (folder / "data.yaml").write_text(text + "names: [one, two]\n", encoding="utf-8")
    for split, count in (("train", 3), ("val", 2)):
        images = find_images(folder / "data.yaml", split=split)
        annotations = read_annotations(folder / "data.yaml", images, split=split)
        assert [len(annotations), annotations.num_boxes()] == [count, count]
        assert all((images / image.file_name).is_file() for image in annotations.images)

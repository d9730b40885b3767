"""Corrupt and absurd data sets end in one line that names the file, or are trained on; never in a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.tools.command_line import run_command
from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.augmentation import AugmentationConfig, SampleRequest
from handeye.vision.data.batches import TrainingSamples
from handeye.vision.data.formats import read_annotations
from handeye.vision.data.image_files import declared_size, without_broken
from handeye.vision.errors import DatasetError
from handeye.vision.images import Preprocessing, list_images, read_image
from tests.vision.data.absurd_sets import REFUSED, SURVIVED, write_good
from tests.vision.data.drawn_images import draw_set


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Path, AnnotationSet]:
    annotations, images = draw_set(tmp_path)
    return write_good(tmp_path, annotations), images, annotations


def train_once(file: Path, images: Path, *, skip_broken: bool = False) -> AnnotationSet:
    """What training does with a set before the network sees it: every image in a mosaic and alone."""
    annotations = read_annotations(file, images, skip_broken=skip_broken)
    if skip_broken:
        annotations = without_broken(annotations, images)
    samples = TrainingSamples(annotations, images, AugmentationConfig(), Preprocessing(size_hw=(64, 64)), seed=0)
    for is_strong in (True, False):
        batch = samples.make_batch([SampleRequest(0, n, (64, 64), is_strong) for n in range(len(annotations))])
        assert batch.images.shape == (len(annotations), 3, 64, 64)
        assert all((~boxes.is_crowd).sum() <= 1000 and len(boxes) <= 1001 for boxes in batch.boxes)
    return annotations


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trusted_is_rejected_in_one_line(good, case):
    spoil, message = REFUSED[case]
    spoil(*good)
    file, images, _ = good
    with pytest.raises(DatasetError) as caught:
        train_once(file, images)
    assert message in str(caught.value)
    assert str(file.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", SURVIVED)
def test_what_can_be_read_is_trained_on(good, case):
    spoil, num_boxes = SURVIVED[case]
    spoil(*good)
    file, images, _ = good
    annotations = train_once(file, images)
    assert annotations.num_boxes() == num_boxes
    assert num_boxes >= 3 or sum(annotations.dropped.values()) == (num_boxes > 0)


UNREADABLE = {"JSON cut in the middle", "empty JSON", "no images at all", "huge category id"}
"""Of these nothing is left, whatever may be skipped."""


@pytest.mark.parametrize("case", sorted(set(REFUSED) - UNREADABLE))
def test_broken_items_are_named_and_skipped_on_request(good, case):
    spoil, _ = REFUSED[case]
    spoil(*good)
    file, images, _ = good
    annotations = train_once(file, images, skip_broken=True)
    assert annotations.num_boxes() <= 2
    assert all(str(file.parent) in omission.item for omission in annotations.left_out)
    assert annotations.left_out


@pytest.mark.parametrize("case", [*REFUSED, *SURVIVED])
def test_check_dataset_reports_every_case(good, case, tmp_path, capfd):
    is_refused = case in REFUSED
    spoil, _ = REFUSED[case] if is_refused else SURVIVED[case]
    spoil(*good)
    file, images, _ = good
    words = ["check-dataset", str(file), "--images", str(images), "--json", str(tmp_path / "r.json")]
    code = run_command(words)
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    if case in UNREADABLE:
        assert code == 2
        assert len(told.err.strip().splitlines()) == 1
        return
    problems = json.loads((tmp_path / "r.json").read_text())["problems"]
    assert code == (1 if problems else 0)
    assert problems or not is_refused


def test_the_upright_image_is_the_one_that_is_annotated(good):
    """Training, checks and the run time agree on the EXIF orientation: the header's size is that of read_image."""
    spoil, _ = SURVIVED["EXIF turn, annotated upright"]
    spoil(*good)
    path = good[1] / "1.jpg"
    assert declared_size(path.read_bytes()) == read_image(path).shape[:2] == (40, 50)
    assert cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape[:2] == (50, 40)


YOLO_CASES = {
    "class out of range": ("7 0.5 0.5 0.2 0.2\n", "line 1: the class must be 0 to 1, got 7"),
    "negative class": ("-1 0.5 0.5 0.2 0.2\n", "the class must be 0 to 1"),
    "class with a fraction": ("0.5 0.5 0.5 0.2 0.2\n", "the class must be 0 to 1"),
    "pixels instead of fractions": ("0 20 20 8 8\n", "expected fractions"),
    "too few numbers": ("0 0.5 0.5 0.2\n", "got 4 numbers"),
    "a prediction with its score": ("0 0.5 0.5 0.2 0.2 0.9\n", "got 6 numbers"),
    "words": ("0 a b c d\n", "expected numbers"),
    "binary": ("\udcff\udcfe", "cannot be read"),
}


@pytest.mark.parametrize("case", YOLO_CASES)
def test_yolo_lines_that_are_wrong_are_named_or_skipped(tmp_path, case):
    text, message = YOLO_CASES[case]
    _, images = draw_set(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("train: images\nnames: [one, two]\n", encoding="utf-8")
    (tmp_path / "labels/1.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError) as caught:
        read_annotations(tmp_path, images)
    assert message in str(caught.value)
    assert "1.txt" in str(caught.value)
    assert read_annotations(tmp_path, images, skip_broken=True).num_boxes() == 0


def test_a_file_name_that_is_no_text_is_named_or_skipped(tmp_path, capfd):
    _, images = draw_set(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [one, two]\n", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(images) + b"/\xff.png")).write_bytes((images / "0.png").read_bytes())
    with pytest.raises(DatasetError, match=r"one line, .* got '\\udcff.png'"):
        read_annotations(tmp_path, images)
    assert len(read_annotations(tmp_path, images, skip_broken=True)) == 3
    assert run_command(["check-dataset", str(tmp_path), "--json", str(tmp_path / "r.json")]) == 1
    assert "1 x broken entry" in capfd.readouterr().out


def test_a_broken_data_yaml_above_a_folder_of_labels_is_named(tmp_path):
    _, images = draw_set(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_text("names: [one\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="data.yaml: cannot be read") as caught:
        read_annotations(tmp_path / "labels", images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n\n", "\r\n", "\ufeff0 0.5 0.5 0.2 0.2\r\n\r\n", "0 nan 0.5 0.2 0.2\n"])
def test_yolo_files_that_are_odd_are_read(tmp_path, text):
    _, images = draw_set(tmp_path)
    (tmp_path / "labels").mkdir()
    (tmp_path / "data.yaml").write_bytes(b"\xef\xbb\xbftrain: images\r\nnames: {0: one, 1: two}\r\n")
    (tmp_path / "labels/1.txt").write_bytes(text.encode("utf-8"))
    annotations = read_annotations(tmp_path, images)
    assert len(annotations) == 3
    assert annotations.num_boxes() == ("0.5 0.5" in text)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "names must be"),
        ("train: images\nnames: {0: a, 2: b}\n", "without a gap"),
        ("names: [a]\n", "no folder for the split 'train'"),
        ("train: nowhere\nnames: [a]\n", "there is no"),
        ("train: [images\n", "cannot be read"),
        ("- a\n", "expected keys"),
    ],
)
def test_a_data_yaml_that_is_wrong_is_rejected(tmp_path, yaml, message):
    _, images = draw_set(tmp_path)
    (tmp_path / "data.yaml").write_text(yaml, encoding="utf-8")
    with pytest.raises(DatasetError, match=message) as caught:
        read_annotations(tmp_path / "data.yaml", images)
    assert "\n" not in str(caught.value)


XML = "<annotation><filename>1.png</filename>{size}<object><name>{name}</name>{flags}{box}</object></annotation>"
SIZE = "<size><width>50</width><height>40</height><depth>3</depth></size>"
BOX = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20.5</xmax><ymax>30</ymax></bndbox>"


def write_xml(folder: Path, text: str) -> Path:
    (folder / "Annotations").mkdir()
    (folder / "Annotations/1.xml").write_text(text, encoding="utf-8")
    return folder


BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;&b;&b;">]><annotation>&d;</annotation>'
VOC_CASES = {
    "entities": (BILLION_LAUGHS, "document type declaration"),
    "outside entity": ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type declaration"),
    "cut in the middle": (XML.format(size=SIZE, name="a", flags="", box=BOX)[:90], "not valid XML"),
    "empty": ("", "not valid XML"),
    "another root": ("<html/>", "expected the element annotation, got html"),
    "a box without an edge": (
        XML.format(size=SIZE, name="a", flags="", box="<bndbox><xmin>5</xmin></bndbox>"),
        "expected numbers for xmin",
    ),
    "an object without a name": (XML.format(size=SIZE, name="", flags="", box=BOX), "the class ''"),
    "a size of text": (XML.format(size="<size><width>x</width></size>", name="a", flags="", box=BOX), "whole numbers"),
    "a name that climbs out": ("<annotation><filename>../../x.png</filename>" + SIZE + "</annotation>", "below the"),
}


@pytest.mark.parametrize("case", VOC_CASES)
def test_voc_files_that_are_wrong_are_rejected(tmp_path, case):
    text, message = VOC_CASES[case]
    with pytest.raises(DatasetError, match=message) as caught:
        read_annotations(write_xml(tmp_path, text), tmp_path)
    assert "1.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_voc_without_a_size_takes_it_from_the_image_and_difficult_objects_are_crowds(tmp_path):
    _, images = draw_set(tmp_path)
    text = XML.format(size="", name="a", flags="<difficult>1</difficult>", box=BOX)
    annotations = read_annotations(write_xml(tmp_path, text), images)
    image = annotations.images[0]
    assert (image.size_hw, image.file_name, image.boxes.is_crowd.tolist()) == ((40, 50), "1.png", [True])
    np.testing.assert_array_equal(image.boxes.xyxy, [[5, 5, 20.5, 30]])
    with pytest.raises(DatasetError, match="states no size"):
        read_annotations(tmp_path, tmp_path / "nowhere")


def test_loops_of_linked_folders_end(tmp_path):
    _, images = draw_set(tmp_path)
    (images / "again").symlink_to(images)
    (images / "up").symlink_to(tmp_path)
    assert [path.name for path in list_images(images, recursive=True)] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("name", ["nothing.json", "nothing", "empty", "table.csv"])
def test_what_is_no_data_set_says_what_one_is(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match="no such file|COCO") as caught:
        read_annotations(tmp_path / name)
    assert name in str(caught.value)

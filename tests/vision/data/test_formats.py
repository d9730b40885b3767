"""Three formats, one set: whatever way round a data set is converted, its boxes and classes come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from handeye.tools.command_line import run_command
from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.data.coco import read_coco, write_coco
from handeye.vision.data.formats import convert, format_of, images_folder, read_annotations
from handeye.vision.data.yolo_txt import CROWD
from handeye.vision.errors import DatasetError
from tests.vision.data.drawn_images import draw_set

VOC_PX, YOLO_PX = 0.0006, 1e-4
"""Three decimals of a pixel; eight decimals of a width, and float32."""


def assert_same(one: AnnotationSet, other: AnnotationSet, atol: float, *, crowds: bool = True) -> None:
    others = {image.file_name: image for image in other.images}
    assert one.categories.names == other.categories.names
    assert {image.file_name for image in one.images} == set(others)
    for image in one.images:
        same, kept = others[image.file_name], np.ones(len(image.boxes), bool) if crowds else ~image.boxes.is_crowd
        assert image.size_hw == same.size_hw
        np.testing.assert_allclose(same.boxes.xyxy, image.boxes.xyxy[kept], atol=atol, rtol=1e-6)
        np.testing.assert_array_equal(same.boxes.class_ids, image.boxes.class_ids[kept])
        np.testing.assert_array_equal(same.boxes.is_crowd, image.boxes.is_crowd[kept])


def travel(annotations: AnnotationSet, images: Path, folder: Path) -> list[AnnotationSet]:
    """COCO -> VOC -> YOLO -> COCO, each step read back from its files."""
    convert(annotations, images, "voc", folder / "voc", "link")
    voc = read_annotations(folder / "voc")
    convert(voc, folder / "voc/JPEGImages", "yolo", folder / "yolo", "link")
    yolo = read_annotations(folder / "yolo")
    convert(yolo, folder / "yolo/images", "coco", folder / "coco", "link")
    return [voc, yolo, read_annotations(folder / "coco")]


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("bccd/coco_json/instances_test.json", "bccd/JPEGImages"),
        ("data/coco_mini/annotations/instances_val2017.json", "data/coco_mini/val2017"),
    ],
    ids=["bccd", "coco_mini"],
)
def test_real_sets_come_back_from_a_round_trip(request, tmp_path, file, images):
    find = request.getfixturevalue("sample" if file.startswith("bccd") else "shared")
    annotations = read_coco(find(file))
    voc, yolo, coco = travel(annotations, find(images), tmp_path)
    assert_same(annotations, voc, VOC_PX)
    assert_same(voc, yolo, YOLO_PX, crowds=False)
    assert_same(annotations, coco, VOC_PX + 2 * YOLO_PX, crowds=False)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_xml_of_bccd_says_what_its_json_says(sample, split):
    assert_xml_says_what_json_says(sample("bccd"), split)


@pytest.mark.slow
def test_so_it_does_in_the_whole_of_bccd(shared):
    for split in ("train", "val", "test"):
        assert_xml_says_what_json_says(shared("data/bccd"), split)


def assert_xml_says_what_json_says(folder: Path, split: str) -> None:
    """The JSON was made from the XML by others; its zero-area boxes are left out either way."""
    xml = read_annotations(folder / f"ImageSets/Main/{split}.txt")
    content = read_coco(folder / f"coco_json/instances_{split}.json")
    assert xml.dropped == content.dropped
    assert set(xml.categories.names) == set(content.categories.names)
    others = {image.file_name: image for image in content.images}
    for image in xml.images:
        np.testing.assert_array_equal(image.boxes.xyxy, others[image.file_name].boxes.xyxy)
        names = [
            [categories.names[class_id] for class_id in found.boxes.class_ids]
            for categories, found in ((xml.categories, image), (content.categories, others[image.file_name]))
        ]
        assert names[0] == names[1]


def test_the_yolo_text_of_bccd_says_what_its_json_says(sample):
    """The text was written without our converter."""
    parts = [read_coco(sample(f"bccd/coco_json/instances_{split}.json")) for split in ("train", "val", "test")]
    images = tuple(image for part in parts for image in part.images)
    assert_same(AnnotationSet(images, parts[0].categories), read_annotations(sample("bccd/yolo")), YOLO_PX)


def test_every_list_of_a_voc_folder_has_the_same_classes(tmp_path):
    annotations, images = draw_set(tmp_path, classes=("cat", "dog"), class_ids=(0, 1, 1))
    convert(annotations, images, "voc", tmp_path / "voc", "copy")
    (tmp_path / "voc/classes.txt").unlink()
    (tmp_path / "voc/ImageSets/Main/one.txt").write_text("0\n", encoding="utf-8")
    one = read_annotations(tmp_path / "voc/ImageSets/Main/one.txt")
    assert (len(one), one.categories.names) == (1, ("cat", "dog"))


def test_companions_of_macos_are_no_annotations(tmp_path):
    annotations, images = draw_set(tmp_path)
    convert(annotations, images, "voc", tmp_path / "voc", "copy")
    (tmp_path / "voc/Annotations/._0.xml").write_bytes(b"\0\5\x16\7")
    assert_same(annotations, read_annotations(tmp_path / "voc"), VOC_PX)


def test_what_yolo_cannot_say_is_counted(tmp_path):
    image = annotations_from_lists(
        1, "0.png", (40, 50), [[0.0, 0.0, 20.0, 20.0], [-5.0, 5.0, 30.0, 50.0]], [0, 1], is_crowd=[True, False]
    )
    _, images = draw_set(tmp_path)
    annotations = AnnotationSet((image,), Categories((1, 2), ("one", "two")))
    unsaid = convert(annotations, images, "yolo", tmp_path / "yolo", "copy")
    assert [item.reason for item in unsaid.left_out] == [CROWD]
    np.testing.assert_allclose(read_annotations(tmp_path / "yolo").images[0].boxes.xyxy, [[0, 5, 30, 40]], atol=1e-4)


def test_polygons_of_yolo_give_their_box_and_mask(tmp_path):
    annotations, images = draw_set(tmp_path)
    convert(annotations, images, "yolo", tmp_path / "yolo", "copy")
    (tmp_path / "yolo/labels/0.txt").write_text("1 0.2 0.25 0.6 0.5 0.4 0.75\n", encoding="utf-8")
    image = read_annotations(tmp_path / "yolo", keep_masks=True).images[0]
    np.testing.assert_allclose(image.boxes.xyxy, [[10, 10, 30, 30]], atol=1e-5)
    assert image.masks[0] is not None
    np.testing.assert_allclose(image.masks[0].polygons[0], [[10, 10], [30, 20], [20, 30]], atol=1e-5)


def test_every_door_to_a_yolo_set_leads_to_the_same(tmp_path):
    annotations, images = draw_set(tmp_path)
    folder = tmp_path / "deep/yolo"
    convert(annotations, images, "yolo", folder, "copy")
    (folder / "train.txt").write_text("images/0.png\r\nimages/1.png\r\nimages/2.png\r\n", encoding="utf-8")
    for door in (folder, folder / "data.yaml", folder / "labels", folder / "train.txt"):
        assert_same(annotations, read_annotations(door), YOLO_PX)
    (folder / "data.yaml").write_text("train: ../images\nnames: [one, two]\n", encoding="utf-8")
    assert_same(annotations, read_annotations(folder), YOLO_PX)


def test_masks_survive_within_coco_and_on_request_only(coco_val2014, tmp_path):
    path = coco_val2014 / "instances_val2014_100.json"
    annotations = read_coco(path, keep_masks=True)
    write_coco(tmp_path / "again.json", annotations)
    stated = json.loads(path.read_text())["annotations"]
    again = json.loads((tmp_path / "again.json").read_text())["annotations"]
    by_box = {tuple(np.round(entry["bbox"], 2)): entry for entry in again}
    polygons = [entry for entry in stated if not entry["iscrowd"]]
    for entry in polygons:
        found = by_box[tuple(np.round(entry["bbox"], 2))]["segmentation"]
        for one, other in zip(found, entry["segmentation"], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
    assert not any(image.masks for image in read_coco(path).images)


@pytest.mark.parametrize(("word", "is_difficult"), [("Unspecified", False), ("", False), ("1", True), ("True", True)])
def test_difficult_is_optional_and_may_be_a_word(tmp_path, word, is_difficult):
    (tmp_path / "a.xml").write_text(VOC_FILE.format(word))
    (image,) = read_annotations(tmp_path).images
    assert image.boxes.is_crowd.tolist() == [is_difficult]


def test_what_is_wrong_is_named_where_nothing_is_left(tmp_path):
    (tmp_path / "a.xml").write_text(VOC_FILE.format("hard"))
    with pytest.raises(DatasetError, match=r"a\.xml: object\[0\]: difficult is 'hard', expected 0 or 1"):
        read_annotations(tmp_path)
    (tmp_path / "a.xml").write_bytes(b"\xb5\xc4")
    with pytest.raises(DatasetError, match=r"no annotated images: .*a\.xml: not valid XML"):
        read_annotations(tmp_path, skip_broken=True)


VOC_FILE = """<annotation><filename>a.jpg</filename><size><width>9</width><height>9</height></size>
<object><name>x</name><difficult>{}</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"""


def test_convert_dataset_reports_and_refuses_to_overwrite(tmp_path, capsys):
    annotations, images = draw_set(tmp_path)
    write_coco(tmp_path / "a.json", annotations)
    words = ["convert-dataset", str(tmp_path / "a.json"), "--to", "voc", "--output", str(tmp_path / "out")]
    words += ["--images", str(images), "--json", str(tmp_path / "r.json")]
    assert run_command(words) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["images"], result["boxes"], result["classes"]) == (3, 3, ["one", "two"])
    assert (result["source_format"], result["format"], result["left_out"]) == ("coco", "voc", {})
    assert (format_of(tmp_path / "out"), images_folder(tmp_path / "out")) == ("voc", tmp_path / "out/JPEGImages")
    assert (tmp_path / "out/JPEGImages/0.png").is_symlink()
    capsys.readouterr()
    assert run_command(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    annotations, images = draw_set(tmp_path)
    (images / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"2\.png: is missing"):
        convert(annotations, images, "coco", tmp_path / "out", "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_images_that_differ_in_their_suffix_only_are_rejected(tmp_path):
    one, two = (
        annotations_from_lists(number, f"a.{suffix}", (9, 9), [], []) for number, suffix in ((1, "jpg"), (2, "png"))
    )
    with pytest.raises(DatasetError, match="differ in their suffix only"):
        convert(AnnotationSet((one, two), Categories((1,), ("x",))), tmp_path, "voc", tmp_path / "out", "link")

"""The COCO reader on real files, and on files that are absurd in every way a person has managed."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from handeye.vision.data.annotations import (
    NOT_FINITE,
    OUTSIDE,
    TOO_FAR,
    ZERO_AREA,
    AnnotationSet,
    Categories,
    annotations_from_lists,
)
from handeye.vision.data.checks import check_annotations
from handeye.vision.data.coco import ID_TWICE, NO_AREA, coco_content, read_coco, write_coco
from handeye.vision.errors import DatasetError

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.jpg", "height": 48, "width": 64},
        {"id": 3, "file_name": "deep/b.jpg", "height": 40, "width": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0.5, 0.25, 8, 4], "area": 32, "iscrowd": 1},
    ],
    "categories": [{"id": 90, "name": "last"}, {"id": 5, "name": "first"}],
}


def write(folder: Path, content: object) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def changed(*keys: str | int, value: object) -> dict[str, Any]:
    """GOOD with one value replaced."""
    content: Any = deepcopy(GOOD)
    *parents, last = keys
    target = content
    for key in parents:
        target = target[key]
    target[last] = value
    return content


def without(*keys: str | int) -> dict[str, Any]:
    content: Any = deepcopy(GOOD)
    *parents, last = keys
    target = content
    for key in parents:
        target = target[key]
    del target[last]
    return content


def test_class_ids_follow_the_order_of_the_category_ids(tmp_path):
    annotations = read_coco(write(tmp_path, GOOD))
    assert annotations.categories.names == ("first", "last")
    assert annotations.categories.category_ids == (5, 90)
    first, second = annotations.images
    assert (first.image_id, first.file_name, first.size_hw) == (7, "a.jpg", (48, 64))
    np.testing.assert_array_equal(first.boxes.class_ids, [1, 0])
    np.testing.assert_array_equal(first.boxes.xyxy, np.array([[1, 2, 11, 22], [0.5, 0.25, 8.5, 4.25]], np.float32))
    np.testing.assert_array_equal(first.boxes.is_crowd, [False, True])
    assert len(second.boxes.xyxy) == 0


def test_writing_and_reading_gives_the_same(tmp_path):
    annotations = read_coco(write(tmp_path, GOOD))
    write_coco(tmp_path / "again.json", annotations)
    again = read_coco(tmp_path / "again.json")
    assert again.categories == annotations.categories
    for one, other in zip(annotations.images, again.images, strict=True):
        assert (one.image_id, one.file_name, one.size_hw) == (other.image_id, other.file_name, other.size_hw)
        for name in ("xyxy", "class_ids", "is_crowd"):
            np.testing.assert_array_equal(getattr(one.boxes, name), getattr(other.boxes, name))
        np.testing.assert_array_equal(one.areas, other.areas)


def test_agrees_with_pycocotools_on_coco(coco_val2014):
    path = coco_val2014 / "instances_val2014_100.json"
    annotations, other = read_coco(path), COCO(str(path))
    assert len(annotations) == len(other.imgs)
    assert annotations.categories.category_ids == tuple(sorted(other.getCatIds()))
    for image in annotations.images:
        expected = other.loadAnns(other.getAnnIds(imgIds=[image.image_id]))
        boxes_xywh = np.array([entry["bbox"] for entry in expected], np.float64).reshape(-1, 4)
        boxes_xywh[:, 2:] += boxes_xywh[:, :2]
        np.testing.assert_allclose(image.boxes.xyxy, boxes_xywh, rtol=1e-6)
        categories = [annotations.categories.category_ids[class_id] for class_id in image.boxes.class_ids]
        assert categories == [entry["category_id"] for entry in expected]
        assert image.boxes.is_crowd.tolist() == [bool(entry["iscrowd"]) for entry in expected]


def test_boxes_without_area_are_left_out_and_counted(sample):
    """BCCD has one in train and one in val; the shipped part of it holds both."""
    train = read_coco(sample("bccd/coco_json/instances_train.json"))
    assert train.dropped == {ZERO_AREA: 1}
    assert train.num_boxes() == 58
    np.testing.assert_array_equal(train.boxes_per_class(), [51, 3, 4])


@pytest.mark.slow
def test_the_whole_of_bccd_is_counted(shared):
    """As its provenance says."""
    train = read_coco(shared("data/bccd/coco_json/instances_train.json"))
    assert train.dropped == {ZERO_AREA: 1}
    assert train.num_boxes() == 2804
    np.testing.assert_array_equal(train.boxes_per_class(), [2381, 214, 209])


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([1, 2, 0, 5], ZERO_AREA),
        ([1, 2, 5, -1], ZERO_AREA),
        ([1e7, 2, 1e-3, 5], ZERO_AREA),
        ([1e9, 2, 5, 5], TOO_FAR),
        ([1, 2, 2**24, 5], TOO_FAR),
        ([float("nan"), 2, 5, 5], NOT_FINITE),
        ([1, 2, float("inf"), 5], NOT_FINITE),
        ([64, 0, 5, 5], OUTSIDE),
        ([-10, 0, 5, 5], OUTSIDE),
    ],
)
def test_single_boxes_that_are_none_are_counted_by_reason(tmp_path, box, reason):
    annotations = read_coco(write(tmp_path, changed("annotations", 0, "bbox", value=box)))
    assert annotations.dropped == {reason: 1}
    np.testing.assert_array_equal(annotations.images[0].boxes.class_ids, [0])


def test_a_box_over_the_edge_stays(tmp_path):
    annotations = read_coco(write(tmp_path, changed("annotations", 0, "bbox", value=[-5, -5, 10, 10])))
    np.testing.assert_array_equal(annotations.images[0].boxes.xyxy[0], [-5, -5, 5, 5])


ABSURD = {
    "a list instead of an object": ([], "expected a JSON object"),
    "no images": (without("images"), "no list images"),
    "no annotations": (without("annotations"), "no list annotations"),
    "categories that are no list": (changed("categories", value={}), "no list categories"),
    "an empty list of images": (changed("images", value=[]), "no images"),
    "an empty list of categories": (changed("categories", value=[]), "no categories"),
    "an image without a name": (without("images", 0, "file_name"), "images[0]: no 'file_name'"),
    "a size that nobody knows": (without("images", 1, "width"), "images[1]: states no size, and the image cannot"),
    "an image of no pixels": (
        changed("images", 0, "height", value=0),
        "images[0]: states no size, and the image cannot",
    ),
    "an image id of no text": (changed("images", 0, "id", value=" "), "expected a whole number, got ' '"),
    "an image id used twice": (changed("images", 1, "id", value=7), "is used twice"),
    "a file name used twice": (changed("images", 1, "file_name", value="a.jpg"), "is used twice"),
    "a file name that climbs out": (changed("images", 0, "file_name", value="../../x.jpg"), "below the image folder"),
    "an absolute file name": (changed("images", 0, "file_name", value="/etc/x.jpg"), "below the image folder"),
    "an empty file name": (changed("images", 0, "file_name", value=""), "below the image folder"),
    "an unknown image": (changed("annotations", 0, "image_id", value=8), "not listed: image_id 8"),
    "an unknown category": (changed("annotations", 0, "category_id", value=1), "category_id 1 is not listed"),
    "a box of three numbers": (changed("annotations", 0, "bbox", value=[1, 2, 3]), "[x, y, width, height]"),
    "a box of text": (changed("annotations", 0, "bbox", value=["1", 2, 3, 4]), "expected a number, got '1'"),
    "a box of nothing": (changed("annotations", 0, "bbox", value=None), "[x, y, width, height]"),
    "an annotation without a box": (without("annotations", 1, "bbox"), "annotations[1]: no 'bbox'"),
    "an annotation that is a number": (changed("annotations", 0, value=4), "expected an object, got int"),
    "a category without a name": (without("categories", 0, "name"), "categories[0]: no 'name'"),
    "a category id used twice": (changed("categories", 1, "id", value=90), "category id 90 is used twice"),
    "a category id of NaN": (changed("categories", 1, "id", value=float("nan")), "expected a whole number"),
    "an infinite image size": (changed("images", 0, "width", value=float("inf")), "expected a whole number"),
    "a category without a word": (changed("categories", 0, "name", value=None), "the name of a class, got None"),
    "a class name used twice": (
        changed("categories", value=[{"id": 0, "name": "a", "supercategory": "none"}, {"id": 1, "name": "a"}]),
        "categories[1]: the class name 'a' is used twice (ids 0 and 1)",
    ),
    "an area of text": (changed("annotations", 0, "area", value="5"), "expected a number, got '5'"),
    "a crowd flag of text": (changed("annotations", 0, "iscrowd", value="no"), "expected a whole number"),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_files_are_rejected_by_name(tmp_path, case):
    content, message = ABSURD[case]
    with pytest.raises(DatasetError) as caught:
        read_coco(write(tmp_path, content))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"images": [', "\x00", "[" * 100_000])
def test_files_that_are_no_json_are_rejected(tmp_path, text):
    path = tmp_path / "cut.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_coco(path)


def test_a_missing_file_and_a_binary_one_are_rejected(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_coco(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_coco(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("box", "class_id", "message"),
    [
        ([0.0, 0.0, 0.0, 1.0], 0, "not positive"),
        ([2.0, 0.0, 1.0, 1.0], 0, "not positive"),
        ([0.0, 0.0, float("nan"), 1.0], 0, "not finite"),
        ([0.0, 0.0, 1.0, 1.0], -1, "negative class"),
    ],
)
def test_annotations_check_themselves(box, class_id, message):
    with pytest.raises(DatasetError, match=message):
        annotations_from_lists(1, "a.jpg", (10, 10), [box], [class_id])


def test_a_set_of_many_boxes_in_one_image(tmp_path):
    corners = np.random.default_rng(0).uniform(0, 30, (20_000, 2))
    boxes = np.concatenate([corners, corners + 1], axis=1)
    image = annotations_from_lists(1, "a.jpg", (40, 40), boxes, [0] * len(boxes))
    write_coco(tmp_path / "many.json", AnnotationSet((image,), Categories((1,), ("one",))))
    assert read_coco(tmp_path / "many.json").num_boxes() == 20_000


@pytest.mark.parametrize(("value", "is_crowd"), [(False, False), (True, True), (None, False), (0, False), (1.0, True)])
def test_a_crowd_flag_may_be_a_flag_or_null(tmp_path, value, is_crowd):
    (image, *_) = read_coco(write(tmp_path, changed("annotations", 0, "iscrowd", value=value))).images
    assert image.boxes.is_crowd[0] == is_crowd


@pytest.mark.parametrize("area", [None, float("nan"), float("inf"), -4.0])
def test_an_area_that_is_none_is_that_of_the_box(tmp_path, area):
    box = [1.1, 2.3, 7.7, 9.9]
    content = changed("annotations", 0, "bbox", value=box)
    content["annotations"][0]["area"] = area
    annotations = read_coco(write(tmp_path, content))
    image = next(each for each in annotations.images if each.image_id == content["annotations"][0]["image_id"])
    assert image.areas[0] == box[2] * box[3]
    assert [remark.kind for remark in annotations.remarks] == ([] if area is None else [NO_AREA])


def test_every_digit_of_a_box_and_an_area_is_kept(tmp_path):
    """COCO's evaluation compares them in double precision: 0.1 + 0.2 - 0.1 is not 0.2."""
    content = changed("annotations", 0, "bbox", value=[0.1, 0.3, 0.2, 1 / 3])
    content["annotations"][0]["area"] = 1023.9999999999
    annotations = read_coco(write(tmp_path, content))
    written = coco_content(annotations)["annotations"]
    assert isinstance(written, list)
    assert (written[0]["bbox"], written[0]["area"]) == ([0.1, 0.3, 0.2, 1 / 3], 1023.9999999999)


@pytest.mark.parametrize("size", [{}, {"width": -1, "height": -1}, {"width": None, "height": 0}])
def test_a_size_that_is_not_stated_is_that_of_the_image(tmp_path, size):
    for entry in GOOD["images"]:
        (tmp_path / "pictures" / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "pictures" / entry["file_name"]), np.zeros((48, 64, 3), np.uint8))
    content = json.loads(json.dumps(GOOD))
    content["images"] = [{"id": entry["id"], "file_name": entry["file_name"], **size} for entry in GOOD["images"]]
    annotations = read_coco(write(tmp_path, content), tmp_path / "pictures")
    assert {image.size_hw for image in annotations.images} == {(48, 64)}
    with pytest.raises(DatasetError, match=r"no images: .*images\[0\]: states no size, .*images\[1\]: states no size"):
        read_coco(write(tmp_path, content), tmp_path / "elsewhere", skip_broken=True)


def test_image_ids_may_be_texts(tmp_path):
    content = json.loads(json.dumps(GOOD))
    names = {entry["id"]: f"img_{entry['id']}" for entry in GOOD["images"]}
    first = GOOD["images"][0]["id"]
    names[first] = str(first)
    for entry in content["images"]:
        entry["id"] = names[entry["id"]]
    for entry in content["annotations"]:
        entry["image_id"] = names[entry["image_id"]]
    expected, got = read_coco(write(tmp_path, GOOD)), read_coco(write(tmp_path, content))
    assert got.images[0].image_id == first, "a text of digits is its number"
    assert len({image.image_id for image in got.images}) == len(expected)
    for one, other in zip(expected.images, got.images, strict=True):
        np.testing.assert_array_equal(one.boxes.xyxy, other.boxes.xyxy)


def test_annotation_ids_given_twice_are_found_and_cost_nothing(tmp_path):
    content = json.loads(json.dumps(GOOD))
    for entry in content["annotations"]:
        entry["id"] = 0
    annotations = read_coco(write(tmp_path, content))
    assert annotations.num_boxes() == read_coco(write(tmp_path, GOOD)).num_boxes()
    findings = check_annotations(annotations)
    assert [finding.kind for finding in findings] == [ID_TWICE] * (len(content["annotations"]) - 1)
    assert "annotations[1]: id 0" in findings[0].item

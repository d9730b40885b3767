"""`handeye check-dataset`: exit codes, the JSON result and the report in pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.tools.command_line import run_command
from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.coco import write_coco
from handeye.vision.data.formats import convert
from tests.vision.data.drawn_images import draw_set


def check(file: Path, images: Path, *words: str) -> tuple[int, dict]:
    result = file.parent / "result.json"
    code = run_command(["check-dataset", str(file), "--images", str(images), "--json", str(result), *words])
    return code, json.loads(result.read_text()) if result.exists() else {}


def test_a_clean_set_is_clean(tmp_path):
    annotations, images = draw_set(tmp_path)
    write_coco(tmp_path / "a.json", annotations)
    code, result = check(tmp_path / "a.json", images)
    assert code == 0
    assert (result["images"], result["usable_images"], result["boxes"]) == (3, 3, 3)
    assert result["boxes_of_class"] == {"one": 2, "two": 1}
    assert (result["problems"], result["anchors"]) == ({}, None)


def test_leaks_and_boxes_are_told_and_drawn(tmp_path):
    annotations, images = draw_set(tmp_path)
    first = annotations.images[0]
    first = replace(first, boxes=first.boxes.moved(np.array([[5, 5, 90, 30]], np.float32)))
    write_coco(tmp_path / "a.json", AnnotationSet((first, *annotations.images[1:]), annotations.categories))
    write_coco(tmp_path / "b.json", AnnotationSet(annotations.images[2:], annotations.categories))
    words = ("--against", str(tmp_path / "b.json"), "--output", str(tmp_path / "report"))
    code, result = check(tmp_path / "a.json", images, *words)
    assert code == 1
    assert result["problems"] == {"box over the image's edge": 1, "image that is in another split too": 1}
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "2.png looks like 2.png" in page
    assert all(f'src="{name}"' in page for name in ("overview.png", "examples/00.png"))
    assert cv2.imread(str(tmp_path / "report/overview.png")).shape[1] == 1200
    drawn = cv2.imread(str(tmp_path / "report/examples/00.png"))
    assert drawn.shape == (40, 50, 3)
    assert (drawn == (0, 0, 255)).all(axis=-1).any()


def test_names_cannot_write_into_the_page(tmp_path):
    annotations, images = draw_set(tmp_path, classes=("<script>alert(1)</script>", "b"))
    write_coco(tmp_path / "a.json", annotations)
    assert check(tmp_path / "a.json", images, "--output", str(tmp_path / "report"))[0] == 0
    assert "<script>" not in (tmp_path / "report/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file, images: file.write_text("{"), "not valid JSON"),
        (lambda file, images: [path.unlink() for path in images.iterdir()], "none of its 3 images can be used"),
        (lambda file, images: [images.rename(images.with_name("moved"))], "is not a folder of images"),
    ],
)
def test_what_cannot_be_used_at_all_is_exit_code_2(tmp_path, capfd, spoil, message):
    annotations, images = draw_set(tmp_path)
    write_coco(tmp_path / "a.json", annotations)
    spoil(tmp_path / "a.json", images)
    assert check(tmp_path / "a.json", images)[0] == 2
    told = capfd.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1


def test_a_set_without_a_box_is_not_in_order(tmp_path):
    annotations, images = draw_set(tmp_path)
    empty = tuple(replace(image, boxes=image.boxes[:0], areas=image.areas[:0]) for image in annotations.images)
    write_coco(tmp_path / "a.json", AnnotationSet(empty, annotations.categories))
    code, result = check(tmp_path / "a.json", images)
    assert (code, result["problems"]) == (1, {"set without a box": 1})


def test_the_splits_of_one_data_yaml_are_compared(tmp_path, capfd):
    annotations, images = draw_set(tmp_path)
    for split, numbers in (("train", (0, 1)), ("valid", (1, 2))):
        chosen = AnnotationSet(tuple(annotations.images[number] for number in numbers), annotations.categories)
        convert(chosen, images, "yolo", tmp_path / split, "copy")
    file = tmp_path / "data.yaml"
    file.write_text("train: train/images\nval: valid/images\nnames: [one, two]\n", encoding="utf-8")
    words = ["check-dataset", str(file), "--json", str(tmp_path / "r.json")]
    assert run_command(words) == 0
    assert run_command([*words, "--against", str(tmp_path)]) == 1
    findings = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert [finding["item"] for finding in findings] == [f"1.png looks like 1.png of {tmp_path} (val)"]
    capfd.readouterr()
    file.write_text("train: train/images\nnames: [one, two]\n", encoding="utf-8")
    assert run_command([*words, "--against", str(file)]) == 2
    assert "no split other than 'train'" in capfd.readouterr().err


def test_a_class_that_only_the_other_split_has_is_told(tmp_path):
    annotations, images = draw_set(tmp_path)
    write_coco(tmp_path / "a.json", AnnotationSet(annotations.images[:1], annotations.categories))
    others = AnnotationSet(annotations.images[1:], replace(annotations.categories, names=("one", "three")))
    write_coco(tmp_path / "b.json", others)
    code, result = check(tmp_path / "a.json", images, "--against", str(tmp_path / "b.json"))
    count = sum(int((image.boxes.class_ids == 1).sum()) for image in others.images)
    assert code == 1
    assert result["findings"] == [
        {"kind": "class that this split lacks", "item": f"three: {count} boxes in {tmp_path / 'b.json'}"}
    ]


def test_a_category_that_only_groups_others_is_told(tmp_path):
    annotations, images = draw_set(tmp_path)
    path = tmp_path / "a.json"
    write_coco(path, annotations)
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["supercategory"] = "blocks"
    content["categories"].append({"id": 0, "name": "blocks", "supercategory": "none"})
    path.write_text(json.dumps(content))
    code, result = check(path, images)
    assert (code, result["problems"]) == (
        1,
        {"parent category without a box, which becomes a class of the detector all the same": 1},
    )
    content["annotations"][0]["category_id"] = 0
    path.write_text(json.dumps(content))
    assert check(path, images)[0] == 0

"""COCO metrics: the published figures, pycocotools as second opinion, limits and mistakes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from handeye.vision.checkpoints.coco_names import COCO_NAMES_BY_CATEGORY_ID, UNUSED_CATEGORY_IDS
from handeye.vision.data.coco import parse_coco
from handeye.vision.data.formats import IMAGES_NAME, Format, convert
from handeye.vision.errors import DatasetError
from handeye.vision.evaluation.average_precision import GroundTruth, evaluate_boxes, evaluate_rows
from handeye.vision.runtime.detections import Detections

SUMMARY = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def annotations_of(boxes: dict[int, list[tuple[float, float, float, float, int]]], num_classes: int = 2) -> dict:
    """COCO content with boxes (x, y, width, height, category_id) per image; categories are 10, 20, ..."""
    rows = [(image_id, box) for image_id, rows in boxes.items() for box in rows]
    return {
        "images": [{"id": image_id, "width": 640, "height": 480, "file_name": f"{image_id}.jpg"} for image_id in boxes],
        "categories": [{"id": 10 * (k + 1), "name": f"class {k}"} for k in range(num_classes)],
        "annotations": [
            {"id": number + 1, "image_id": image_id, "category_id": box[4], "bbox": list(box[:4])}
            for number, (image_id, box) in enumerate(rows)
        ],
    }


def truth_of(content: dict, image_ids: list[int] | None = None) -> GroundTruth:
    return GroundTruth(parse_coco(content, Path("a.json"), Path()), "a.json", image_ids)


def detections_of(rows: list[tuple[float, float, float, float, float, int]], num_classes: int = 2) -> Detections:
    """Rows of x, y, width, height, score, class_id."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1).astype(np.float32)
    names = tuple(f"class {k}" for k in range(num_classes))
    return Detections(boxes, table[:, 4].astype(np.float32), table[:, 5].astype(np.int64), names)


def pycocotools_summary(content: dict, results: np.ndarray) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(figure) for figure in evaluation.stats]


def test_published_figures_of_cocoapi_are_reproduced(coco_val2014: Path):
    content = json.loads((coco_val2014 / "instances_val2014_100.json").read_text())
    results = json.loads((coco_val2014 / "instances_val2014_fakebbox100_results.json").read_text())
    rows = [[row["image_id"], *row["bbox"], row["score"], row["category_id"]] for row in results]
    metrics = evaluate_rows(truth_of(content), np.array(rows, np.float64))
    expected = [
        *(0.5045806987, 0.6969727247, 0.5729816670, 0.5856257209, 0.5193996948, 0.5013978986),
        *(0.3868127796, 0.5936795763, 0.5953529829, 0.6398109626, 0.5664205979, 0.5642905983),
    ]
    assert list(metrics.summary()) == SUMMARY
    np.testing.assert_allclose(list(metrics.summary().values()), expected, atol=5e-10)
    annotated = [value for value in metrics.AP_of_class.values() if value >= 0]
    assert np.mean(annotated) == pytest.approx(metrics.AP, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_agree_with_pycocotools(seed):
    rng = np.random.default_rng(seed)
    content = annotations_of({image_id: random_boxes(rng) for image_id in range(1, 9)}, num_classes=3)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.1)
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * rng.uniform(0.6, 1.0)
    found = {image_id: noisy_detections(rng, content, image_id) for image_id in range(1, 9)}
    rows = [
        [image_id, *box[:2], *(box[2:] - box[:2]), score, 10 * (class_id + 1)]
        for image_id, some in found.items()
        for box, score, class_id in zip(some.boxes_xyxy.astype(np.float64), some.scores, some.class_ids, strict=True)
    ]
    metrics = evaluate_boxes(truth_of(content), found)
    np.testing.assert_allclose(
        list(metrics.summary().values()), pycocotools_summary(content, np.array(rows)), atol=1e-12
    )


def random_boxes(rng: np.random.Generator) -> list[tuple[float, float, float, float, int]]:
    sides = rng.uniform(8, 200, (rng.integers(0, 9), 2))
    corners = rng.uniform(0, 300, sides.shape)
    return [
        (*map(float, corner), *map(float, side), int(rng.integers(1, 4)) * 10)
        for corner, side in zip(corners, sides, strict=True)
    ]


def noisy_detections(rng: np.random.Generator, content: dict, image_id: int) -> Detections:
    """Every annotation about six times with growing noise and tied scores, and more than 100 false boxes in image 1."""
    rows = []
    for annotation in content["annotations"]:
        if annotation["image_id"] == image_id:
            for noise in (0, 2, 4, 8, 16, 32):
                x, y, w, h = np.array(annotation["bbox"]) + rng.normal(0, noise, 4)
                rows.append((x, y, max(w, 1), max(h, 1), round(rng.random(), 1), annotation["category_id"] // 10 - 1))
    for _ in range(120 if image_id == 1 else 3):
        rows.append((*rng.uniform(0, 300, 2), *rng.uniform(5, 90, 2), rng.random(), int(rng.integers(0, 3))))
    return detections_of(rows, num_classes=3)


def test_perfect_detections_reach_one_and_no_detections_zero():
    content = annotations_of({1: [(10, 10, 50, 50, 10), (100, 80, 200, 150, 20)], 2: []})
    perfect = {1: detections_of([(10, 10, 50, 50, 0.9, 0), (100, 80, 200, 150, 0.8, 1)]), 2: detections_of([])}
    metrics = evaluate_boxes(truth_of(content), perfect)
    assert metrics.AP == metrics.AP75 == metrics.APm == metrics.APl == 1.0
    assert metrics.APs == -1.0
    assert (metrics.value("APs"), metrics.value("AP")) == (None, 1.0)
    assert evaluate_boxes(truth_of(content), {}).AP == 0.0
    assert evaluate_boxes(truth_of(content), {}).AP_of_class == {"class 0": 0.0, "class 1": 0.0}


def test_area_and_crowd_may_be_missing_and_only_chosen_images_count():
    content = annotations_of({1: [(10, 10, 50, 50, 10)], 2: [(10, 10, 50, 50, 10)]})
    found = {1: detections_of([(10, 10, 50, 50, 0.9, 0)])}
    assert evaluate_boxes(truth_of(content), found).AR100 == 0.5
    assert evaluate_boxes(truth_of(content, [1]), found).AR100 == 1.0


def test_classes_are_matched_by_name_not_by_position():
    content = annotations_of({1: [(10, 10, 50, 50, 20)]})
    boxes = np.array([[10, 10, 60, 60], [200, 200, 230, 230]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.95], np.float32), np.array([2, 1]), ("class 0", "zebra", "class 1"))
    metrics = evaluate_boxes(truth_of(content), {1: found})
    assert metrics.AP == 1.0, "the zebra is no class of the file and must not count as a false positive"


def test_anonymous_classes_are_matched_by_the_order_of_category_ids():
    truth = truth_of(annotations_of({1: [(10, 10, 50, 50, 20)]}))
    assert truth.category_of_class(("0", "1")) == {0: 10, 1: 20}
    assert truth.category_of_class(("class 0", "class one")) == {0: 10, 1: 20}, "a synonym keeps its place"
    with pytest.raises(DatasetError, match="class 1"):
        truth.category_of_class(("one", "class 0"))


def test_mistakes_are_reported_with_the_name_at_fault(tmp_path: Path):
    content = annotations_of({1: [(10, 10, 50, 50, 10)]})
    with pytest.raises(DatasetError, match="absent.json"):
        GroundTruth.read(tmp_path / "absent.json")
    with pytest.raises(DatasetError, match="categories"):
        truth_of({"images": [], "annotations": []})
    with pytest.raises(DatasetError, match="image 7"):
        evaluate_boxes(truth_of(content), {7: detections_of([])})
    with pytest.raises(DatasetError, match="class 0"):
        truth_of(content).category_of_class(("zebra", "horse", "cow"))
    content["annotations"][0]["category_id"] = 99
    with pytest.raises(DatasetError, match="99"):
        truth_of(content)


def test_a_model_whose_classes_are_category_ids_is_matched_by_name():
    """DETR's 91 classes: index k is COCO's category k, and eleven of them name nothing that the file knows."""
    categories = [
        {"id": number, "name": name}
        for number, name in enumerate(COCO_NAMES_BY_CATEGORY_ID)
        if number not in UNUSED_CATEGORY_IDS
    ]
    annotation = {"id": 1, "image_id": 1, "category_id": 90, "bbox": [10, 10, 20, 30]}
    image = {"id": 1, "width": 64, "height": 64, "file_name": "1.jpg"}
    truth = truth_of({"images": [image], "categories": categories, "annotations": [annotation]})
    assert truth.category_of_class(COCO_NAMES_BY_CATEGORY_ID) == {
        category["id"]: category["id"] for category in categories
    }
    boxes = np.array([[10, 10, 30, 40]] * 2, np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([12, 90]), COCO_NAMES_BY_CATEGORY_ID)
    assert pytest.approx(1) == evaluate_boxes(truth, {1: found}).AP, "class 12 is left out, class 90 is the toothbrush"


@pytest.mark.parametrize("numbering", ["merged", "per image", "all zero", "none"])
def test_annotation_ids_do_not_change_the_figure(numbering):
    """Two halves joined, ids that restart in every image, none at all: faster-coco-eval would lose all but the last."""
    rng = np.random.default_rng(7)
    content = annotations_of({image_id: random_boxes(rng) for image_id in range(1, 9)}, num_classes=3)
    found = {image_id: noisy_detections(rng, content, image_id) for image_id in range(1, 9)}
    expected = evaluate_boxes(truth_of(content), found)
    counted = {image_id: 0 for image_id in range(1, 9)}
    for position, entry in enumerate(content["annotations"]):
        counted[entry["image_id"]] += 1
        half = len(content["annotations"]) // 2
        ids = {"merged": position % half, "per image": counted[entry["image_id"]], "all zero": 0}
        entry.pop("id")
        entry |= {"id": ids[numbering]} if numbering in ids else {}
    assert evaluate_boxes(truth_of(content), found) == expected
    assert expected.AP > 0.1


def test_a_set_reads_the_same_in_every_format(tmp_path: Path):
    content = annotations_of({1: [(10, 10, 50, 50, 10), (100, 80, 200, 150, 20)], 2: [(5, 5, 20, 20, 20)]})
    annotations = parse_coco(content, Path("a.json"), Path())
    for name in ("1", "2"):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.zeros((480, 640, 3), np.uint8))
    found = {1: detections_of([(12, 10, 50, 50, 0.9, 0), (100, 90, 200, 150, 0.8, 1)])}
    expected = evaluate_boxes(GroundTruth(annotations), found).summary()
    formats: tuple[Format, ...] = ("coco", "voc", "yolo")
    for kind in formats:
        convert(annotations, tmp_path, kind, tmp_path / kind, "copy")
        truth = GroundTruth.read(tmp_path / kind, tmp_path / kind / IMAGES_NAME[kind])
        assert list(truth.file_names().values()) == ["1.jpg", "2.jpg"]
        assert evaluate_boxes(truth, found).summary() == pytest.approx(expected, abs=1e-9), kind


def test_what_writers_of_files_do_changes_nothing(tmp_path: Path):
    """A byte order mark, backslashes, no ids, null for the optional fields, texts for ids of images."""
    content = annotations_of({1: [(10, 10, 50, 50, 10)], 2: [(5, 5, 20, 20, 20)]})
    found = {1: detections_of([(12, 10, 50, 50, 0.9, 0)])}
    expected = evaluate_boxes(truth_of(content), found)
    for image in content["images"]:
        image |= {"id": str(image["id"]), "file_name": f"images\\{image['file_name']}"}
    for entry in content["annotations"]:
        entry |= {"image_id": str(entry["image_id"]), "iscrowd": None, "area": None}
        entry.pop("id")
    (tmp_path / "a.json").write_text(json.dumps(content), encoding="utf-8-sig")
    truth = GroundTruth.read(tmp_path / "a.json")
    assert truth.file_names() == {1: "images/1.jpg", 2: "images/2.jpg"}
    assert evaluate_boxes(truth, found) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3, 4, 5]}, r"annotations\[0\]: bbox must be"),
        ({"bbox": ["1", 2, 3, 4]}, r"annotations\[0\]: expected a number, got '1'"),
        ({"category_id": None}, r"annotations\[0\]: expected a whole number, got None"),
        ({"image_id": 99}, r"annotations\[0\]: an annotation of an image that is not listed"),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, change: dict, message: str):
    content = annotations_of({1: [(10, 10, 50, 50, 10)]})
    content["annotations"][0] |= change
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        GroundTruth.read(tmp_path / "a.json")

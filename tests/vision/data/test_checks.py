"""What the checks find is what was planted, and perceptual hashes tell copies from images of the same kind."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.data.checks import (
    DUPLICATE,
    MISSING,
    OTHER_SIZE,
    OVER_EDGE,
    TINY,
    UNREADABLE,
    check_annotations,
    check_images,
    check_leaks,
    fit_anchors,
    hash_of,
    near_duplicates,
    sizes_by_part,
)
from handeye.vision.data.coco import read_coco
from handeye.vision.images import Preprocessing, read_image
from tests.vision.data.drawn_images import draw_set


def set_of(boxes: list[list[float]], class_ids: list[int] | None = None) -> AnnotationSet:
    image = annotations_from_lists(1, "a.png", (40, 50), boxes, class_ids or [0] * len(boxes))
    return AnnotationSet((image,), Categories((1, 2), ("one", "two")))


@pytest.mark.parametrize(
    ("boxes", "class_ids", "found"),
    [
        ([[5, 5, 20, 20]], [0], []),
        ([[5, 5, 51, 41]], [0], []),
        ([[5, 5, 52, 20]], [0], [(OVER_EDGE, 0)]),
        ([[-2, 5, 20, 20]], [0], [(OVER_EDGE, 0)]),
        ([[5, 5, 20, 20], [5, 5, 20, 20], [5, 5, 20, 20]], [0, 1, 0], [(DUPLICATE, 2)]),
        ([[5, 5, 5.5, 20]], [0], [(TINY, 0)]),
    ],
)
def test_boxes_that_look_wrong_are_found(boxes, class_ids, found):
    boxes = [[float(edge) for edge in box] for box in boxes]
    assert [(finding.kind, finding.box) for finding in check_annotations(set_of(boxes, class_ids))] == found


def test_images_that_cannot_be_used_are_found(tmp_path):
    annotations, images = draw_set(tmp_path)
    (images / "0.png").unlink()
    (images / "1.png").write_bytes(b"no image")
    cv2.imwrite(str(images / "2.png"), np.zeros((9, 9, 3), np.uint8))
    reports = check_images(annotations, images)
    assert [report.findings[0].kind for report in reports.values()] == [MISSING, UNREADABLE, OTHER_SIZE]
    assert all(report.findings[0].is_image for report in reports.values())


def test_a_copy_is_reported_whatever_its_size_and_compression(sample):
    """Blood smears resemble one another more than photos do; of the scene shown twice one is left out."""
    paths = sorted(sample("bccd/JPEGImages").glob("*.jpg"))
    paths = [path for path in paths if path.stem != "BloodImage_00038"]
    assert len(paths) == 12
    originals, copies = {}, {}
    for path in paths:
        image = read_image(path)
        small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        again = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
        originals[path.name], copies[path.name] = hash_of(image), hash_of(again)
    pairs = near_duplicates(originals, copies)
    assert {(pair.one, pair.other) for pair in pairs} == {(path.name, path.name) for path in paths}
    assert near_duplicates(originals, {}) == []


def test_an_image_without_features_has_no_hash():
    assert hash_of(np.full((50, 60, 3), 114, np.uint8)) is None


def test_bccd_has_one_scene_in_two_of_its_splits(sample):
    """BloodImage_00037 and 00038 show the same cells, a little moved (seen by eye)."""
    folder = sample("bccd/JPEGImages")
    train, val = (read_coco(sample(f"bccd/coco_json/instances_{name}.json")) for name in ("train", "val"))
    pairs = check_leaks(train, check_images(train, folder), val, check_images(val, folder))
    assert [(pair.one, pair.other) for pair in pairs] == [("BloodImage_00038.jpg", "BloodImage_00037.jpg")]


@pytest.mark.slow
def test_among_sixty_images_of_bccd_there_is_no_other_pair(shared):
    folder = shared("data/bccd/JPEGImages")
    train, val = (read_coco(shared(f"data/bccd/coco_json/instances_{name}.json")) for name in ("train", "val"))
    train, val = (
        AnnotationSet(tuple(image for image in part.images if image.file_name < "BloodImage_00060"), part.categories)
        for part in (train, val)
    )
    pairs = check_leaks(train, check_images(train, folder), val, check_images(val, folder))
    assert [(pair.one, pair.other) for pair in pairs] == [("BloodImage_00038.jpg", "BloodImage_00037.jpg")]


def test_anchors_are_in_pixels_of_the_network_input_and_sizes_in_those_of_the_image():
    sizes = [(10.0, 10.0), (10.0, 10.0), (30.0, 40.0), (48.0, 39.0)]
    annotations = set_of([[1.0, 0.0, 1 + width, height] for width, height in sizes])
    fit = fit_anchors(annotations, Preprocessing(size_hw=(80, 100)), num_anchors=3)
    assert fit is not None
    np.testing.assert_allclose(fit.sizes_wh, [[20, 20], [60, 80], [96, 78]])
    assert fit_anchors(annotations, Preprocessing(), num_anchors=4) is None
    assert sizes_by_part(annotations) == {"small": 2, "medium": 2, "large": 0}

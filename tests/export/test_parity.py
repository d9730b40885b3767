"""How far two files are apart: rows of queries in any order, boxes as they are seen, numbers that are none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from handeye.export.parity import EngineParity, _worst, boxes_of, compare, corresponding_rows
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.engines import Shape
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes, QueryRows, YoloxRows

SIZE_HW = (32, 64)
NONE = np.array([[np.nan, 1]], np.float32)
ONE_CELL = Manifest(
    class_names=("cube",), preprocessing=Preprocessing(size_hw=SIZE_HW), output=YoloxRows(strides=(64,))
)


class Fixed:
    """A session that says the same of every image."""

    engine, num_threads = "fixed", 1
    inputs: Mapping[str, Shape] = {"images": (1, 3, *SIZE_HW)}
    outputs: Mapping[str, Shape] = {"rows": (1, 1, 6)}

    def __init__(self, *row: float) -> None:
        self.rows = np.array([[row]], np.float32)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"rows": self.rows}


def parity(expected: tuple[float, ...], got: tuple[float, ...]) -> EngineParity:
    one, other = (ImageDetector(Fixed(*row), ONE_CELL) for row in (expected, got))
    return compare(one, other, [np.zeros((32, 64, 3), np.uint8)])


def test_what_lies_outside_of_the_input_does_not_count():
    found = parity((32, 16, 1e6, 1e9, 0.9, 0.8), (32, 16, 3e6, np.inf, 0.9, 0.7))
    assert found.boxes_px == 0
    assert found.worst == found.scores == pytest.approx(0.1)


def test_what_lies_inside_does():
    found = parity((32, 16, 20, 10, 0.9, 0.9), (33, 16, 20, 10, 0.9, 0.9))
    assert (found.boxes_px, found.detections_px, found.unmatched) == (1.0, 1.0, 0)
    assert found.worst == 1 / 64


def test_detections_without_a_partner_are_counted_on_both_sides():
    assert parity((20, 16, 10, 10, 0.9, 0.9), (50, 16, 10, 10, 0.9, 0.9)).unmatched == 2


def test_a_number_that_is_none_on_one_side_is_not_overlooked():
    assert parity((32, 16, 20, 10, 0.1, 0.1), (np.nan, 16, 20, 10, 0.1, 0.1)).boxes_px == np.inf
    assert _worst(NONE, NONE.copy()) == 0


def test_boxes_of_every_layout_are_corners_in_the_input():
    corners = [16, 8, 48, 24]
    middle = [32, 16, 32, 16]
    undecoded = [0.5, 0.25, np.log(0.5), np.log(0.25)]
    for layout, numbers in (
        (YoloxRows(), middle),
        (YoloxRows(decoded=False, strides=(64,)), undecoded),
        (QueryRows(classes_per_query="one"), [0.5, 0.5, 0.5, 0.5]),
        (PostprocessedBoxes(), corners),
    ):
        rows = np.array([[*numbers, 0.9, 0]], np.float32)
        np.testing.assert_allclose(boxes_of(rows, layout, SIZE_HW), [corners], rtol=1e-6)


def test_rows_are_matched_whatever_their_order():
    rng = np.random.default_rng(0)
    rows = rng.random((40, 7)).astype(np.float32)
    rows[7] = rows[3]
    order = rng.permutation(40)
    noisy = (rows + rng.normal(0, 1e-6, rows.shape)).astype(np.float32)[order]
    np.testing.assert_allclose(noisy[corresponding_rows(rows, noisy)], rows, atol=1e-5)


def test_a_row_that_is_missing_is_not_made_up_for_by_its_double():
    rows = np.array([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]], np.float32)
    doubled = rows[[0, 0, 2]]
    assert np.abs(doubled[corresponding_rows(rows, doubled)] - rows).max() == pytest.approx(0.4)

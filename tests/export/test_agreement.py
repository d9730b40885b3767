"""Pairing of detections: zero for the same, symmetric, blind to the order, and no detection is taken twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.export.agreement import Agreement, Tolerance, compare_detections
from handeye.vision.runtime.detections import Detections

NAMES = ("cube", "ball")


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int), NAMES)


rows = st.lists(
    st.tuples(st.floats(0, 50, width=32), st.floats(0, 50, width=32), st.floats(0, 1, width=32), st.integers(0, 1)).map(
        lambda row: (row[0], row[1], row[0] + 20, row[1] + 20, row[2], row[3])
    ),
    max_size=6,
)


@given(rows)
def test_the_same_detections_agree_in_any_order(table):
    found = detections(*table)
    assert compare_detections(found, detections(*table[::-1]), 0.0) == Agreement(matched=len(table))


@given(rows, rows)
def test_the_sides_may_be_exchanged(one, other):
    forth, back = (compare_detections(detections(*a), detections(*b), 0.3) for a, b in ((one, other), (other, one)))
    assert forth.matched == back.matched
    assert forth.matched <= min(len(one), len(other))
    assert forth.unmatched == back.unmatched


def test_distances_and_differences_are_the_worst_of_the_pairs():
    expected = detections((0, 0, 20, 20, 0.9, 0), (40, 40, 60, 60, 0.5, 1))
    got = detections((40, 41, 60, 63, 0.4, 1), (0.5, 0, 20, 20, 0.7, 0))
    found = compare_detections(expected, got, 0.3)
    assert found.overlap == pytest.approx(20 * 19 / (20 * 22 + 20 * 20 - 20 * 19))
    assert (found.boxes_px, found.unmatched, found.matched) == (3.0, 0, 2)
    assert found.scores == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("got", "unmatched"),
    [
        ([(0, 0, 20, 20, 0.9, 1)], 2),  # another class
        ([(15, 15, 35, 35, 0.9, 0)], 2),  # elsewhere
        ([], 1),
        ([(0, 0, 20, 20, 0.9, 0), (0, 0, 20, 20, 0.8, 0)], 1),  # twice
        ([(0, 0, 20, 20, 0.9, 0), (30, 30, 50, 50, 0.29, 0)], 0),  # too unsure to count
        ([(0, 0, 20, 20, 0.9, 0), (30, 30, 50, 50, 0.9, 1)], 1),  # one more
    ],
)
def test_what_only_one_side_is_sure_of_is_counted(got, unmatched):
    assert compare_detections(detections((0, 0, 20, 20, 0.9, 0)), detections(*got), 0.3).unmatched == unmatched


def test_images_add_up():
    total = Agreement(1.0, 0.1, 2, 3, 0.9, 1) + Agreement(0.5, 0.2, 1, 1, 0.8, 1)
    assert total == Agreement(1.0, 0.2, 3, 4, 0.8, 2)


@pytest.mark.parametrize(
    ("limit", "far"),
    [
        (Tolerance(boxes_px=4.0, scores=0.1), 0),
        (Tolerance(boxes_px=1.0, scores=0.1), 1),
        (Tolerance(overlap=0.85, scores=0.1), 0),
        (Tolerance(overlap=0.95, scores=0.1), 1),
        (Tolerance(overlap=0.85, scores=0.01), 1),
    ],
)
def test_a_limit_asks_for_pixels_or_for_overlap(limit: Tolerance, far: int):
    expected, got = detections((0, 0, 20, 20, 0.9, 0)), detections((0, 0, 20, 22, 0.85, 0))
    found = compare_detections(expected, got, 0.3, limit)
    assert found.far == far
    assert found.keeps_to(limit) is (far == 0)


def test_a_share_of_outliers_may_be_allowed_but_not_silence():
    limit = Tolerance(overlap=0.85, scores=0.1, outliers=0.1)
    assert Agreement(matched=19, unmatched=1, far=1).keeps_to(limit)
    assert not Agreement(matched=19, unmatched=1, far=2).keeps_to(limit)
    assert not Agreement().keeps_to(limit)

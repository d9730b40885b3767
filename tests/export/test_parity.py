"""The comparison of detections: what it counts as the same, what it does not, and limits."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity import _match, corresponding_rows
from vision.runtime.detections import Detections


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of x1, y1, x2, y2, score, class_id."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4].copy(), table[:, 4].copy(), table[:, 5].astype(np.int64), ("cube", "ball"))


ONE = (10, 10, 30, 30, 0.9, 0)


@pytest.mark.parametrize(
    ("expected", "got", "distance", "lonely"),
    [
        (found(), found(), 0.0, 0),
        (found(ONE), found(ONE), 0.0, 0),
        (found(ONE), found((10, 10, 30.25, 30, 0.8, 0)), 0.25, 0),
        (found(ONE), found(), 0.0, 1),
        (found(), found(ONE), 0.0, 1),
        (found(ONE), found((10, 10, 30, 30, 0.9, 1)), 0.0, 2),
        (found(ONE), found((50, 50, 70, 70, 0.9, 0)), 0.0, 2),
        (found(ONE, (60, 60, 80, 80, 0.9, 1)), found(ONE), 0.0, 1),
        (found(ONE, (60, 60, 80, 80, 0.305, 1)), found(ONE), 0.0, 0),
    ],
)
def test_what_counts_as_the_same(expected: Detections, got: Detections, distance: float, lonely: int):
    assert _match(expected, got, sure_score=0.31) == (pytest.approx(distance), lonely)


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

"""Statistics: there and back, and every kind that is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from handeye.robot.learning.act_policy import Normalizer, Statistics
from handeye.vision.errors import DatasetError, UserError

NAMES = ("q1", "q2")


def measured(values: list[list[float]]) -> Statistics:
    return Statistics.measure("state", np.array(values), NAMES)


def fitted(values: list[list[float]], floor: float = 0.01) -> Normalizer:
    normalizer = Normalizer("state", NAMES)
    normalizer.take(measured(values), floor)
    return normalizer


def test_what_was_measured_becomes_zero_and_one() -> None:
    values = np.random.default_rng(0).normal(3, 5, (500, 2))
    normalizer = fitted(values.tolist())
    normal = normalizer(torch.from_numpy(values).float())
    torch.testing.assert_close(normal.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(0, correction=0), torch.ones(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalizer.invert(normal), torch.from_numpy(values).float(), atol=1e-4, rtol=1e-5)


def test_small_deviations_are_raised_to_the_floor() -> None:
    normalizer = fitted([[1.0, 2.0], [1.0, 4.0]], floor=0.01)
    assert normalizer.std.tolist() == pytest.approx([0.01, 1.0])


def test_a_number_that_never_changes_is_refused_without_a_floor() -> None:
    with pytest.raises(DatasetError, match="state: q1 never changes"):
        fitted([[1.0, 2.0], [1.0, 4.0]], floor=0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    with pytest.raises(DatasetError, match="state: 1 values are not finite, first q2 = .* in frame 1"):
        measured([[1.0, 2.0], [1.0, bad]])


def test_no_frames_are_refused() -> None:
    with pytest.raises(DatasetError, match="no frames"):
        Statistics.measure("state", np.zeros((0, 2)), NAMES)


def test_statistics_of_other_numbers_are_refused() -> None:
    with pytest.raises(DatasetError, match="those of x, y, expected q1, q2"):
        Normalizer("state", NAMES).take(Statistics.measure("state", np.eye(2), ("x", "y")))


def test_statistics_of_another_data_set_are_refused() -> None:
    one, same, other = (fitted([[0.0, 2.0], [1.0, top]]) for top in (4.0, 4.0, 5.0))
    one.require_same(same)
    with pytest.raises(UserError, match="another data set: q2 has mean and deviation 3.5, 1.5 there and 3, 1 here"):
        one.require_same(other)


@pytest.mark.parametrize(("field", "value"), [("std", 0.0), ("std", -1.0), ("std", np.nan), ("mean", np.inf)])
def test_impossible_statistics_are_refused(field: str, value: float) -> None:
    normalizer = fitted([[0.0, 2.0], [1.0, 4.0]])
    normalizer.check()
    getattr(normalizer, field)[1] = value
    with pytest.raises(DatasetError, match="q2"):
        normalizer.check()

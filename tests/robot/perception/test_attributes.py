"""Yaw on a circle, votes and running means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.perception.track_filter import Attributes, YawFilter
from handeye.robot.transforms import wrap_angle
from handeye.robot.types import ObjectPosition

QUARTER = math.pi / 2


def position(**changes) -> ObjectPosition:
    values = dict(
        p_base=np.zeros(3), covariance_base=np.eye(3), yaw_rad=None, size_m=None,
        class_id=0, class_name="red_cube", score=0.9, stamp_s=0.0,
    )  # fmt: skip
    return ObjectPosition(**(values | changes))


def new_attributes() -> Attributes:
    return Attributes(YawFilter(0.02, 1e-4))


@given(yaw=st.floats(-0.78, 0.78), seed=st.integers(0, 1000))
def test_yaw_settles_also_at_the_seam(yaw: float, seed: int):
    rng = np.random.default_rng(seed)
    yaw_filter = YawFilter(0.02, 1e-4)
    for reading in yaw + rng.normal(0, 0.02, 40) + QUARTER * rng.integers(-2, 3, 40):
        yaw_filter.predict(0.1)
        yaw_filter.update(float(reading), QUARTER)
    assert yaw_filter.mean_rad is not None
    # Where the sign flips between +45 and -45 degrees, a plain average would end near 0.
    assert abs(wrap_angle(yaw_filter.mean_rad - yaw, QUARTER)) < 0.025


def test_a_single_outlier_of_the_yaw_is_not_followed_but_a_second_is():
    yaw_filter = YawFilter(0.02, 1e-4)
    for _ in range(10):
        yaw_filter.update(0.1, QUARTER)
    yaw_filter.update(0.5, QUARTER)
    assert yaw_filter.mean_rad == pytest.approx(0.1)
    yaw_filter.update(0.5, QUARTER)
    assert yaw_filter.mean_rad == pytest.approx(0.5, abs=0.01)


def test_an_elongated_object_keeps_the_direction_of_its_length():
    attributes = new_attributes()
    for _ in range(3):
        attributes.add(position(yaw_rad=1.2, size_m=np.array([0.08, 0.04, 0.03])))
    assert attributes.yaw.mean_rad == pytest.approx(1.2)


def test_class_is_the_vote_weighted_by_score_not_the_last_word():
    attributes = new_attributes()
    for class_id, name, score in [(0, "red_cube", 0.9), (3, "yellow_cube", 0.5), (0, "red_cube", 0.8)]:
        attributes.add(position(class_id=class_id, class_name=name, score=score))
    attributes.add(position(class_id=3, class_name="yellow_cube", score=0.9))
    assert (attributes.class_id, attributes.class_name) == (0, "red_cube")
    for _ in range(4):
        attributes.add(position(class_id=3, class_name="yellow_cube", score=0.9))
    assert attributes.class_name == "yellow_cube"


def test_size_is_the_mean_of_the_first_and_missing_sizes_do_not_count():
    attributes = new_attributes()
    for edge in (0.040, None, 0.044):
        attributes.add(position(size_m=None if edge is None else np.full(3, edge)))
    np.testing.assert_allclose(attributes.size_m, 0.042)

"""Joint limits: refused when they would let anything through."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.kinematics.limits import UR10E_LIMITS, JointLimits
from handeye.vision.errors import ConfigError

joint_angles = arrays(np.float64, 6, elements=st.floats(-10.0, 10.0))


def changed(name: str, joint: int, value: float) -> dict[str, np.ndarray]:
    fields = {field.name: getattr(UR10E_LIMITS, field.name).copy() for field in dataclasses.fields(JointLimits)}
    fields[name][joint] = value
    return fields


@pytest.mark.parametrize("name", ["qpos_low", "qpos_high", "qvel_max", "qacc_max", "qjerk_max"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_limits_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        JointLimits(**changed(name, 3, value))


@pytest.mark.parametrize("name", ["qvel_max", "qacc_max", "qjerk_max"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_rates_must_be_above_zero(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*above 0"):
        JointLimits(**changed(name, 0, value))


@pytest.mark.parametrize("low", [3.0, 2 * np.pi])
def test_positions_must_be_in_order(low: float) -> None:
    fields = changed("qpos_low", 2, low)
    with pytest.raises(ConfigError, match="qpos_low"):
        JointLimits(**{**fields, "qpos_high": np.full(6, 3.0)})


def test_published_ur10e_positions_and_speeds() -> None:
    np.testing.assert_allclose(np.rad2deg(UR10E_LIMITS.qvel_max), [120, 120, 180, 180, 180, 180], atol=0.01)
    np.testing.assert_allclose(np.rad2deg(UR10E_LIMITS.qpos_high), [360, 360, 180, 360, 360, 360])
    np.testing.assert_allclose(UR10E_LIMITS.qpos_low, -UR10E_LIMITS.qpos_high)


def test_slowing_is_a_slower_clock() -> None:
    """With t' = t / f along the same path the n-th derivative scales with f^n."""
    slow = UR10E_LIMITS.slowed(0.5)
    np.testing.assert_allclose(slow.qvel_max, 0.5 * UR10E_LIMITS.qvel_max)
    np.testing.assert_allclose(slow.qacc_max, 0.25 * UR10E_LIMITS.qacc_max)
    np.testing.assert_allclose(slow.qjerk_max, 0.125 * UR10E_LIMITS.qjerk_max)
    np.testing.assert_array_equal(slow.qpos_low, UR10E_LIMITS.qpos_low)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, np.nan])
def test_slowing_needs_a_fraction(fraction: float) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        UR10E_LIMITS.slowed(fraction)


@given(joint_angles, st.floats(0.0, 0.5))
def test_inside_means_every_joint_is_a_margin_away_from_both_ends(qpos: np.ndarray, margin_rad: float) -> None:
    inside = np.clip(qpos, UR10E_LIMITS.qpos_low + margin_rad, UR10E_LIMITS.qpos_high - margin_rad)
    assert UR10E_LIMITS.contain(inside, margin_rad)
    assert UR10E_LIMITS.contain(qpos, margin_rad) == bool((inside == qpos).all())


def test_nan_is_never_inside() -> None:
    assert not UR10E_LIMITS.contain(np.array([0.0, np.nan, 0.0, 0.0, 0.0, 0.0]))

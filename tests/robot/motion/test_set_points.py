"""Between rows: exact on them, never outside them, continuous in velocity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.errors import ActionError
from handeye.robot.motion.set_points import interpolate_chunk
from handeye.robot.types import ActionChunk

ROW_S = 0.1
TICK_S = 0.008
rows_of_chunks = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(7)), elements=st.floats(-3.0, 3.0))


def chunk_of(rows: np.ndarray, stamp_s: float = 0.0) -> ActionChunk:
    return ActionChunk(rows, ROW_S, stamp_s)


def wave_chunk(stamp_s: float, phase: float, number: int = 20) -> ActionChunk:
    times = stamp_s + ROW_S * np.arange(number)
    return chunk_of(np.sin(2.0 * times[:, None] + phase + np.arange(7)), stamp_s)


@given(rows=rows_of_chunks, stamp_s=st.floats(0.0, 1e4))
def test_rows_are_met_exactly_in_spite_of_rounded_stamps(rows: np.ndarray, stamp_s: float) -> None:
    chunk = chunk_of(rows, stamp_s)
    for k, row in enumerate(rows):
        point = interpolate_chunk(chunk, stamp_s + k * ROW_S)
        np.testing.assert_allclose(point.qpos_target, row[:6], atol=1e-15)
        assert point.gripper_target_m == row[6]
        assert point.past_end_s == 0.0


@given(rows=rows_of_chunks, share=st.floats(0.0, 1.0))
def test_between_rows_nothing_leaves_the_two_rows(rows: np.ndarray, share: float) -> None:
    position = share * (len(rows) - 1)
    before, after = rows[int(np.floor(position))], rows[int(np.ceil(position))]
    point = interpolate_chunk(chunk_of(rows), position * ROW_S)
    values = np.append(point.qpos_target, point.gripper_target_m)
    assert point.gripper_target_m in (before[6], after[6])
    assert np.all(values >= np.minimum(before, after) - 1e-5)
    assert np.all(values <= np.maximum(before, after) + 1e-5)


def test_constant_speed_stays_constant() -> None:
    slope = np.arange(1.0, 8.0)
    chunk = chunk_of(ROW_S * np.arange(6)[:, None] * slope)
    for time_s in np.linspace(0.0, 0.399, 23):
        point = interpolate_chunk(chunk, float(time_s))
        np.testing.assert_allclose(point.qpos_target, time_s * slope[:6], atol=1e-12)
        np.testing.assert_allclose(point.qvel_target, slope[:6], atol=1e-12)


@given(rows_of_chunks, st.floats(0.001, 0.999))
def test_cubic_velocity_is_the_derivative(rows: np.ndarray, share: float) -> None:
    time_s, step_s = share * (len(rows) - 1) * ROW_S, 1e-7
    if len(rows) == 1 or abs(time_s / ROW_S - round(time_s / ROW_S)) < 1e-4:
        return
    chunk = chunk_of(rows)
    ahead, behind = (interpolate_chunk(chunk, time_s + sign * step_s).qpos_target for sign in (1, -1))
    here = interpolate_chunk(chunk, time_s)
    np.testing.assert_allclose(here.qvel_target, (ahead - behind) / (2 * step_s), atol=2e-3)


@given(rows_of_chunks)
def test_cubic_velocity_is_continuous_at_rows_and_into_the_final_hold(rows: np.ndarray) -> None:
    chunk = chunk_of(rows)
    for k in range(1, len(rows)):
        before = interpolate_chunk(chunk, k * ROW_S - 1e-6)
        after = interpolate_chunk(chunk, k * ROW_S + 1e-6)
        np.testing.assert_allclose(before.qvel_target, after.qvel_target, atol=0.05)
        np.testing.assert_allclose(before.qpos_target, after.qpos_target, atol=1e-3)


def test_when_the_chunk_runs_out_the_last_row_is_held() -> None:
    chunk = wave_chunk(5.0, 0.0, number=3)
    for late_s in (1e-3, 1.0, 1e6):
        point = interpolate_chunk(chunk, 5.0 + 2 * ROW_S + late_s)
        np.testing.assert_array_equal(point.qpos_target, chunk.actions[-1, :6])
        np.testing.assert_array_equal(point.qvel_target, 0.0)
        assert point.past_end_s == pytest.approx(late_s)
    early = interpolate_chunk(chunk, 4.0)
    np.testing.assert_array_equal(early.qpos_target, chunk.actions[0, :6])
    assert early.past_end_s == 0.0


@pytest.mark.parametrize(
    "chunk",
    [
        ActionChunk(np.zeros((0, 7)), ROW_S, 0.0),
        ActionChunk(np.zeros((2, 7)), 0.0, 0.0),
        ActionChunk(np.zeros((2, 7)), -0.1, 0.0),
        ActionChunk(np.zeros((2, 7)), float("nan"), 0.0),
    ],
)
def test_a_chunk_without_rows_or_period_is_refused(chunk: ActionChunk) -> None:
    with pytest.raises(ActionError, match="rows and a period"):
        interpolate_chunk(chunk, 0.0)

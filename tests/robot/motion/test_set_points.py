"""Between rows: exact on them, never outside them, continuous in velocity, and without jumps when chunks change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from handeye.robot.errors import ActionError
from handeye.robot.motion.set_points import ChunkFollower, Interpolation, SetPoint, interpolate_chunk
from handeye.robot.types import ActionChunk

ROW_S = 0.1
TICK_S = 0.008
BOTH = [Interpolation.LINEAR, Interpolation.CUBIC]
rows_of_chunks = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(7)), elements=st.floats(-3.0, 3.0))


def chunk_of(rows: np.ndarray, stamp_s: float = 0.0) -> ActionChunk:
    return ActionChunk(rows, ROW_S, stamp_s)


def wave_chunk(stamp_s: float, phase: float, number: int = 20) -> ActionChunk:
    times = stamp_s + ROW_S * np.arange(number)
    return chunk_of(np.sin(2.0 * times[:, None] + phase + np.arange(7)), stamp_s)


def largest_steps(points: list[SetPoint], dt_s: float) -> tuple[float, float]:
    """Largest change of position per time, and of velocity per time, from one set-point to the next."""
    qpos, qvel = np.array([point.qpos for point in points]), np.array([point.qvel for point in points])
    return float(np.abs(np.diff(qpos, axis=0)).max() / dt_s), float(np.abs(np.diff(qvel, axis=0)).max() / dt_s)


@pytest.mark.parametrize("method", BOTH)
@given(rows=rows_of_chunks, stamp_s=st.floats(0.0, 1e4))
def test_rows_are_met_exactly_in_spite_of_rounded_stamps(
    method: Interpolation, rows: np.ndarray, stamp_s: float
) -> None:
    chunk = chunk_of(rows, stamp_s)
    for k, row in enumerate(rows):
        point = interpolate_chunk(chunk, stamp_s + k * ROW_S, method)
        np.testing.assert_allclose(point.qpos, row[:6], atol=1e-15)
        assert point.gripper_m == row[6]
        assert not point.is_past_end


@pytest.mark.parametrize("method", BOTH)
@given(rows=rows_of_chunks, share=st.floats(0.0, 1.0))
def test_between_rows_nothing_leaves_the_two_rows(method: Interpolation, rows: np.ndarray, share: float) -> None:
    position = share * (len(rows) - 1)
    before, after = rows[int(np.floor(position))], rows[int(np.ceil(position))]
    point = interpolate_chunk(chunk_of(rows), position * ROW_S, method)
    values = np.append(point.qpos, point.gripper_m)
    assert np.all(values >= np.minimum(before, after) - 1e-5)
    assert np.all(values <= np.maximum(before, after) + 1e-5)


@pytest.mark.parametrize("method", BOTH)
def test_constant_speed_stays_constant(method: Interpolation) -> None:
    slope = np.arange(1.0, 8.0)
    chunk = chunk_of(ROW_S * np.arange(6)[:, None] * slope)
    for time_s in np.linspace(0.0, 0.399, 23):
        point = interpolate_chunk(chunk, float(time_s), method)
        np.testing.assert_allclose(point.qpos, time_s * slope[:6], atol=1e-12)
        np.testing.assert_allclose(point.qvel, slope[:6], atol=1e-12)


@given(rows_of_chunks, st.floats(0.001, 0.999))
def test_cubic_velocity_is_the_derivative(rows: np.ndarray, share: float) -> None:
    time_s, step_s = share * (len(rows) - 1) * ROW_S, 1e-7
    if len(rows) == 1 or abs(time_s / ROW_S - round(time_s / ROW_S)) < 1e-4:
        return
    chunk = chunk_of(rows)
    ahead, behind = (interpolate_chunk(chunk, time_s + sign * step_s, Interpolation.CUBIC).qpos for sign in (1, -1))
    here = interpolate_chunk(chunk, time_s, Interpolation.CUBIC)
    np.testing.assert_allclose(here.qvel, (ahead - behind) / (2 * step_s), atol=2e-3)


@given(rows_of_chunks)
def test_cubic_velocity_is_continuous_at_rows_and_into_the_final_hold(rows: np.ndarray) -> None:
    chunk = chunk_of(rows)
    for k in range(1, len(rows)):
        before = interpolate_chunk(chunk, k * ROW_S - 1e-6, Interpolation.CUBIC)
        after = interpolate_chunk(chunk, k * ROW_S + 1e-6, Interpolation.CUBIC)
        np.testing.assert_allclose(before.qvel, after.qvel, atol=0.05)
        np.testing.assert_allclose(before.qpos, after.qpos, atol=1e-3)


@pytest.mark.parametrize("method", BOTH)
def test_when_the_chunk_runs_out_the_last_row_is_held(method: Interpolation) -> None:
    chunk = wave_chunk(5.0, 0.0, number=3)
    for late_s in (1e-3, 1.0, 1e6):
        point = interpolate_chunk(chunk, 5.0 + 2 * ROW_S + late_s, method)
        np.testing.assert_array_equal(point.qpos, chunk.actions[-1, :6])
        np.testing.assert_array_equal(point.qvel, 0.0)
        assert point.is_past_end
    early = interpolate_chunk(chunk, 4.0, method)
    np.testing.assert_array_equal(early.qpos, chunk.actions[0, :6])
    assert not early.is_past_end


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
        interpolate_chunk(chunk, 0.0, Interpolation.CUBIC)


def test_a_new_chunk_is_faded_in_without_a_jump() -> None:
    """Chunks disagree by an offset and in speed; set-points move on without a step in position or velocity."""
    follower = ChunkFollower(Interpolation.CUBIC, blend_s=0.2)
    first = wave_chunk(0.0, 0.0)
    follower.restart(first.actions[0, :6], 0.0, 0.0)
    points = []
    for tick in range(200):
        now_s = tick * TICK_S
        if tick % 40 == 0:
            follower.follow(wave_chunk(now_s, 0.15 * (tick // 40)), now_s)
        points.append(follower.sample(now_s))
    speed, acceleration = largest_steps(points, TICK_S)
    assert speed < 6.0  # 2 of the wave, and of the fade 1.5 * offset / blend_s + the velocity it takes over
    assert acceleration < 120.0
    abrupt = ChunkFollower(Interpolation.CUBIC, blend_s=0.0)
    abrupt.follow(first, 0.0)
    before = abrupt.sample(0.32)
    abrupt.follow(wave_chunk(0.32, 0.15), 0.32)
    assert np.abs(abrupt.sample(0.32).qpos - before.qpos).max() > 0.1


@given(st.floats(0.0, 1.0), st.floats(-3.0, 3.0))
def test_at_the_change_position_and_velocity_are_those_of_before(change_s: float, phase: float) -> None:
    follower = ChunkFollower(Interpolation.CUBIC, blend_s=0.15)
    follower.follow(wave_chunk(0.0, 0.0), 0.0)
    before = follower.sample(change_s)
    follower.follow(wave_chunk(change_s, phase), change_s)
    after = follower.sample(change_s)
    np.testing.assert_allclose(after.qpos, before.qpos, atol=1e-12)
    np.testing.assert_allclose(after.qvel, before.qvel, atol=1e-12)


def test_once_faded_in_the_new_chunk_is_followed_exactly() -> None:
    follower = ChunkFollower(Interpolation.CUBIC, blend_s=0.15)
    follower.follow(wave_chunk(0.0, 0.0), 0.0)
    new = wave_chunk(0.5, 1.0)
    follower.follow(new, 0.5)
    for time_s in (0.65, 0.8, 5.0):
        np.testing.assert_array_equal(
            follower.sample(time_s).qpos, interpolate_chunk(new, time_s, Interpolation.CUBIC).qpos
        )


def test_the_same_chunk_again_changes_nothing() -> None:
    follower, chunk = ChunkFollower(Interpolation.CUBIC, blend_s=0.2), wave_chunk(0.0, 0.0)
    for tick in range(20):
        follower.follow(chunk, tick * TICK_S)
        expected = interpolate_chunk(chunk, tick * TICK_S, Interpolation.CUBIC)
        np.testing.assert_array_equal(follower.sample(tick * TICK_S).qpos, expected.qpos)


def test_restart_holds_a_place_and_forgets_the_rest() -> None:
    follower = ChunkFollower(Interpolation.CUBIC, blend_s=0.2)
    follower.follow(wave_chunk(0.0, 0.0), 0.0)
    follower.restart(np.arange(6.0), 0.03, 1.0)
    for time_s in (1.0, 1.1, 9.0):
        point = follower.sample(time_s)
        np.testing.assert_array_equal(point.qpos, np.arange(6.0))
        np.testing.assert_array_equal(point.qvel, 0.0)
        assert point.gripper_m == 0.03


def test_without_a_chunk_there_is_nothing_to_sample() -> None:
    with pytest.raises(ActionError, match="no action chunk"):
        ChunkFollower(Interpolation.LINEAR, blend_s=0.0).sample(0.0)


@pytest.mark.parametrize("blend_s", [-0.1, np.nan, np.inf])
def test_a_fade_needs_a_time(blend_s: float) -> None:
    with pytest.raises(ActionError, match="blend_s"):
        ChunkFollower(Interpolation.CUBIC, blend_s=blend_s)

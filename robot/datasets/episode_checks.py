"""Check one episode of demonstrations: numbers, clocks, frozen streams and joint limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num, Shaped

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.format import Feature
from handeye.robot.types import ACTION_KEY, STATE_KEY

NOT_FINITE, BOOKS = "number that is not finite", "wrong book-keeping"
BACKWARDS, GAP, RATE = "time that does not go on", "gap in time", "another rate"
FROZEN, SHORT = "frozen stream", "short episode"
OUT_OF_RANGE, TOO_FAST = "joint out of its range", "joint faster than it can be"
RATE_SLACK, GAP_PERIODS, SPEED_SLACK, RANGE_SLACK = 0.02, 1.5, 1.05, 1e-3
MOVED = 0.05
"""Fraction of its range in the episode by which a number must change to count as moving."""
SAME_LEVELS, SAME_PIXELS = 4, 0.999
"""Images are equal if SAME_PIXELS of them differ by at most SAME_LEVELS: video coding never repeats exactly."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """One problem in one line; of the whole data set if there is no episode."""

    kind: str
    item: str
    episode: int | None = None


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Thresholds."""

    shortest_s: float = 1.0
    """Shorter episodes are reported."""
    frozen_s: float = 1.0
    """A stream that is constant for this long while others change is reported."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Range of a number and its largest speed, None for no limit."""

    low: float
    high: float
    speed: float | None = None


def joint_bounds(cell: WorkCellConfig) -> dict[str, Bounds]:
    """Limits by the names of recorded joints, commanded joints and the gripper."""
    limits, gripper = cell.joint_limits, cell.gripper
    ranges = zip(limits.qpos_low_rad, limits.qpos_high_rad, limits.qvel_rad_s, strict=True)
    bounds: dict[str, Bounds] = {}
    for joint, (low, high, speed) in enumerate(ranges, start=1):
        bounds |= {name: Bounds(low, high, speed) for name in (f"qpos_{joint}", f"qpos_target_{joint}")}
    opening = Bounds(gripper.opening_min_m, gripper.opening_max_m)
    return bounds | {"gripper_opening_m": opening, "gripper_target_m": opening}


def number_names(key: str, feature: Feature) -> tuple[str, ...]:
    """A name for each number of a feature."""
    size = int(np.prod(feature.array_shape))
    if feature.names is not None and len(feature.names) == size:
        return feature.names
    return (key,) if size == 1 else tuple(f"{key}[{index}]" for index in range(size))


def check_finite(columns: Mapping[str, np.ndarray], features: Mapping[str, Feature]) -> Iterator[DataProblem]:
    """NaN and infinity, with the first frame of each number."""
    for key, values in columns.items():
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values.reshape(len(values), -1))
        for place in np.flatnonzero(bad.any(axis=0)):
            frames = np.flatnonzero(bad[:, place])
            name = number_names(key, features[key])[place]
            yield DataProblem(NOT_FINITE, f"{key}: {name} in {len(frames)} frames, the first is {frames[0]}")


def check_books(columns: Mapping[str, np.ndarray], index: int, begin: int) -> Iterator[DataProblem]:
    """Wrong frame counters, within the episode and within the data set from `begin` on."""
    frames = np.arange(len(columns["frame_index"]))
    for key, expected in (("frame_index", frames), ("index", begin + frames), ("episode_index", 0 * frames + index)):
        wrong = np.flatnonzero(columns[key] != expected)
        if len(wrong):
            first = wrong[0]
            yield DataProblem(BOOKS, f"{key} is {columns[key][first]} in frame {first}, expected {expected[first]}")


def check_times(columns: Mapping[str, np.ndarray], fps: int, settings: CheckSettings) -> Iterator[DataProblem]:
    """Clocks: `timestamp` and `stamp_s` advance with the frames; other `..._stamp_s`, as of a camera, may repeat."""
    for key, stamps in columns.items():
        is_row_clock = key in ("timestamp", "stamp_s")
        if not (is_row_clock or key.endswith("_stamp_s")) or len(stamps) < 2 or not np.isfinite(stamps).all():
            continue
        steps = np.diff(stamps.astype(np.float64))
        back = np.flatnonzero(steps <= 0 if is_row_clock else steps < 0)
        if len(back):
            frame = back[0] + 1
            yield DataProblem(
                BACKWARDS, f"{key}: {stamps[frame]:.3f} s in frame {frame} after {stamps[frame - 1]:.3f} s"
            )
        period_s = float(np.median(steps))
        if is_row_clock and abs(period_s * fps - 1) > RATE_SLACK:
            yield DataProblem(RATE, f"{key}: a frame every {period_s:.4f} s, but the data set has {fps} per second")
        longest_s = GAP_PERIODS * period_s if is_row_clock else settings.frozen_s
        if steps.max() > longest_s > 0:
            yield DataProblem(GAP, f"{key}: {steps.max():.3f} s pass before frame {steps.argmax() + 1}")


def check_streams(columns: Mapping[str, np.ndarray], fps: int, settings: CheckSettings) -> Iterator[DataProblem]:
    """Frozen numbers: the state while actions change, a camera's clock, actions in a whole episode."""
    frames = max(2, round(settings.frozen_s * fps))
    state, action = columns.get(STATE_KEY), columns.get(ACTION_KEY)
    for key, values in columns.items():
        if key == STATE_KEY or key.endswith("_stamp_s"):
            first, length = longest_run(_changes(values))
            others_go_on = key != STATE_KEY or (action is not None and is_moving(action, first, length))
            if length >= frames and others_go_on:
                yield DataProblem(FROZEN, f"{key}: the same in {length} frames from frame {first} on")
    if action is None or state is None or len(action) < frames:
        return
    if not _changes(action).any() and is_moving(state, 0, len(state)):
        yield DataProblem(FROZEN, f"{ACTION_KEY}: the same in all {len(action)} frames")


def check_image_stream(
    key: str,
    images: Shaped[np.ndarray, "T ..."],
    columns: Mapping[str, np.ndarray],
    fps: int,
    settings: CheckSettings,
) -> Iterator[DataProblem]:
    """A camera that repeats one image while the state changes."""
    first, length = longest_run(_new_images(images))
    state = columns.get(STATE_KEY)
    if length >= max(2, round(settings.frozen_s * fps)) and state is not None and is_moving(state, first, length):
        yield DataProblem(FROZEN, f"{key}: one image in {length} frames from frame {first} on")


def check_joints(
    key: str, values: Num[np.ndarray, "T D"], names: tuple[str, ...], bounds: Mapping[str, Bounds], fps: int
) -> Iterator[DataProblem]:
    """Joints and grippers beyond their range or speed limit."""
    for name, column in zip(names, values.T.astype(np.float64), strict=True):
        allowed = bounds.get(name)
        if allowed is None or not np.isfinite(column).all():
            continue
        beyond = np.maximum(allowed.low - column, column - allowed.high)
        if beyond.max() > RANGE_SLACK:
            frame = int(beyond.argmax())
            value = f"{column[frame]:.4g} in frame {frame}, allowed {allowed.low:.4g} to {allowed.high:.4g}"
            yield DataProblem(OUT_OF_RANGE, f"{key}: {name} is {value}")
        speeds = np.abs(np.diff(column)) * fps
        if allowed.speed is not None and len(speeds) and speeds.max() > SPEED_SLACK * allowed.speed:
            speed = f"{speeds.max():.3g} per second before frame {speeds.argmax() + 1}, allowed {allowed.speed:.3g}"
            yield DataProblem(TOO_FAST, f"{key}: {name} changes by {speed}")


def longest_run(changes: Bool[np.ndarray, " steps"]) -> tuple[int, int]:
    """First frame and number of frames of the longest stretch without a change; changes[i] is that to frame i + 1."""
    edges = np.concatenate([[-1], np.flatnonzero(changes), [len(changes)]])
    lengths = np.diff(edges)
    longest = int(lengths.argmax())
    return int(edges[longest]) + 1, int(lengths[longest])


def is_moving(values: Num[np.ndarray, "T D"], first: int, length: int) -> bool:
    """Whether a number changes in these frames by a notable fraction of its range in the episode."""
    part = np.ptp(values[first : first + length], axis=0) if length else np.zeros(values.shape[1])
    return bool((part > MOVED * np.ptp(values, axis=0)).any())


def _changes(values: Num[np.ndarray, "T ..."]) -> Bool[np.ndarray, " steps"]:
    rows = values.reshape(len(values), -1)
    return np.any(rows[1:] != rows[:-1], axis=1).reshape(-1)


def _new_images(images: Shaped[np.ndarray, "T ..."]) -> Bool[np.ndarray, " steps"]:
    """Which images, from the second on, differ from the last one that did, so that slow changes add up."""
    shown, steps = images[0], []
    for image in images[1:]:
        steps.append(_differ(shown, image))
        shown = image if steps[-1] else shown
    return np.array(steps, bool)


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    wide = np.abs(one.astype(np.int32) - other.astype(np.int32))
    return bool((wide <= SAME_LEVELS).mean() < SAME_PIXELS)

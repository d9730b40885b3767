"""Check a data set of demonstrations: every episode, and jumps, duplicates and statistics over all of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from jaxtyping import Float

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.episode_checks import (
    SHORT,
    Bounds,
    CheckSettings,
    DataProblem,
    check_books,
    check_finite,
    check_image_stream,
    check_joints,
    check_streams,
    check_times,
    joint_bounds,
    number_names,
)
from handeye.robot.datasets.format import BOOK_KEEPING, Feature
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.statistics import Statistics, episode_statistics, merge_statistics
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.vision.errors import DatasetError

NO_STREAM, UNREADABLE, NO_IMAGES = "missing stream", "unreadable episode", "missing images"
OTHER_SIZE, OTHER_RATE = "images of another size", "video of another rate"
DUPLICATE, JUMP, OTHER_STATISTICS = "episode given twice", "jump of an action", "statistics of other data"
JUMP_FACTOR, JUMP_SAMPLES, JUMP_QUANTILE = 8.0, 200, 0.995
"""A step is a jump above JUMP_FACTOR times the JUMP_QUANTILE of its number, from JUMP_SAMPLES steps on."""
WRAPPED = "joint a whole turn away"
TURN_RAD, TURN_SLACK_RAD, CLUSTER_RAD = 2 * math.pi, 0.3, 1.0
"""A wrap is a step of a turn, within the slack, where other steps are shorter than the slack; or episodes whose medians
are whole turns apart and otherwise within CLUSTER_RAD."""
ANGLES = ("joint", "qpos", "wrist", "shoulder", "elbow", "_rad", "roll", "pitch", "yaw")
"""Words in the names of numbers that are compared between episodes: other numbers may be 6.28 apart for a reason."""
STATISTICS_SLACK, IMAGE_SLACK = 1e-3, 0.03
"""Relative to a number's range; of the brightness of images, which video coding and subsampling change a little."""


@dataclass(frozen=True, slots=True, eq=False)
class DemonstrationReport:
    """All findings, frames of each readable episode, and statistics over all of them."""

    findings: Sequence[DataProblem]
    lengths: Mapping[int, int]
    statistics: Statistics


def check_demonstrations(
    dataset: EpisodeDataset,
    cell: WorkCellConfig,
    settings: CheckSettings,
    on_episode: Callable[[], None] = lambda: None,
) -> DemonstrationReport:
    """Read everything, images included, and report problems. Joints are checked against the cell by name."""
    check = _Check(dataset, settings, joint_bounds(cell))
    check.findings += check_streams_exist(dataset)
    for index in range(dataset.num_episodes):
        check.check_episode(index)
        on_episode()
    if ACTION_KEY in dataset.features:
        check.findings += check_jumps(check.actions, number_names(ACTION_KEY, dataset.features[ACTION_KEY]))
    if STATE_KEY in dataset.features:
        check.findings += check_turns(check.states, number_names(STATE_KEY, dataset.features[STATE_KEY]))
    if len(check.lengths) == dataset.num_episodes:
        check.findings += check_statistics(check.statistics, dataset)
    return DemonstrationReport(check.findings, check.lengths, check.statistics)


def check_streams_exist(dataset: EpisodeDataset) -> Iterator[DataProblem]:
    """Missing states and actions, and videos whose rate is not that of the frames."""
    for key in (STATE_KEY, ACTION_KEY):
        if key not in dataset.features:
            option = "--state-key" if key == STATE_KEY else "--action-key"
            recorded = ", ".join(dataset.info.recorded)
            yield DataProblem(NO_STREAM, f"{key} is missing; recorded are {recorded} ({option} takes another)")
    for key, feature in dataset.features.items():
        rate = feature.info.get("video.fps", dataset.fps)
        if rate != dataset.fps:
            yield DataProblem(
                OTHER_RATE, f"{key}: {rate} images per second, the data set has {dataset.fps} frames per second"
            )


def check_jumps(actions: Mapping[int, Float[np.ndarray, "T D"]], names: Sequence[str]) -> Iterator[DataProblem]:
    """Steps of an action that are far longer than nearly all its steps; the first in each episode.

    A number that switches, as a gripper does, has steps of one length, and none of them stands out.
    """
    for place, name in enumerate(names):
        steps = {index: np.abs(np.diff(values[:, place])) for index, values in actions.items()}
        together = np.concatenate([np.zeros(0), *steps.values()])
        moving = together[together > 0]
        if len(moving) < JUMP_SAMPLES:
            continue
        longest = JUMP_FACTOR * float(np.quantile(moving, JUMP_QUANTILE))
        for index, lengths in steps.items():
            frames = np.flatnonzero(lengths > longest)
            if len(frames):
                first = frames[0]
                jump = f"{name} jumps by {lengths[first]:.4g} before frame {first + 1}"
                yield DataProblem(JUMP, f"{jump}; nearly all its steps are below {longest / JUMP_FACTOR:.3g}", index)


def check_turns(states: Mapping[int, Float[np.ndarray, "T D"]], names: Sequence[str]) -> Iterator[DataProblem]:
    """Joints that a driver wraps into -pi..pi, within an episode or between them: a policy sees one pose as two."""
    for place, name in enumerate(names):
        columns = {index: values[:, place] for index, values in states.items()}
        steps = np.concatenate([np.zeros(0), *(np.abs(np.diff(column)) for column in columns.values())])
        is_turn = np.abs(steps - TURN_RAD) < TURN_SLACK_RAD
        if is_turn.any() and steps[~is_turn].max(initial=0.0) < TURN_SLACK_RAD:
            for index, column in columns.items():
                frames = np.flatnonzero(np.abs(np.abs(np.diff(column)) - TURN_RAD) < TURN_SLACK_RAD)
                if len(frames):
                    frame = int(frames[0]) + 1
                    values = f"from {column[frame - 1]:.3f} to {column[frame]:.3f} in frame {frame}"
                    yield DataProblem(WRAPPED, f"{STATE_KEY}: {name} goes {values}: unwrap it", index)
        elif columns and any(word in name.lower() for word in ANGLES):
            yield from _turns_between_episodes(name, {index: float(np.median(one)) for index, one in columns.items()})


def _turns_between_episodes(name: str, medians: Mapping[int, float]) -> Iterator[DataProblem]:
    away = np.array(list(medians.values())) - next(iter(medians.values()))
    turns = np.round(away / TURN_RAD)
    if np.abs(away - TURN_RAD * turns).max() >= CLUSTER_RAD:
        return
    for index, turn in zip(medians, turns.tolist(), strict=True):
        if turn:
            first, value = next(iter(medians)), medians[index]
            others = f"about {value:.3f}, {turn:+.0f} turns from episode {first}"
            yield DataProblem(WRAPPED, f"{STATE_KEY}: {name} is {others}: unwrap it", index)


def check_statistics(found: Statistics, dataset: EpisodeDataset) -> Iterator[DataProblem]:
    """Stated minimum, maximum, mean and deviation that are not those of the data: the first of each feature."""
    for key, measured in found.items():
        feature, stated = dataset.features[key], dataset.stats.get(key)
        is_whole = feature.holds_images or int(measured["count"][0]) == dataset.num_frames
        # Of matrices LeRobot keeps other shapes.
        is_known = key not in BOOK_KEEPING and (feature.holds_images or len(feature.shape) == 1)
        if stated is not None and is_known and is_whole:
            longest = max(map(dataset.episode_length, range(dataset.num_episodes)))
            yield from islice(_compare(key, measured, stated, feature, longest), 1)


def _compare(
    key: str, measured: Mapping[str, np.ndarray], stated: Mapping[str, np.ndarray], feature: Feature, longest: int
) -> Iterator[DataProblem]:
    # LeRobot samples other images than we do, so only the means are comparable.
    for name in ("mean",) if feature.holds_images else ("min", "max", "mean", "std"):
        here, there = (np.asarray(values[name], np.float64).reshape(-1) for values in (measured, stated))
        slack = _image_slack(measured, feature) if feature.holds_images else _number_slack(measured, name, longest)
        for number in np.flatnonzero(~(np.abs(here - there) <= slack)):
            values = f"{name} of number {number} is {there[number]:.5g} in stats.json, {here[number]:.5g} in the data"
            yield DataProblem(OTHER_STATISTICS, f"{key}: {values}")


def _number_slack(measured: Mapping[str, np.ndarray], name: str, longest: int) -> Float[np.ndarray, " D"]:
    """LeRobot sums the rows of an episode, up to `longest`, in float32; its variance is a difference of such sums."""
    low, high, std = (np.asarray(measured[key], np.float64).reshape(-1) for key in ("min", "max", "std"))
    largest, rounding = np.maximum(np.abs(low), np.abs(high)), longest * float(np.finfo(np.float32).eps)
    slack = STATISTICS_SLACK * (high - low) + 1e-9
    if name != "std":
        return slack + np.maximum(rounding, 1e-5) * largest
    # Of a variance: where the deviation is 0, its root is what is stated.
    of_variance = rounding * largest**2
    return slack + of_variance / np.maximum(np.maximum(std, np.sqrt(of_variance)), 1e-12)


def _image_slack(measured: Mapping[str, np.ndarray], feature: Feature) -> Float[np.ndarray, " D"]:
    high = np.asarray(measured["max"], np.float64).reshape(-1)
    brightest = 1.0 if feature.array_dtype == np.uint8 else high
    return IMAGE_SLACK * brightest + np.zeros_like(high) + 1e-9


@dataclass(slots=True, eq=False)
class _Check:
    """State of the check over the episodes read so far."""

    dataset: EpisodeDataset
    settings: CheckSettings
    bounds: Mapping[str, Bounds]
    findings: list[DataProblem] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)
    actions: dict[int, Float[np.ndarray, "T D"]] = field(default_factory=dict)
    states: dict[int, Float[np.ndarray, "T D"]] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)

    def check_episode(self, index: int) -> None:
        """Check one episode and add its problems."""
        try:
            columns = self.dataset.read_columns(index)
        except DatasetError as error:
            self.findings.append(DataProblem(UNREADABLE, str(error), index))
            return
        found = [*self._check_numbers(index, columns)]
        images, of_images = self._read_images(index, columns)
        self.findings += [replace(finding, episode=index) for finding in (*found, *of_images)]
        self._remember(index, columns, images)

    def _check_numbers(self, index: int, columns: Mapping[str, np.ndarray]) -> Iterator[DataProblem]:
        dataset, length = self.dataset, len(columns["index"])
        if length < self.settings.shortest_s * dataset.fps:
            yield DataProblem(SHORT, f"{length} frames, {length / dataset.fps:.2f} s")
        yield from check_finite(columns, dataset.features)
        yield from check_books(columns, index, dataset.first_frame(index))
        yield from check_times(columns, dataset.fps, self.settings)
        yield from check_streams(columns, dataset.fps, self.settings)
        for key in (STATE_KEY, ACTION_KEY):
            if key in columns and columns[key].ndim == 2:
                names = number_names(key, dataset.features[key])
                yield from check_joints(key, columns[key], names, self.bounds, dataset.fps)
        numbers = [columns[key] for key in (STATE_KEY, ACTION_KEY) if key in columns]
        if not numbers:
            return
        digest = hashlib.sha256(b"".join(values.tobytes() for values in numbers))
        first = self.seen.setdefault(digest.digest(), index)
        if first != index:
            yield DataProblem(DUPLICATE, f"the states and actions of episode {first}")

    def _read_images(
        self, index: int, columns: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[DataProblem]]:
        """Images of an episode, freed after its statistics."""
        images, found = {}, []
        for key, feature in self.dataset.features.items():
            if not feature.holds_images:
                continue
            try:
                stack = self.dataset.read_images(index, key)
            except (DatasetError, ValueError) as error:
                found.append(DataProblem(NO_IMAGES, f"{key}: {error}"))
                continue
            if stack.shape[1:] != feature.array_shape:
                found.append(DataProblem(OTHER_SIZE, f"{key}: {stack.shape[1:]}, expected {feature.array_shape}"))
                continue
            found += check_image_stream(key, stack, columns, self.dataset.fps, self.settings)
            images[key] = stack
        return images, found

    def _remember(self, index: int, columns: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]) -> None:
        """Keep length, statistics and actions for the checks of the whole data set."""
        sound = {
            key: values
            for key, values in columns.items()
            if values.dtype.kind in "iub" or (values.dtype.kind == "f" and np.isfinite(values).all())
        }
        statistics = episode_statistics(sound | dict(images), self.dataset.features)
        self.statistics = self.statistics | merge_statistics(self.statistics, statistics)
        self.lengths[index] = len(columns["index"])
        for key, kept in ((ACTION_KEY, self.actions), (STATE_KEY, self.states)):
            if key in sound:
                kept[index] = sound[key].reshape(self.lengths[index], -1).astype(np.float64)

"""What is wrong with a data set of demonstrations: every episode by itself, and all of them together."""

from __future__ import annotations

import hashlib
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
    Finding,
    check_books,
    check_finite,
    check_joints,
    check_picture_stream,
    check_streams,
    check_times,
    joint_bounds,
    number_names,
)
from handeye.robot.datasets.format import BOOK_KEEPING, Feature
from handeye.robot.datasets.reader import EpisodeDataset, Statistics, episode_statistics, merge_statistics
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.vision.errors import DatasetError

NO_STREAM, UNREADABLE, NO_PICTURES = "missing stream", "unreadable episode", "missing pictures"
OTHER_SIZE, OTHER_RATE = "pictures of another size", "video of another rate"
DUPLICATE, JUMP, OTHER_STATISTICS = "episode given twice", "jump of an action", "statistics of other data"
JUMP_FACTOR, JUMP_SAMPLES, JUMP_QUANTILE = 8.0, 200, 0.995
"""A step is a jump when it is so many times as long as nearly all others of that number; fewer steps tell nothing."""
STATISTICS_SLACK, PICTURE_SLACK = 1e-3, 0.03
"""Of a number's range; of the brightness of pictures, which videos and a choice of pictures change a little."""


@dataclass(frozen=True, slots=True, eq=False)
class DemonstrationReport:
    """All findings, and what the data are like: frames of each readable episode, statistics over all of them."""

    findings: Sequence[Finding]
    lengths: Mapping[int, int]
    statistics: Statistics


def check_demonstrations(
    dataset: EpisodeDataset,
    cell: WorkCellConfig,
    settings: CheckSettings,
    on_episode: Callable[[], None] = lambda: None,
) -> DemonstrationReport:
    """Read everything, pictures included, and name what is wrong. Joints are held to the cell by their names."""
    check = _Check(dataset, settings, joint_bounds(cell))
    check.findings += check_streams_exist(dataset)
    for index in range(dataset.num_episodes):
        check.look_at(index)
        on_episode()
    if ACTION_KEY in dataset.features:
        check.findings += check_jumps(check.actions, number_names(ACTION_KEY, dataset.features[ACTION_KEY]))
    if len(check.lengths) == dataset.num_episodes:
        check.findings += check_statistics(check.statistics, dataset)
    return DemonstrationReport(check.findings, check.lengths, check.statistics)


def check_streams_exist(dataset: EpisodeDataset) -> Iterator[Finding]:
    """States and actions that are not recorded, and videos whose rate is not that of the frames."""
    for key in (STATE_KEY, ACTION_KEY):
        if key not in dataset.features:
            yield Finding(NO_STREAM, f"{key}: there is none; there are {', '.join(dataset.info.recorded)}")
    for key, feature in dataset.features.items():
        rate = feature.info.get("video.fps", dataset.fps)
        if rate != dataset.fps:
            yield Finding(OTHER_RATE, f"{key}: {rate} pictures a second, the set has {dataset.fps} frames a second")


def check_jumps(actions: Mapping[int, Float[np.ndarray, "T D"]], names: Sequence[str]) -> Iterator[Finding]:
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
                told = f"{name} jumps by {lengths[first]:.4g} before frame {first + 1}"
                yield Finding(JUMP, f"{told}; nearly all its steps are below {longest / JUMP_FACTOR:.3g}", index)


def check_statistics(found: Statistics, dataset: EpisodeDataset) -> Iterator[Finding]:
    """Stated minimum, maximum, mean and deviation that are not those of the data: the first of each feature."""
    for key, measured in found.items():
        feature, stated = dataset.features[key], dataset.stats.get(key)
        is_whole = feature.is_picture or int(measured["count"][0]) == dataset.num_frames
        # Of matrices LeRobot keeps other shapes.
        is_known = key not in BOOK_KEEPING and (feature.is_picture or len(feature.shape) == 1)
        if stated is not None and is_known and is_whole:
            longest = max(map(dataset.episode_length, range(dataset.num_episodes)))
            yield from islice(_compare(key, measured, stated, feature, longest), 1)


def _compare(
    key: str, measured: Mapping[str, np.ndarray], stated: Mapping[str, np.ndarray], feature: Feature, longest: int
) -> Iterator[Finding]:
    # LeRobot looks at other pictures than we do, so that only their mean can be held against ours.
    for name in ("mean",) if feature.is_picture else ("min", "max", "mean", "std"):
        here, there = (np.asarray(values[name], np.float64).reshape(-1) for values in (measured, stated))
        slack = _picture_slack(measured, feature) if feature.is_picture else _number_slack(measured, name, longest)
        for number in np.flatnonzero(~(np.abs(here - there) <= slack)):
            told = f"{name} of number {number} is {there[number]:.5g} in the statistics, {here[number]:.5g} in the data"
            yield Finding(OTHER_STATISTICS, f"{key}: {told}")


def _number_slack(measured: Mapping[str, np.ndarray], name: str, longest: int) -> Float[np.ndarray, " D"]:
    """LeRobot sums up to `longest` rows, of an episode, in float32, and its variance is a difference of such sums."""
    low, high, std = (np.asarray(measured[key], np.float64).reshape(-1) for key in ("min", "max", "std"))
    largest, rounding = np.maximum(np.abs(low), np.abs(high)), longest * float(np.finfo(np.float32).eps)
    slack = STATISTICS_SLACK * (high - low) + 1e-9
    if name != "std":
        return slack + np.maximum(rounding, 1e-5) * largest
    # Of a variance: where the deviation is 0, its root is what is stated.
    of_variance = rounding * largest**2
    return slack + of_variance / np.maximum(np.maximum(std, np.sqrt(of_variance)), 1e-12)


def _picture_slack(measured: Mapping[str, np.ndarray], feature: Feature) -> Float[np.ndarray, " D"]:
    high = np.asarray(measured["max"], np.float64).reshape(-1)
    brightest = 1.0 if feature.array_dtype == np.uint8 else high
    return PICTURE_SLACK * brightest + np.zeros_like(high) + 1e-9


@dataclass(slots=True, eq=False)
class _Check:
    """What has been found so far."""

    dataset: EpisodeDataset
    settings: CheckSettings
    bounds: Mapping[str, Bounds]
    findings: list[Finding] = field(default_factory=list)
    lengths: dict[int, int] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)
    actions: dict[int, Float[np.ndarray, "T D"]] = field(default_factory=dict)
    seen: dict[bytes, int] = field(default_factory=dict)

    def look_at(self, index: int) -> None:
        """All that can be said of one episode."""
        try:
            columns = self.dataset.read_columns(index)
        except DatasetError as error:
            self.findings.append(Finding(UNREADABLE, str(error), index))
            return
        found = [*self._check_numbers(index, columns)]
        pictures, of_pictures = self._read_pictures(index, columns)
        self.findings += [replace(finding, episode=index) for finding in (*found, *of_pictures)]
        self._remember(index, columns, pictures)

    def _check_numbers(self, index: int, columns: Mapping[str, np.ndarray]) -> Iterator[Finding]:
        dataset, length = self.dataset, len(columns["index"])
        if length < self.settings.shortest_s * dataset.fps:
            yield Finding(SHORT, f"{length} frames, {length / dataset.fps:.2f} s")
        yield from check_finite(columns, dataset.features)
        yield from check_books(columns, index, dataset.first_frame(index))
        yield from check_times(columns, dataset.fps, self.settings)
        yield from check_streams(columns, dataset.fps, self.settings)
        for key in (STATE_KEY, ACTION_KEY):
            if key in columns and columns[key].ndim == 2:
                names = number_names(key, dataset.features[key])
                yield from check_joints(key, columns[key], names, self.bounds, dataset.fps)
        digest = hashlib.sha256(b"".join(columns[key].tobytes() for key in (STATE_KEY, ACTION_KEY) if key in columns))
        first = self.seen.setdefault(digest.digest(), index)
        if first != index:
            yield Finding(DUPLICATE, f"the states and actions of episode {first}")

    def _read_pictures(
        self, index: int, columns: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], list[Finding]]:
        """Statistics need the pictures once; they are let go of with the episode."""
        pictures, found = {}, []
        for key, feature in self.dataset.features.items():
            if not feature.is_picture:
                continue
            try:
                stack = self.dataset.read_images(index, key)
            except (DatasetError, ValueError) as error:
                found.append(Finding(NO_PICTURES, f"{key}: {error}"))
                continue
            if stack.shape[1:] != feature.array_shape:
                found.append(Finding(OTHER_SIZE, f"{key}: {stack.shape[1:]}, expected {feature.array_shape}"))
                continue
            found += check_picture_stream(key, stack, columns, self.dataset.fps, self.settings)
            pictures[key] = stack
        return pictures, found

    def _remember(self, index: int, columns: Mapping[str, np.ndarray], pictures: Mapping[str, np.ndarray]) -> None:
        """Length, statistics and actions, for what is said of the whole set."""
        sound = {
            key: values
            for key, values in columns.items()
            if values.dtype.kind in "iub" or (values.dtype.kind == "f" and np.isfinite(values).all())
        }
        statistics = episode_statistics(sound | dict(pictures), self.dataset.features)
        self.statistics = self.statistics | merge_statistics(self.statistics, statistics)
        self.lengths[index] = len(columns["index"])
        if ACTION_KEY in sound:
            self.actions[index] = sound[ACTION_KEY].reshape(self.lengths[index], -1).astype(np.float64)

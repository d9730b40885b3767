"""Demonstrations out of the simulator: the expert picks, disturbed on purpose, and what succeeds is kept.

An episode depends on its seed and the configuration alone. Worker processes play the episodes, this one writes them
in the order of their seeds, so a recording does not depend on the number of workers and can be taken up again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from robot.control.episode import EpisodeResult
from robot.timing import StageTimer
from robot.pick import PickConfig, PickStation, build_task, load_detector
from robot.demonstration_sink import DemonstrationSink, PictureSize, demonstration_features
from robot.datasets.reader import EpisodeDataset
from robot.datasets.writer import EpisodeWriter
from robot.datasets.format import Episode
from robot.policies.expert import ExpertPolicy, ExpertPolicyConfig
from robot.interfaces import Policy
from robot.simulator.mishaps import MIXED, MishapConfig
from robot.worker_pool import map_in_workers
from vision.errors import DatasetError, UserError

ROBOT_TYPE = "ur10e"


class RecordConfig(PickConfig):
    """The cell of `handeye pick` with the expert in it."""

    expert: ExpertPolicyConfig = ExpertPolicyConfig()
    mishaps: MishapConfig = MIXED
    picture_height: int = Field(default=120, gt=0)
    picture_width: int = Field(default=160, gt=0)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """One played episode and how it went; only a success is worth keeping."""

    result: EpisodeResult
    episode: Episode

    @property
    def is_kept(self) -> bool:
        """A success without a word from the gates."""
        return self.result.success and not self.result.gate_violations


class Recorder:
    """Plays episodes in one process; use `play` inside `with`."""

    def __init__(self, config: RecordConfig, detector: Path, pictures: PictureSize | None) -> None:
        self._config = config
        self._pictures = pictures
        self._station = PickStation(config, load_detector(config, detector), self._build_policy)

    def __enter__(self) -> Recorder:
        self._station.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._station.__exit__(None, None, None)

    def play(self, seed: int) -> Played:
        """Episode `seed` with its disturbances and mishaps."""
        config = self._config
        sink = DemonstrationSink(
            config.cell,
            build_task(config),
            policy_hz=config.expert.policy_hz,
            seed=seed,
            pictures=self._pictures,
            scene=self._station.cell.see_scene,
        )
        result = self._station.run(seed, sinks=[sink])
        return Played(result, sink.episode())

    def _build_policy(self, station: PickStation, seed: int, timer: StageTimer) -> Policy:
        return ExpertPolicy(self._config.cell, self._config.expert, seed=seed)


def open_recording(config: RecordConfig, folder: Path, detector: Path, pictures: PictureSize | None) -> EpisodeWriter:
    """The data set to record into, new or begun.

    Raises DatasetError when it holds other episodes or was begun with another configuration or detector, and UserError
    where there is no such detector.
    """
    fps = config.expert.policy_hz
    if fps != round(fps):
        raise DatasetError(f"expert.policy_hz {fps:g}: a data set needs a whole number of frames a second")
    features, origin = demonstration_features(pictures), _origin(config, detector)
    return EpisodeWriter.open(folder, round(fps), features, ROBOT_TYPE, origin)


def _origin(config: RecordConfig, detector: Path) -> dict[str, Any]:
    """What decides an episode besides its seed; the policies of `handeye pick` have no part in it."""
    try:
        digest = hashlib.sha256(detector.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{detector}: the detector cannot be read: {error.strerror}") from error
    return {"detector_sha256": digest} | config.model_dump(mode="json", exclude={"skill", "learned"})


def next_seed(writer: EpisodeWriter, first_seed: int) -> int:
    """The seed after that of the last episode kept; `first_seed` for an empty data set."""
    if writer.info.total_episodes == 0:
        return first_seed
    dataset = EpisodeDataset.open(writer.folder)
    return int(dataset.read_episode(dataset.num_episodes - 1).columns["seed"][-1]) + 1


def play_episodes(
    config: RecordConfig, seeds: Sequence[int], detector: Path, pictures: PictureSize | None, *, workers: int
) -> Iterator[Played]:
    """The episodes in the order of `seeds`, shared among `workers` processes; stop iterating to stop playing."""
    load_detector(config, detector)
    yield from map_in_workers(Recorder, (config, detector, pictures), Recorder.play, seeds, workers=workers)

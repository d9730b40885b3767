"""Read demonstrations for imitation learning: batches of observations and the action chunks that followed them.

All frames are in memory. The frames of a step follow from (seed, step), so a resumed run sees the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from torch import Tensor
from typing_extensions import assert_never

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.replay_buffer import ReplayBuffer
from handeye.robot.learning.act_policy import ActPolicy, Observations, Statistics
from handeye.robot.learning.config import LeRobotDataConfig, ReplayBufferDataConfig, SplitConfig, TrainPolicyConfig
from handeye.robot.policies.onnx_policy import PolicySignature, resize_image
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.checkpoints.published import load_official_backbone, read_published_file
from handeye.vision.errors import ConfigError, DatasetError, UserError


@runtime_checkable
class RecordedFeature(Protocol):
    """Shape and names of a column of a data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame."""
        ...

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of its numbers."""
        ...


@runtime_checkable
class RecordedEpisode(Protocol):
    """One demonstration without its images."""

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Key -> one row for each frame."""
        ...


@runtime_checkable
class EpisodeSource(Protocol):
    """Demonstrations on disk, whatever their format."""

    @property
    def fps(self) -> int:
        """Frames in a second."""
        ...

    @property
    def features(self) -> Mapping[str, RecordedFeature]:
        """The columns by their LeRobot keys."""
        ...

    @property
    def num_episodes(self) -> int:
        """How many episodes there are."""
        ...

    def read_episode(self, number: int, /) -> RecordedEpisode:
        """Episode 0, 1, ..."""
        ...

    def read_images(self, number: int, key: str, /) -> np.ndarray:
        """All images of one camera in an episode, (frames, H, W, 3) in RGB bytes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PolicyBatch:
    """Observations in units, and the recorded actions from the same frame on."""

    observations: Observations
    actions: Float32[Tensor, "B T A"]
    is_pad: Bool[Tensor, "B T"]

    def to(self, device: torch.device) -> PolicyBatch:
        """The same batch on another device."""
        seen = self.observations
        environment = None if seen.environment is None else seen.environment.to(device)
        images = tuple(image.to(device) for image in seen.images)
        observations = Observations(seen.state.to(device), environment, images)
        return PolicyBatch(observations, self.actions.to(device), self.is_pad.to(device))


@dataclass(frozen=True, slots=True, eq=False)
class DemonstrationFrames:
    """All frames of some episodes in a row; ends[i] is one beyond the last frame of the episode of frame i."""

    state: Float32[np.ndarray, "N S"]
    environment: Float32[np.ndarray, "N E"] | None
    images: tuple[UInt8[np.ndarray, "N H W 3"], ...]
    actions: Float32[np.ndarray, "N A"]
    ends: Int[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.state)

    def chunks(
        self, frames: Int[np.ndarray, " B"], chunk_size: int
    ) -> tuple[Float32[np.ndarray, "B T A"], Bool[np.ndarray, "B T"]]:
        """The actions from each frame on; beyond the end of its episode the last one is repeated, marked as padding."""
        places = frames[:, None] + np.arange(chunk_size)
        ends = self.ends[frames][:, None]
        return self.actions[np.minimum(places, ends - 1)], places >= ends

    @property
    def num_episodes(self) -> int:
        """How many episodes the frames are of."""
        return len(np.unique(self.ends))

    def all_batches(self, size: int, chunk_size: int) -> Iterator[PolicyBatch]:
        """Every frame once, in order."""
        for first in range(0, len(self), size):
            yield self.batch(np.arange(first, min(first + size, len(self))), chunk_size)

    def batch(self, frames: Int[np.ndarray, " B"], chunk_size: int) -> PolicyBatch:
        """These frames with what followed them."""
        actions, is_pad = self.chunks(frames, chunk_size)
        environment = None if self.environment is None else torch.from_numpy(self.environment[frames])
        images = tuple(torch.from_numpy(images[frames]) for images in self.images)
        observations = Observations(torch.from_numpy(self.state[frames]), environment, images)
        return PolicyBatch(observations, torch.from_numpy(actions), torch.from_numpy(is_pad))


def signature_of(
    source: EpisodeSource, cameras: Sequence[str], image_hw: tuple[int, int], state: Sequence[str] | None = None
) -> PolicySignature:
    """The inputs and outputs of a policy trained on these demonstrations, with the state numbers `state`, or all.

    Raises DatasetError where there is no state or action, or a camera or a number that is asked for is missing.
    """
    keys = ", ".join(source.features)
    for key in (STATE_KEY, ACTION_KEY, *(IMAGE_PREFIX + camera for camera in cameras)):
        if key not in source.features:
            other = {STATE_KEY: "; data.state_key names another", ACTION_KEY: "; data.action_key names another"}
            raise DatasetError(f"the demonstrations have no {key}; they have {keys}{other.get(key, '')}")
    return PolicySignature(
        state_names=_chosen(_names(source, STATE_KEY), state),
        environment_names=_names(source, ENVIRONMENT_KEY) if ENVIRONMENT_KEY in source.features else (),
        cameras=tuple(cameras),
        image_hw=image_hw,
        action_names=_names(source, ACTION_KEY),
        fps=source.fps,
    )


def read_frames(source: EpisodeSource, episodes: Sequence[int], signature: PolicySignature) -> DemonstrationFrames:
    """The frames of these episodes, images brought to the policy's size. Raises DatasetError for odd shapes."""
    recorded = [source.read_episode(number).columns for number in episodes]
    lengths = np.array([len(columns[STATE_KEY]) for columns in recorded])
    images = (_read_camera(source, episodes, IMAGE_PREFIX + camera, signature) for camera in signature.cameras)
    has_environment = bool(signature.environment_names)
    frames = DemonstrationFrames(
        state=_state(recorded, _names(source, STATE_KEY), signature),
        environment=_joined(recorded, ENVIRONMENT_KEY, len(signature.environment_names)) if has_environment else None,
        images=tuple(images),
        actions=_joined(recorded, ACTION_KEY, len(signature.action_names)),
        ends=np.repeat(np.cumsum(lengths), lengths),
    )
    for camera, stack in zip(signature.cameras, frames.images, strict=True):
        if len(stack) != len(frames):
            raise DatasetError(f"camera {camera}: {len(stack)} images for {len(frames)} frames")
    return frames


def frames_of_step(num_frames: int, batch_size: int, seed: int, step: int) -> Int[np.ndarray, " B"]:
    """The frames of step 0, 1, ...: shuffled anew in each epoch, an incomplete last batch left out."""
    batch_size = min(batch_size, num_frames)
    epoch, place = divmod(step, num_frames // batch_size)
    order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_frames)
    return order[place * batch_size : (place + 1) * batch_size]


def _names(source: EpisodeSource, key: str) -> tuple[str, ...]:
    feature = source.features[key]
    if len(feature.shape) != 1:
        raise DatasetError(f"{key}: expected one row of numbers for each frame, got the shape {tuple(feature.shape)}")
    return tuple(feature.names or (f"{key.rpartition('.')[2]}_{index}" for index in range(feature.shape[0])))


def _chosen(names: tuple[str, ...], wanted: Sequence[str] | None) -> tuple[str, ...]:
    missing = [name for name in wanted or () if name not in names]
    if missing:
        raise DatasetError(f"{STATE_KEY} has no {', '.join(missing)}; it has {', '.join(names)}")
    return names if wanted is None else tuple(wanted)


def _state(
    recorded: Sequence[Mapping[str, np.ndarray]], names: tuple[str, ...], signature: PolicySignature
) -> Float32[np.ndarray, "N S"]:
    """The numbers of the recorded states that the policy takes, in its order."""
    places = [names.index(name) for name in signature.state_names]
    return np.ascontiguousarray(_joined(recorded, STATE_KEY, len(names))[:, places])


def _joined(recorded: Sequence[Mapping[str, np.ndarray]], key: str, width: int) -> Float32[np.ndarray, "N D"]:
    for number, columns in enumerate(recorded):
        # A feature of one number comes without an axis for it.
        shape, wanted = (*columns[key].shape, 1)[:2], (len(columns[STATE_KEY]), width)
        if shape != wanted or columns[key].ndim > 2:
            raise DatasetError(f"episode {number} of the part: {key} has the shape {shape}, expected {wanted}")
    together = np.concatenate([columns[key] for columns in recorded]).astype(np.float32, copy=False)
    return together.reshape(-1, width)


def _read_camera(
    source: EpisodeSource, episodes: Sequence[int], key: str, signature: PolicySignature
) -> UInt8[np.ndarray, "N H W 3"]:
    stacks = (source.read_images(number, key) for number in episodes)
    return np.concatenate([np.stack([resize_image(one, signature.image_hw) for one in stack]) for stack in stacks])


@dataclass(frozen=True, slots=True)
class TrainingFrames:
    """Frames to train on and frames to validate on, of different episodes."""

    signature: PolicySignature
    learnt: DemonstrationFrames
    validation: DemonstrationFrames | None

    def summary(self) -> dict[str, object]:
        """For the run folder."""
        return {
            "frames": len(self.learnt),
            "episodes": self.learnt.num_episodes,
            "validation_episodes": 0 if self.validation is None else self.validation.num_episodes,
            "signature": self.signature.model_dump(mode="json"),
        }

    def describe(self) -> str:
        """One line for the user."""
        seconds = len(self.learnt) / self.signature.fps
        kept = 0 if self.validation is None else self.validation.num_episodes
        return f"{self.learnt.num_episodes} demonstrations, {seconds:.0f} s, to train on; {kept} to validate on"

    def require_same(self, path: Path) -> None:
        """Raise UserError where the run whose summary is at `path` began with other demonstrations."""
        then = json.loads(path.read_text(encoding="utf-8"))
        for key, now in self.summary().items():
            if then.get(key) != json.loads(json.dumps(now)):
                raise UserError(
                    f"{path.parent}: was started with other demonstrations: {key} was {then.get(key)}, is {now}"
                )


def read_training_frames(config: TrainPolicyConfig) -> TrainingFrames:
    """Open the data, split the episodes, read them. Raises DatasetError."""
    source = open_source(config.data)
    signature = signature_of(source, config.images.cameras, config.images.size_hw, config.state)
    learnt, kept = split_episodes(source.num_episodes, config.split, config.seed)
    validation = read_frames(source, kept, signature) if kept else None
    return TrainingFrames(signature, read_frames(source, learnt, signature), validation)


def open_source(config: LeRobotDataConfig | ReplayBufferDataConfig) -> EpisodeSource:
    """The demonstrations that a configuration names. Raises DatasetError."""
    match config:
        case LeRobotDataConfig():
            return EpisodeDataset.open(config.root, config.keys(), config.fps)
        case ReplayBufferDataConfig():
            return EpisodeDataset(ReplayBuffer(config.root, config.columns(), config.fps))
        case _:
            assert_never(config)


def split_episodes(num_episodes: int, config: SplitConfig, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to train and to validate on, drawn by the seed. Raises DatasetError where none is left to train on."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num_episodes).tolist()
    order = order[: config.max_episodes]
    num_kept = max(round(config.validation_fraction * len(order)), 1) if config.validation_fraction else 0
    if len(order) <= num_kept:
        raise DatasetError(f"{len(order)} demonstrations, {num_kept} of them for validation: none is left to train on")
    return sorted(order[num_kept:]), sorted(order[:num_kept])


def new_policy(config: TrainPolicyConfig, data: TrainingFrames) -> ActPolicy:
    """A policy with fresh weights, or those of a published backbone, and the statistics of its training data.

    Raises DatasetError for numbers that are not finite or never change, ConfigError and ModelFileError for a backbone
    that does not fit.
    """
    policy, frames, floor = ActPolicy(config.policy, data.signature), data.learnt, config.policy.std_floor
    policy.normalise_state.take(Statistics.measure(STATE_KEY, frames.state, policy.normalise_state.names), floor)
    if policy.normalise_environment is not None and frames.environment is not None:
        names = policy.normalise_environment.names
        policy.normalise_environment.take(Statistics.measure(ENVIRONMENT_KEY, frames.environment, names), floor)
    actions = wanted_actions(frames, config.policy.network.chunk_size, config.policy.relative_actions)
    policy.normalise_action.take(Statistics.measure(ACTION_KEY, actions, policy.normalise_action.names), floor)
    if config.backbone_weights is not None:
        if not data.signature.cameras:
            raise ConfigError("backbone_weights: this policy has no cameras, so it has no backbone")
        name = f"resnet{config.policy.network.backbone.depth}"
        classifier = load_official_backbone(name, read_published_file(config.backbone_weights))
        policy.act.backbone.load_state_dict(classifier.backbone.state_dict(), strict=False)
    return policy


def wanted_actions(frames: DemonstrationFrames, chunk_size: int, relative: int) -> Float[np.ndarray, "M A"]:
    """Every action that some chunk holds, its first `relative` numbers relative to the state at its start."""
    if not relative:
        return frames.actions
    actions, is_pad = frames.chunks(np.arange(len(frames)), chunk_size)
    actions = actions.copy()
    actions[..., :relative] -= frames.state[:, None, :relative]
    return actions[~is_pad]

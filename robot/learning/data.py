"""Demonstrations as batches: an observation and the actions that followed it, padded where the episode ends.

All frames are in memory. Which frames a step sees follows from (seed, step) alone, so a resumed run sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, UInt8
from torch import Tensor

from robot.learning.act_policy import Observations
from robot.policies.onnx_policy import resize_image
from robot.policy.policy_manifest import ACTION_KEY, ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY, PolicySignature
from vision.errors import DatasetError


@runtime_checkable
class RecordedFeature(Protocol):
    """What a data set says of one of its columns."""

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
        """The actions from each frame on; beyond the end of its episode the last one stays, and is marked."""
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
    """What a policy that learns from these demonstrations sees and says; it is told the numbers `state`, or all.

    Raises DatasetError where there is no state or action, or a camera or a number that is asked for is missing.
    """
    keys = ", ".join(source.features)
    for key in (STATE_KEY, ACTION_KEY, *(IMAGE_PREFIX + camera for camera in cameras)):
        if key not in source.features:
            raise DatasetError(f"the demonstrations have no {key}; they have {keys}")
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
        state=_told(recorded, _names(source, STATE_KEY), signature),
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
    """Which frames step 0, 1, ... sees: in each epoch all in a new order, what does not fill a batch left out."""
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


def _told(
    recorded: Sequence[Mapping[str, np.ndarray]], names: tuple[str, ...], signature: PolicySignature
) -> Float32[np.ndarray, "N S"]:
    """The numbers of the recorded states that the policy is told, in its order."""
    places = [names.index(name) for name in signature.state_names]
    return np.ascontiguousarray(_joined(recorded, STATE_KEY, len(names))[:, places])


def _joined(recorded: Sequence[Mapping[str, np.ndarray]], key: str, width: int) -> Float32[np.ndarray, "N D"]:
    for number, columns in enumerate(recorded):
        shape, wanted = columns[key].shape, (len(columns[STATE_KEY]), width)
        if shape != wanted:
            raise DatasetError(f"episode {number} of the part: {key} has the shape {shape}, expected {wanted}")
    return np.concatenate([columns[key] for columns in recorded]).astype(np.float32, copy=False)


def _read_camera(
    source: EpisodeSource, episodes: Sequence[int], key: str, signature: PolicySignature
) -> UInt8[np.ndarray, "N H W 3"]:
    stacks = (source.read_images(number, key) for number in episodes)
    return np.concatenate([np.stack([resize_image(one, signature.image_hw) for one in stack]) for stack in stacks])

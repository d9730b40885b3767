"""What a policy learns from and is measured on, and the policy that fits it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from robot.learning.act_policy import ActPolicy
from robot.learning.data import DemonstrationFrames, EpisodeSource, read_frames, signature_of
from robot.datasets.reader import EpisodeDataset
from robot.policy.normalizer import Statistics
from robot.policy.policy_manifest import ACTION_KEY, ENVIRONMENT_KEY, STATE_KEY, PolicySignature
from robot.datasets.replay_buffer import ReplayBuffer
from robot.learning.config import LeRobotDataConfig, ReplayBufferDataConfig, SplitConfig, TrainPolicyConfig
from vision.checkpoints.published import load_official_backbone, read_published_file
from vision.errors import ConfigError, DatasetError, UserError


@dataclass(frozen=True, slots=True)
class TrainingFrames:
    """Frames that are learnt from and frames that are only measured on, of different episodes."""

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
        return f"{self.learnt.num_episodes} demonstrations, {seconds:.0f} s, learnt from; {kept} kept to measure on"

    def require_same(self, path: Path) -> None:
        """Raise UserError where the run whose summary is at `path` began with other demonstrations."""
        then = json.loads(path.read_text(encoding="utf-8"))
        for key, now in self.summary().items():
            if then.get(key) != json.loads(json.dumps(now)):
                raise UserError(f"{path.parent}: began with other demonstrations: {key} was {then.get(key)}, is {now}")


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
            return EpisodeDataset.open(config.root)
        case ReplayBufferDataConfig():
            return ReplayBuffer(config.root, config.columns(), config.fps)
        case _:
            assert_never(config)


def split_episodes(num_episodes: int, config: SplitConfig, seed: int) -> tuple[list[int], list[int]]:
    """Episodes to learn from and to measure on, drawn by the seed. Raises DatasetError where none is left to learn."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num_episodes).tolist()
    order = order[: config.max_episodes]
    num_kept = max(round(config.validation_fraction * len(order)), 1) if config.validation_fraction else 0
    if len(order) <= num_kept:
        raise DatasetError(f"{len(order)} demonstrations, {num_kept} of them to measure on: none is left to learn from")
    return sorted(order[num_kept:]), sorted(order[:num_kept])


def new_policy(config: TrainPolicyConfig, data: TrainingFrames) -> ActPolicy:
    """A policy with fresh weights, or those of a published backbone, and the statistics of what it learns from.

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
            raise ConfigError("backbone_weights: this policy has no cameras, and no backbone")
        name = f"resnet{config.policy.network.backbone.depth}"
        classifier = load_official_backbone(name, read_published_file(config.backbone_weights))
        policy.act.backbone.load_state_dict(classifier.backbone.state_dict(), strict=False)
    return policy


def wanted_actions(frames: DemonstrationFrames, chunk_size: int, relative: int) -> Float[np.ndarray, "M A"]:
    """Every action that some chunk holds, its first `relative` numbers as differences to the chunk's own state."""
    if not relative:
        return frames.actions
    actions, is_pad = frames.chunks(np.arange(len(frames)), chunk_size)
    actions = actions.copy()
    actions[..., :relative] -= frames.state[:, None, :relative]
    return actions[~is_pad]

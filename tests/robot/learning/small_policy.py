"""A policy of a few thousand weights and demonstrations that a formula makes, for tests of everything around them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from handeye.robot.config import WorkCellConfig
from handeye.robot.learning.act import ActConfig
from handeye.robot.learning.act_policy import ActPolicy, ActPolicyConfig
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.backbones.resnet import ResNetConfig

CHUNK = 4


def small_network(**changes: object) -> ActConfig:
    """With everything that a network may have, each as small as it can be."""
    sizes: dict[str, object] = {
        "chunk_size": CHUNK,
        "hidden_dim": 16,
        "num_heads": 2,
        "feed_forward_dim": 24,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "num_latent_layers": 1,
        "latent_dim": 3,
        "dropout": 0.0,
        "backbone": ResNetConfig(depth=18, batch_norm="live", blocks_per_stage=(1, 1, 1, 1), strides=(32,)),
    }
    return ActConfig.model_validate(sizes | changes)


def small_signature(cameras: tuple[str, ...] = (), environment: int = 2) -> PolicySignature:
    return PolicySignature(
        state_names=("q1", "q2", "grip"),
        environment_names=tuple(f"cube_{index}" for index in range(environment)),
        cameras=cameras,
        image_hw=(32, 48),
        action_names=("q1", "q2", "grip"),
        fps=10,
    )


def small_policy(cameras: tuple[str, ...] = (), *, relative: int = 0, **changes: object) -> ActPolicy:
    """In eval mode, with weights by seed and statistics that are not 0 and 1."""
    torch.manual_seed(0)
    config = ActPolicyConfig(network=small_network(**changes), relative_actions=relative)
    policy = ActPolicy(config, small_signature(cameras)).eval()
    for number, normalizer in enumerate(policy.normalizers()):
        normalizer.mean += 0.3 + number
        normalizer.std += 0.5
    return policy


def untrained_pick_policy() -> ActPolicy:
    """For picking in the default cell: it knows all names and rates, and nothing else."""
    torch.manual_seed(0)
    signature = PolicySignature(state_names=STATE_NAMES, action_names=ACTION_NAMES, fps=25)
    policy = ActPolicy(ActPolicyConfig(network=small_network(chunk_size=16), relative_actions=6), signature).eval()
    policy.normalise_state.mean[:6] = torch.tensor(WorkCellConfig().home_qpos)
    policy.normalise_state.std[:] = 0.3
    policy.normalise_action.std[:] = 0.02
    return policy


@dataclass(frozen=True)
class MadeFeature:
    shape: tuple[int, ...]
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class MadeEpisode:
    columns: Mapping[str, np.ndarray]


class MadeDemonstrations:
    """An arm that goes to a cube: the action is half of the way that is left. Images show the cube's first number."""

    fps = 10

    def __init__(self, lengths: tuple[int, ...] = (9, 12, 7), cameras: tuple[str, ...] = ()) -> None:
        generator = np.random.default_rng(5)
        self.lengths = lengths
        self._episodes = [self._episode(length, generator) for length in lengths]
        numbers = ("q1", "q2", "grip")
        self.features = {
            STATE_KEY: MadeFeature((3,), numbers),
            ACTION_KEY: MadeFeature((3,), numbers),
            ENVIRONMENT_KEY: MadeFeature((2,), None),
        } | {IMAGE_PREFIX + camera: MadeFeature((64, 96, 3), None) for camera in cameras}

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    def read_episode(self, number: int) -> MadeEpisode:
        return MadeEpisode(self._episodes[number])

    def read_images(self, number: int, key: str) -> np.ndarray:
        shade = self._episodes[number][ENVIRONMENT_KEY][:, 0] * 100 + 100
        images = np.broadcast_to(shade[:, None, None, None], (len(shade), 64, 96, 3))
        return images.clip(0, 255).astype(np.uint8)

    @staticmethod
    def _episode(length: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        goal, place, states, actions = generator.normal(size=2), generator.normal(size=2), [], []
        for frame in range(length):
            target = place + (goal - place) / 2
            grip = float(frame > length / 2)
            states.append([*place, grip])
            actions.append([*target, grip])
            place = target
        columns = {STATE_KEY: states, ACTION_KEY: actions, ENVIRONMENT_KEY: [goal] * length}
        return {key: np.array(values, dtype=np.float32) for key, values in columns.items()}

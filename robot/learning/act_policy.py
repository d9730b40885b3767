"""An ACT policy with normalisation: observations and actions in units. This is what is trained, saved and exported.

Mean and standard deviation are measured on the training demonstrations and saved with the weights: a policy with the
statistics of another data set acts confidently and wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from pydantic import Field
from torch import Tensor, nn

from handeye.robot.learning.act import Act, ActConfig, ActInputs, Demonstration
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, STATE_KEY
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError, DatasetError, UserError

STD_FLOOR = 0.01
"""Published value, in units: neither a joint that hardly moves nor its noise is scaled up to one."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Of each number of a feature over all frames, in float64; the names are those of the numbers."""

    names: tuple[str, ...]
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]

    @staticmethod
    def measure(key: str, values: Float[np.ndarray, "N D"], names: Sequence[str]) -> Statistics:
        """Raises DatasetError, naming the number, where values are missing or not finite."""
        if not len(values):
            raise DatasetError(f"{key}: there are no frames to measure")
        bad = ~np.isfinite(values)
        if bad.any():
            frame, number = np.argwhere(bad)[0]
            raise DatasetError(
                f"{key}: {bad.sum()} values are not finite, first {names[number]} = {values[frame, number]} in frame "
                f"{frame} of the set; leave such episodes out"
            )
        return Statistics(tuple(names), values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64))


class Normalizer(nn.Module):
    """(x - mean) / std for each number of one feature, and its inverse; the identity until it has statistics."""

    mean: Tensor
    std: Tensor

    def __init__(self, key: str, names: Sequence[str]) -> None:
        super().__init__()
        self.key, self.names = key, tuple(names)
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def take(self, statistics: Statistics, std_floor: float = STD_FLOOR) -> None:
        """Normalise with these from now on. Raises DatasetError where the names differ or a number never changes.

        Deviations below std_floor are raised to it; with a floor of zero a number that never changes is refused.
        """
        if statistics.names != self.names:
            raise DatasetError(
                f"{self.key}: the statistics are those of {', '.join(statistics.names)}, "
                f"expected {', '.join(self.names)}"
            )
        std = np.maximum(statistics.std, std_floor)
        self._require_usable(statistics.mean, std)
        self.mean.copy_(torch.from_numpy(statistics.mean))
        self.std.copy_(torch.from_numpy(std))

    def check(self) -> None:
        """Raise DatasetError where the statistics, read from a file, cannot be those of any data."""
        self._require_usable(self.mean.double().cpu().numpy(), self.std.double().cpu().numpy())

    def require_same(self, other: Normalizer) -> None:
        """Raise UserError, naming the first number at fault, where `other` has the statistics of other data."""
        for name, mine, theirs in zip(self.names, self._rows(), other._rows(), strict=True):
            if not torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6):
                raise UserError(
                    f"{self.key}: the statistics are those of another data set: {name} has mean and deviation "
                    f"{theirs[0]:.5g}, {theirs[1]:.5g} there and {mine[0]:.5g}, {mine[1]:.5g} here"
                )

    def forward(self, values: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """To mean 0 and standard deviation 1."""
        return (values - self.mean) / self.std

    def invert(self, values: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Back to units."""
        return values * self.std + self.mean

    def _rows(self) -> Float[Tensor, "D 2"]:
        return torch.stack((self.mean, self.std), dim=1).cpu()

    def _require_usable(self, mean: np.ndarray, std: np.ndarray) -> None:
        for name, middle, deviation in zip(self.names, mean, std, strict=True):
            if not (np.isfinite(middle) and np.isfinite(deviation)):
                raise DatasetError(f"{self.key}: the statistics of {name} are not finite ({middle}, {deviation})")
            if deviation <= 0:
                raise DatasetError(
                    f"{self.key}: {name} never changes (deviation {deviation}): leave it out, "
                    "or give a std_floor above 0"
                )


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ActPolicyConfig(Config):
    """The network and the normalisation of its actions."""

    network: ActConfig = ActConfig()
    relative_actions: Annotated[int, Field(ge=0)] = 0
    """How many of the first numbers of an action are learnt as differences to those of the state: 6 for joint deltas.
    The policy's output is absolute either way."""
    std_floor: Annotated[float, Field(ge=0)] = STD_FLOOR
    """Lower bound of the standard deviations."""


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """A batch in units: numbers as recorded, images as bytes. environment is None where the policy has none."""

    state: Float32[Tensor, "B S"]
    environment: Float32[Tensor, "B E"] | None = None
    images: tuple[UInt8[Tensor, "B H W 3"], ...] = ()


class ActPolicy(nn.Module):
    """Observations -> actions, both in units. Raises ConfigError where relative_actions has no state to refer to."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: ActPolicyConfig, signature: PolicySignature) -> None:
        super().__init__()
        self.config, self.signature = config, signature
        count = config.relative_actions
        # Names of targets differ from those of the state: qpos_target_1 is the target of qpos_1.
        wanted = tuple(name.replace("_target", "") for name in signature.action_names[:count])
        if wanted != signature.state_names[:count] or count > len(signature.action_names):
            raise ConfigError(
                f"policy.relative_actions {count}: the first numbers of state and action must be the same, but they "
                f"are {', '.join(signature.state_names)} and {', '.join(signature.action_names)}"
            )
        self.act = Act(config.network, signature)
        self.normalise_state = Normalizer(STATE_KEY, signature.state_names)
        names = signature.environment_names
        self.normalise_environment = Normalizer(ENVIRONMENT_KEY, names) if names else None
        self.normalise_action = Normalizer(ACTION_KEY, signature.action_names)
        num_cameras = len(signature.cameras)
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).repeat(num_cameras, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).repeat(num_cameras, 1))

    def normalizers(self) -> list[Normalizer]:
        """Those of state, environment (where there is one) and action."""
        all_three = (self.normalise_state, self.normalise_environment, self.normalise_action)
        return [one for one in all_three if one is not None]

    def forward(self, observations: Observations) -> Float[Tensor, "B T A"]:
        """The chunk of actions: absolute, in units."""
        output = self.act(self.normalise(observations))
        return self.normalise_action.invert(output.actions) + self._origin(observations.state)

    def normalise(self, observations: Observations) -> ActInputs:
        """Normalised inputs of the network."""
        environment = observations.environment
        if self.normalise_environment is not None:
            environment = self.normalise_environment(environment)
        images = tuple(self._normalise_image(image, index) for index, image in enumerate(observations.images))
        return ActInputs(self.normalise_state(observations.state), environment, images)

    def demonstration(
        self, observations: Observations, actions: Float[Tensor, "B T A"], is_pad: Bool[Tensor, "B T"]
    ) -> Demonstration:
        """The target of the network: recorded absolute actions, made relative and normalised."""
        return Demonstration(self.normalise_action(actions - self._origin(observations.state)), is_pad)

    def _origin(self, state: Float[Tensor, "B S"]) -> Float[Tensor, "B 1 A"]:
        """What actions are measured from: the state where they are relative, zero elsewhere."""
        count = self.config.relative_actions
        absolute = state.new_zeros(state.shape[0], len(self.signature.action_names) - count)
        return torch.cat((state[:, :count], absolute), dim=1)[:, None]

    def _normalise_image(self, image: UInt8[Tensor, "B H W 3"], camera: int) -> Float[Tensor, "B 3 H W"]:
        values = (image.to(torch.float32) / 255 - self.image_mean[camera]) / self.image_std[camera]
        return values.permute(0, 3, 1, 2)

"""A whole policy: units in, units out, with the network in between. This is what is trained, stored and exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from pydantic import Field
from torch import Tensor, nn

from robot.learning.act import Act, ActConfig, ActInputs
from robot.policy.act_latent import Demonstration
from robot.policy.normalizer import STD_FLOOR, Normalizer
from robot.policy.policy_manifest import ACTION_KEY, ENVIRONMENT_KEY, STATE_KEY, PolicySignature
from vision.config import Config
from vision.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ActPolicyConfig(Config):
    """The network, and in which numbers it thinks."""

    network: ActConfig = ActConfig()
    relative_actions: Annotated[int, Field(ge=0)] = 0
    """The first so many numbers of an action are learnt as differences to the same numbers of the state: 6 for joint
    deltas. What the policy gives out is absolute either way."""
    std_floor: Annotated[float, Field(ge=0)] = STD_FLOOR
    """Smallest standard deviation that a number is divided by."""


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
        # A recorded target is told apart from the state it is wanted for: qpos_target_1 is where qpos_1 shall be.
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
        """Those of state, environment and action, as far as there are such."""
        all_three = (self.normalise_state, self.normalise_environment, self.normalise_action)
        return [one for one in all_three if one is not None]

    def forward(self, observations: Observations) -> Float[Tensor, "B T A"]:
        """The chunk that the policy would act out: absolute, in units."""
        output = self.act(self.normalise(observations))
        return self.normalise_action.invert(output.actions) + self._origin(observations.state)

    def normalise(self, observations: Observations) -> ActInputs:
        """What the network takes."""
        environment = observations.environment
        if self.normalise_environment is not None:
            environment = self.normalise_environment(environment)
        images = tuple(self._normalise_image(image, index) for index, image in enumerate(observations.images))
        return ActInputs(self.normalise_state(observations.state), environment, images)

    def demonstration(
        self, observations: Observations, actions: Float[Tensor, "B T A"], is_pad: Bool[Tensor, "B T"]
    ) -> Demonstration:
        """What the network learns from: recorded absolute actions as it would say them."""
        return Demonstration(self.normalise_action(actions - self._origin(observations.state)), is_pad)

    def _origin(self, state: Float[Tensor, "B S"]) -> Float[Tensor, "B 1 A"]:
        """What actions are measured from: the state where they are relative, zero elsewhere."""
        count = self.config.relative_actions
        absolute = state.new_zeros(state.shape[0], len(self.signature.action_names) - count)
        return torch.cat((state[:, :count], absolute), dim=1)[:, None]

    def _normalise_image(self, image: UInt8[Tensor, "B H W 3"], camera: int) -> Float[Tensor, "B 3 H W"]:
        values = (image.to(torch.float32) / 255 - self.image_mean[camera]) / self.image_std[camera]
        return values.permute(0, 3, 1, 2)

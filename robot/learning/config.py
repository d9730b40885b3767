"""Configuration of policy training; `handeye show-config` prints it with every default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from handeye.robot.datasets.replay_buffer import ColumnConfig
from handeye.robot.learning.act import ActLossConfig
from handeye.robot.learning.act_policy import ActPolicyConfig
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, STATE_KEY
from handeye.vision.config import Config
from handeye.vision.training.optimizer import AdamWConfig, EmaConfig, OptimizerConfig
from handeye.vision.training.schedules import CosineScheduleConfig, ScheduleConfig

PositiveInt = Annotated[int, Field(gt=0)]


class LeRobotDataConfig(Config):
    """Demonstrations in a layout that says what its numbers are: LeRobot's v3.0, as `handeye record` writes it, v2.1
    and v2.0, ACT's HDF5, and replay buffers whose state and action are called so. The files tell which it is."""

    kind: Literal["lerobot"] = "lerobot"
    root: Path
    fps: PositiveInt | None = None
    """Frames per second where the files do not hold it; of ACT's 50 if nothing is said."""
    state_key: str = STATE_KEY
    """Name of the state in the data set: `state` in openpi's."""
    action_key: str = ACTION_KEY

    def keys(self) -> dict[str, str]:
        """The data set's names by LeRobot's."""
        return {STATE_KEY: self.state_key, ACTION_KEY: self.action_key}


class ReplayBufferDataConfig(Config):
    """A replay buffer of Diffusion Policy in zarr, a folder or a zip file; the configuration says what its arrays are,
    and its rate."""

    kind: Literal["replay_buffer"] = "replay_buffer"
    root: Path
    fps: PositiveInt
    state: ColumnConfig
    environment: ColumnConfig | None = None
    action: ColumnConfig = ColumnConfig(array="action")

    def columns(self) -> dict[str, ColumnConfig]:
        """By LeRobot's keys."""
        columns = {STATE_KEY: self.state, ACTION_KEY: self.action}
        return columns if self.environment is None else columns | {ENVIRONMENT_KEY: self.environment}


DataConfig = Annotated[LeRobotDataConfig | ReplayBufferDataConfig, Field(discriminator="kind")]


class ImagesConfig(Config):
    """The cameras of the policy and the size of their images."""

    cameras: tuple[str, ...] = ()
    """Names after `observation.images.`; none for a policy without images."""
    size_hw: tuple[PositiveInt, PositiveInt] = (120, 160)


class SplitConfig(Config):
    """How demonstrations are split into training and validation."""

    max_episodes: PositiveInt | None = None
    """Use at most this number, drawn by the seed."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Fraction of the episodes for validation; at least one, unless it is 0."""


class TrainPolicyConfig(Config):
    """Everything that determines a training run. Loss and optimizer are the published ones."""

    policy: ActPolicyConfig = ActPolicyConfig()
    data: DataConfig
    state: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Names of the numbers of `observation.state` that the policy takes; null for all."""
    images: ImagesConfig = ImagesConfig()
    split: SplitConfig = SplitConfig()
    backbone_weights: Path | None = None
    """Weights of torchvision's ResNet of the configured depth, as in the published recipe."""
    steps: PositiveInt = 20_000
    """Optimizer steps."""
    batch_size: PositiveInt = 8
    seed: Annotated[int, Field(ge=0)] = 0
    loss: ActLossConfig = ActLossConfig()
    input_noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of the noise added to state and environment in training, relative to theirs: observations at
    run time are never quite the recorded ones."""
    optimizer: OptimizerConfig = AdamWConfig(lr=1e-5, weight_decay=1e-4)
    schedule: ScheduleConfig = CosineScheduleConfig(warmup_epochs=1, constant_last_epochs=0, final_fraction=0.01)
    ema: EmaConfig | None = EmaConfig(decay=0.999)
    """Moving average of the weights, which is evaluated and saved; null saves the weights themselves."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 10.0
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Mixed precision of the forward and backward pass; auto is bf16 where the hardware has it, else fp32, as for a
    detector."""
    evaluate_every_steps: PositiveInt = 1000
    save_every_steps: PositiveInt = 1000

"""Train a policy by behaviour cloning: read the demonstrations, restore a saved run, then run the training loop.

The frames of a step follow from (seed, step).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from handeye.robot.learning.act import act_loss, action_error
from handeye.robot.learning.act_policy import ActPolicy
from handeye.robot.learning.checkpoint import save_policy
from handeye.robot.learning.config import TrainPolicyConfig
from handeye.robot.learning.data import PolicyBatch, TrainingFrames, frames_of_step, new_policy, read_training_frames
from handeye.vision.evaluation.plots import plot_losses
from handeye.vision.files import write_json
from handeye.vision.training.checkpoint_state import telling_full_disk
from handeye.vision.training.console import ProgressDisplay, say
from handeye.vision.training.features import EmaFeature, Losses, Setup
from handeye.vision.training.loop import LoopConfig, TrainingLoop
from handeye.vision.training.precision import settle_precision
from handeye.vision.training.run_folder import RunFolder

VALIDATION_BATCH = 256


@dataclass(frozen=True, slots=True)
class PolicyTrainingResult:
    """How a run ended. best_error is the smallest error on the validation demonstrations, None without such."""

    run: RunFolder
    step: int
    best_step: int | None
    best_error: float | None
    is_finished: bool
    """False when a signal asked it to stop."""


def train_policy(config: TrainPolicyConfig, run: RunFolder, console: Console) -> PolicyTrainingResult:
    """Train from the state in `run`, or from the beginning where it holds none, to the end or to a signal.

    Raises UserError for what the user can mend, TrainingError when the loss is not finite or the disk is full.
    """
    with telling_full_disk(run.path):
        training = PolicyTraining(config, run, console)
        training.restore()
        return training.result(is_finished=training.train(console))


class PolicyTraining(TrainingLoop[ActPolicy, PolicyBatch]):
    """The training loop of an ACT policy, in one process."""

    network_key, unit = "policy", "frames"

    def __init__(self, config: TrainPolicyConfig, run: RunFolder, console: Console) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config, about_precision = settle_precision(config, run, self.device)
        self.config = config
        torch.manual_seed(config.seed)
        self.data: TrainingFrames = read_training_frames(config)
        policy = new_policy(config, self.data).to(self.device)
        # The inner network is optimized: its `backbone` may have its own learning rate.
        setup = Setup(policy, self.device, partial(act_loss, config=config.loss), optimized=policy.act)
        features = () if config.ema is None else (EmaFeature[ActPolicy](config.ema),)
        super().__init__(run, _loop_config(config, len(self.data.learnt)), setup, features)
        self.loss = setup.loss
        say(console, self.data.describe())
        say(console, about_precision)

    def batches(self) -> Iterator[PolicyBatch]:
        """From the current step to the end."""
        config = self.config
        for step in range(self.progress.step, config.steps):
            frames = frames_of_step(len(self.data.learnt), config.batch_size, config.seed, step)
            yield self.data.learnt.batch(frames, config.policy.network.chunk_size).to(self.device)

    def losses(self, batch: PolicyBatch) -> Losses:
        """Of the chunk of actions that followed each observation."""
        inputs = self.network.normalise(batch.observations)
        demonstration = self.network.demonstration(batch.observations, batch.actions, batch.is_pad)
        if self.config.input_noise:
            environment = None if inputs.environment is None else self._with_noise(inputs.environment)
            inputs = replace(inputs, state=self._with_noise(inputs.state), environment=environment)
        is_half = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_half):
            output = self.network.act(inputs, demonstration)
        return self.joined_losses(lambda output: self.loss(output, demonstration), output, batch)

    def restore(self) -> None:
        """Continue from the saved state, if there is one. Raises UserError where the demonstrations have changed."""
        if self.run.state.is_file():
            self.data.require_same(self.run.data)
        measured = copy.deepcopy(self.network.normalizers())
        super().restore()
        for now, then in zip(measured, self.network.normalizers(), strict=True):
            now.require_same(then)
        write_json(self.run.data, self.data.summary())

    def is_evaluation_due(self) -> bool:
        """After every evaluate_every_steps and at the end."""
        step = self.progress.step
        is_due = step % self.config.evaluate_every_steps == 0 or step == self.config.steps
        return is_due and all(entry["step"] != step for entry in self.run.metrics.read())

    def is_in_state(self, metrics: Mapping[str, Any]) -> bool:
        """Whether it was made at or before the restored step."""
        return metrics["step"] <= self.progress.step

    def evaluate(self, display: ProgressDisplay) -> None:
        """The action error on the validation demonstrations, where there are any; the best weights are kept."""
        if self.data.validation is None:
            return
        step, error = self.progress.step, self._validation_error()
        if all(error < entry["error"] for entry in self.run.metrics.read()):
            save_policy(self.run.best, self.weights_to_save(), {"step": str(step), "error": f"{error:.5f}"})
        self.run.metrics.append({"step": step, "error": error})
        display.say(f"step {step}  validation error {error:.4f} standard deviations")

    def after_evaluation_saved(self) -> None:
        """Draw the losses."""
        plot_losses(self.run.path / "losses.png", self.run.steps.read())

    def save_weights(self, path: Path, network: ActPolicy) -> None:
        """A policy checkpoint."""
        save_policy(path, network)

    def result(self, *, is_finished: bool) -> PolicyTrainingResult:
        """The best evaluation so far."""
        best = min(self.run.metrics.read(), key=lambda entry: entry["error"], default=None)
        best_step, best_error = (None, None) if best is None else (best["step"], best["error"])
        return PolicyTrainingResult(self.run, self.progress.step, best_step, best_error, is_finished)

    def _with_noise(self, values: Tensor) -> Tensor:
        return values + self.config.input_noise * torch.randn_like(values)

    @torch.no_grad()
    def _validation_error(self) -> float:
        """Mean absolute error of the actions, normalised, of the policy without the demonstration, over all frames."""
        policy, frames = self.weights_to_save().eval(), self.data.validation
        assert frames is not None
        total, count = 0.0, 0
        for batch in frames.all_batches(VALIDATION_BATCH, self.config.policy.network.chunk_size):
            batch = batch.to(self.device)
            wanted = policy.demonstration(batch.observations, batch.actions, batch.is_pad)
            error = action_error(
                policy.act(policy.normalise(batch.observations)).actions, wanted.actions, wanted.is_pad
            )
            size = int((~batch.is_pad).sum())
            total, count = total + float(error) * size, count + size
        return total / count


def _loop_config(config: TrainPolicyConfig, num_frames: int) -> LoopConfig:
    return LoopConfig(
        num_steps=config.steps,
        steps_per_epoch=max(num_frames // config.batch_size, 1),
        batch_size=config.batch_size,
        save_every_steps=config.save_every_steps,
        clip_norm=config.clip_norm,
        optimizer=config.optimizer,
        schedule=config.schedule,
    )

"""Training a policy, top to bottom: read the demonstrations, restore what was, then step after step.

The frames of a step follow from (seed, step), and the state holds all random generators, so a run that was killed and
resumed ends with the same weights, on the CPU bit for bit.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
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
from handeye.vision.training.checkpoint_state import Progress, load_state, require_space, save_state, telling_full_disk
from handeye.vision.training.console import ProgressDisplay, StopRequest
from handeye.vision.training.distributed import TrainingError
from handeye.vision.training.optimizer import Ema, build_optimizer
from handeye.vision.training.precision import settle_precision
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.schedules import LrSetter, build_schedule

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
        display = ProgressDisplay(console, config.steps, training.steps_per_epoch, training.step, unit="frames")
        with StopRequest() as stop, display:
            training.evaluate_if_due(display)
            while training.step < config.steps and not stop.is_set:
                losses, rate = training.learn()
                display.after_step(training.step, losses, rate, config.batch_size)
                training.evaluate_if_due(display)
                if stop.is_set or training.step % config.save_every_steps == 0:
                    training.save()
        return training.result()


class PolicyTraining:
    """The parts of a run and what is done with them."""

    def __init__(self, config: TrainPolicyConfig, run: RunFolder, console: Console) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        config, words = settle_precision(config, run, self.device)
        self.config, self.run = config, run
        torch.manual_seed(config.seed)
        self.data: TrainingFrames = read_training_frames(config)
        self.policy = new_policy(config, self.data).to(self.device)
        self.ema = None if config.ema is None else Ema(config.ema, self.policy)
        self.steps_per_epoch = max(len(self.data.learnt) // config.batch_size, 1)
        # The inner network: its `backbone` is what has a rate of its own.
        self.optimizer = build_optimizer(config.optimizer, self.policy.act, config.batch_size)
        self.rates = LrSetter.of(self.optimizer, build_schedule(config.schedule, self.steps_per_epoch, config.steps))
        self.step = 0
        for line in (self.data.describe(), words):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def restore(self) -> None:
        """Go on from the saved state, if there is one. Raises UserError where the demonstrations are other ones."""
        if self.run.state.is_file():
            self.data.require_same(self.run.data)
            measured = copy.deepcopy(self.policy.normalizers())
            self.step = load_state(self.run.state, self._parts()).step
            for now, then in zip(measured, self.policy.normalizers(), strict=True):
                now.require_same(then)
        self.run.steps.keep(lambda entry: entry["step"] < self.step)
        self.run.metrics.keep(lambda entry: entry["step"] <= self.step)
        write_json(self.run.data, self.data.summary())

    def learn(self) -> tuple[dict[str, float], float]:
        """One optimiser step; returns the losses by name and the learning rate, and writes them down."""
        rate = self.rates.set_for_step(self.step)
        frames = frames_of_step(len(self.data.learnt), self.config.batch_size, self.config.seed, self.step)
        batch = self.data.learnt.batch(frames, self.config.policy.network.chunk_size).to(self.device)
        losses = self._losses(batch)
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.clip_norm or math.inf)
        values = {name: float(loss.detach()) for name, loss in losses.items()} | {"gradient_norm": float(norm)}
        self._require_finite(values)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.policy)
        gradient_norm = values.pop("gradient_norm")
        entry = {"step": self.step, "epoch": self.step // self.steps_per_epoch, "lr": rate, "losses": values}
        self.run.steps.append(entry | {"gradient_norm": gradient_norm})
        self.step += 1
        return values, rate

    def evaluate_if_due(self, display: ProgressDisplay) -> None:
        """Measure the shipped weights after every so many steps and at the end, keep the best, and save."""
        is_due = self.step % self.config.evaluate_every_steps == 0 or self.step == self.config.steps
        entries = self.run.metrics.read()
        if self.step == 0 or not is_due or any(entry["step"] == self.step for entry in entries):
            return
        if self.data.validation is not None:
            error = self._validation_error()
            if all(error < entry["error"] for entry in entries):
                save_policy(self.run.best, self._shipped(), {"step": str(self.step), "error": f"{error:.5f}"})
            self.run.metrics.append({"step": self.step, "error": error})
            display.say(f"step {self.step}  validation error {error:.4f} deviations")
            display.pause_clock()
        plot_losses(self.run.path / "losses.png", self.run.steps.read())
        self.save()

    def save(self) -> None:
        """Write the weights to ship and the whole state; both are whole or as they were."""
        parts = self._parts()
        require_space(self.run.path, [part.state_dict() for part in (*parts.values(), self._shipped())])
        save_policy(self.run.last, self._shipped())
        save_state(self.run.state, Progress(step=self.step), parts)

    def result(self) -> PolicyTrainingResult:
        """What has come of it so far."""
        best = min(self.run.metrics.read(), key=lambda entry: entry["error"], default=None)
        best_step, best_error = (None, None) if best is None else (best["step"], best["error"])
        return PolicyTrainingResult(self.run, self.step, best_step, best_error, self.step >= self.config.steps)

    def _losses(self, batch: PolicyBatch) -> dict[str, Tensor]:
        self.policy.train()
        inputs = self.policy.normalise(batch.observations)
        demonstration = self.policy.demonstration(batch.observations, batch.actions, batch.is_pad)
        if self.config.input_noise:
            environment = None if inputs.environment is None else self._blurred(inputs.environment)
            inputs = replace(inputs, state=self._blurred(inputs.state), environment=environment)
        is_half = self.config.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_half):
            output = self.policy.act(inputs, demonstration)
        return act_loss(output, demonstration, self.config.loss)

    def _blurred(self, values: Tensor) -> Tensor:
        return values + self.config.input_noise * torch.randn_like(values)

    @torch.no_grad()
    def _validation_error(self) -> float:
        """Mean absolute error of the actions, normalised, that the policy would take of itself, over all frames."""
        policy, frames = self._shipped().eval(), self.data.validation
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

    def _shipped(self) -> ActPolicy:
        """The average of the weights, or the weights themselves without one."""
        return self.policy if self.ema is None else self.ema.model

    def _parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"policy": self.policy, "optimizer": self.optimizer}
        return parts if self.ema is None else parts | {"ema": self.ema}

    def _require_finite(self, values: dict[str, float]) -> None:
        """Raise TrainingError before a step that would spoil the weights."""
        if not all(math.isfinite(value) for value in values.values()):
            told = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(
                f"step {self.step}: not finite ({told}); the weights before it are in {self.run.state}. A lower rate, "
                "a longer warm-up, clip_norm or precision: fp32 may help"
            )

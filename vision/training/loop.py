"""The training loop shared by detectors and policies: steps, journal, checkpoints, evaluation, a clean stop.

Everything random in a step follows from (seed, step) or is restored with the state, so a run that was killed and
resumed ends with the same weights, bit for bit on a CPU. EMA, distillation and the like hook into it: see `features`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from rich.console import Console
from torch import nn

from handeye.vision.losses.counting import mean_over_processes
from handeye.vision.training.checkpoint_state import Progress, load_state, require_space, save_state
from handeye.vision.training.console import ProgressDisplay, StopRequest
from handeye.vision.training.distributed import TrainingError, any_of_all, is_main_process
from handeye.vision.training.features import Feature, Losses, Setup, require_order
from handeye.vision.training.optimizer import AdamWConfig, SgdConfig, build_optimizer
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.schedules import AnySchedule, LrSetter, build_schedule
from handeye.vision.training.sharding import Stateful

N = TypeVar("N", bound=nn.Module)
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What the loop itself takes from a training's configuration."""

    num_steps: int
    steps_per_epoch: int
    batch_size: int
    save_every_steps: int
    clip_norm: float | None
    """Largest norm of all gradients together; None leaves them as they are."""
    optimizer: SgdConfig | AdamWConfig
    schedule: AnySchedule


class TrainingLoop(ABC, Generic[N, B]):
    """Trains a network N on batches B. A subclass supplies batches, losses, evaluation and the file format."""

    network_key: ClassVar[str]
    """Name of the network in the saved state."""
    unit: ClassVar[str]
    """What a batch consists of, as the progress display names it."""

    def __init__(self, run: RunFolder, loop: LoopConfig, setup: Setup[N], features: Sequence[Feature[N]]) -> None:
        """Let the features change `setup`, then build the optimizer; ValueError where they are not in their order."""
        require_order(features)
        for feature in features:
            feature.before_training(setup)
        self.run, self.loop, self.features = run, loop, tuple(features)
        self.network, self.model = setup.network, setup.model or setup.network
        self.optimizer = build_optimizer(loop.optimizer, setup.optimized or setup.network, loop.batch_size)
        for group in setup.param_groups:
            self.optimizer.add_param_group(group)
        schedule = build_schedule(loop.schedule, loop.steps_per_epoch, loop.num_steps)
        self.rates = LrSetter.of(self.optimizer, schedule)
        self.progress = Progress()

    @abstractmethod
    def batches(self) -> Iterable[B]:
        """The batches from the current step to the end."""

    @abstractmethod
    def losses(self, batch: B) -> Losses:
        """The losses of one batch, or of a part of one; `joined_losses` adds those of the features."""

    @abstractmethod
    def is_evaluation_due(self) -> bool:
        """Whether the weights of the current step are to be evaluated and have not been."""

    @abstractmethod
    def evaluate(self, display: ProgressDisplay) -> None:
        """Evaluate the weights to save, journal the result, keep the best; the loop then saves the state."""

    @abstractmethod
    def is_in_state(self, metrics: Mapping[str, Any]) -> bool:
        """Whether an evaluation of the journal is part of the restored state; others are repeated."""

    @abstractmethod
    def save_weights(self, path: Path, network: N) -> None:
        """Write a checkpoint for inference."""

    def after_evaluation_saved(self) -> None:
        """Draw curves and the like."""

    def after_journal(self, entry: Mapping[str, Any], batch: B) -> None:
        """On the main process, after a step has been written to the journal."""

    def has_stalled(self) -> bool:
        """Whether early stopping ends the run here; the same on all processes."""
        return False

    def keep_bad_batch(self, batch: B) -> str:
        """Keep a batch whose loss is not finite, for inspection; returns a clause for the message."""
        del batch
        return ""

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss to those there are."""
        loss.backward()

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the gradients down to max_norm; returns the norm they had."""
        return float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))

    def skips_infinite_gradients(self) -> bool:
        """Whether the optimizer leaves out such steps itself, as with a loss scaler (fp16)."""
        return False

    def no_sync(self) -> AbstractContextManager[Any]:
        """Context in which processes do not exchange gradients."""
        return nullcontext()

    def train(self, console: Console) -> bool:
        """Train to the end, or until a signal asks to stop; returns whether the run is finished."""
        config, progress = self.loop, self.progress
        display = ProgressDisplay(console, config.num_steps, config.steps_per_epoch, progress.step, unit=self.unit)
        with StopRequest() as stop, display:
            self.evaluate_if_due(display)
            for batch in () if self.has_stalled() else self.batches():
                losses, rate = self.step(batch)
                display.after_step(progress.step, losses, rate, config.batch_size)
                is_stopping = any_of_all(stop.is_set, next(self.network.parameters()).device)
                if is_stopping or self.is_save_due():
                    self.save()
                if is_stopping:
                    return False
                self.evaluate_if_due(display)
                if self.has_stalled():
                    display.say(f"stopped early: no more gain; best epoch {progress.best_epoch}")
                    break
        return True

    def restore(self) -> None:
        """Continue from the saved state, if there is one; journal entries after it are dropped and made again."""
        if self.run.state.is_file():
            self.progress = load_state(self.run.state, self.parts())
        if is_main_process():
            self.run.steps.keep(lambda entry: entry["step"] < self.progress.step)
            self.run.metrics.keep(self.is_in_state)

    def step(self, batch: B) -> tuple[dict[str, float], float]:
        """One optimizer step, written to the journal; returns the losses by name and the learning rate."""
        step = self.progress.step
        rate = self.rates.set_for_step(step)
        self.network.train()
        for feature in self.features:
            feature.before_step(self.network)
        values = self._accumulate_gradients(batch)
        gradient_norm = self._clip(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for feature in self.features:
            feature.after_step(self.network)
        if is_main_process():
            entry = {"step": step, "epoch": step // self.loop.steps_per_epoch, "lr": rate, "losses": values}
            entry["gradient_norm"] = gradient_norm
            self.run.steps.append(entry)
            self.after_journal(entry, batch)
        self.progress.step = step + 1
        return values, rate

    def joined_losses(self, losses_of: Callable[[Any], Losses], output: Any, inputs: Any) -> Losses:
        """The losses of the model's output, those of the features included."""
        for feature in self.features:
            losses_of = partial(feature.losses, losses_of, inputs=inputs)
        return losses_of(output)

    def weights_to_save(self) -> N:
        """The network that is evaluated and saved; all processes must ask for it, as shards are gathered."""
        network = self.network
        for feature in self.features:
            network = feature.weights_to_save(network)
        return network

    def parts(self) -> dict[str, Stateful]:
        """Everything that has state: the network, the optimizer and what features keep."""
        parts: dict[str, Stateful] = {self.network_key: self.network, "optimizer": self.optimizer}
        for feature in self.features:
            parts |= feature.state()
        for feature in self.features:
            parts = feature.saved_states(parts)
        return parts

    def is_save_due(self) -> bool:
        """Whether the state is to be saved after the current step."""
        return self.progress.step % self.loop.save_every_steps == 0

    def evaluate_if_due(self, display: ProgressDisplay) -> None:
        """Evaluate and save, where the current step is one at which this is due."""
        if self.progress.step == 0 or not self.is_evaluation_due():
            return
        self.evaluate(display)
        self.save()
        self.after_evaluation_saved()
        display.pause_clock()

    def save(self) -> None:
        """Write the weights for inference and the whole state; each file is replaced at once or not at all."""
        network, states = self.weights_to_save(), {name: part.state_dict() for name, part in self.parts().items()}
        if not is_main_process():
            return
        try:
            require_space(self.run.path, [*states.values(), network.state_dict()])
            self.save_weights(self.run.last, network)
            save_state(self.run.state, self.progress, states)
        except OSError as error:
            raise TrainingError(
                f"step {self.progress.step}: the state cannot be written ({error}); the one before it is intact, "
                f"continue from it with --resume {self.run.path}"
            ) from error

    def _accumulate_gradients(self, batch: B) -> dict[str, float]:
        """The gradients of a batch, part by part; returns its losses by name, over all processes."""
        parts: list[B] = [batch]
        for feature in self.features:
            parts = feature.split(parts)
        values = []
        for number, part in enumerate(parts, start=1):
            # Processes exchange gradients once, after the last part.
            with nullcontext() if number == len(parts) else self.no_sync():
                losses = self.losses(part)
                values.append(self._finite_values(losses, part))
                self.backward(losses["total"])
        divisor = 1.0
        for feature in self.features:
            divisor = feature.divisor(divisor, len(parts))
        _divide_gradients(self.model.parameters(), divisor)
        return {name: sum(part[name] for part in values) / divisor for name in values[0]}

    def _finite_values(self, losses: Losses, batch: B) -> dict[str, float]:
        """The losses as numbers. Raises TrainingError where the total is not finite, before it reaches the weights."""
        stacked = mean_over_processes(torch.stack([loss.detach() for loss in losses.values()]))
        values = dict(zip(losses, stacked.tolist(), strict=True))
        if not math.isfinite(values["total"]):
            parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise self._not_finite(f"the loss is not finite ({parts})", batch)
        return values

    def _clip(self, batch: B) -> float:
        """Clip the gradients to clip_norm; returns the norm they had."""
        norm = self.clip_gradients(math.inf if self.loop.clip_norm is None else self.loop.clip_norm)
        if not math.isfinite(norm) and not self.skips_infinite_gradients():
            raise self._not_finite(f"the gradients are not finite (norm {norm:g})", batch)
        return norm

    def _not_finite(self, what: str, batch: B) -> TrainingError:
        return TrainingError(
            f"step {self.progress.step}: {what}; {self.keep_bad_batch(batch)}the weights before it are in "
            f"{self.run.state}. A lower learning rate, a longer warm-up, clip_norm or precision: fp32 may help"
        )


def _divide_gradients(parameters: Iterable[nn.Parameter], divisor: float) -> None:
    if divisor == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(divisor)

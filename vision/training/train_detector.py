"""Training a detector, top to bottom: build the parts, restore them if the run goes on, then step after step.

Every random number of a step follows from (seed, step), and the state holds everything else, so a run that was killed
and resumed ends with the same weights, on the CPU bit for bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.console import Console
from torch._dynamo.exc import TorchDynamoException

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.data.batches import Batch, iterate_batches, normalise_images
from handeye.vision.detector import Detector
from handeye.vision.evaluation.average_precision import evaluate_boxes
from handeye.vision.losses.build import build_loss, divides_once, grows_with_batch, published_loss
from handeye.vision.losses.counting import PartCounts, average_count, mean_over_processes
from handeye.vision.training.accumulation import add_losses, divide_gradients, split_batch
from handeye.vision.training.checkpoint_state import Progress, load_state, require_space, telling_full_disk, write_state
from handeye.vision.training.config import TrainDetectorConfig, has_stalled
from handeye.vision.training.console import ProgressDisplay, StopRequest
from handeye.vision.training.distillation import Distillation
from handeye.vision.training.distributed import (
    TrainingError,
    any_of_all,
    are_many_on_cpus,
    deterministic_gradients,
    synchronise_norms,
    telling_lost_processes,
    training_device,
)
from handeye.vision.training.network import begin_network, on_device, ship
from handeye.vision.training.optimizer import Ema, build_optimizer, freeze, train_mode
from handeye.vision.training.precision import settle_precision
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.run_record import RunRecord, tracker_options
from handeye.vision.training.schedules import LrSetter, build_schedule
from handeye.vision.training.sharding import gathered_into, learning_parameters, shard, sharded_states, whole
from handeye.vision.training.training_data import (
    batch_plan,
    batch_targets,
    read_split,
    resolve_classes,
    training_samples,
    validation_set,
)
from handeye.vision.training.validate import detect_together

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Our words for accelerate's."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    run: RunFolder
    progress: Progress
    is_finished: bool
    """False when a signal asked it to stop."""


AfterEvaluation = Callable[[int, float], None]
"""Is told the epoch and the value of the metric; what it raises ends the run."""


def train_detector(
    config: TrainDetectorConfig, run: RunFolder, console: Console, after_evaluation: AfterEvaluation | None = None
) -> TrainingResult:
    """Train from the state in `run`, or from the beginning where it holds none, to the end or to a signal.

    Raises DatasetError and ConfigError for what the user can mend, TrainingError when the loss is not finite, the
    disk is full or another process of the training is lost.
    """
    with telling_lost_processes(run.path), telling_full_disk(run.path):
        training = Training(config, run, console, after_evaluation)
        training.restore()
        try:
            return _train(training, console)
        finally:
            training.record.finish()


def _train(training: Training, console: Console) -> TrainingResult:
    config, plan, progress = training.config, training.plan, training.progress
    display = ProgressDisplay(console, plan.num_steps, plan.steps_per_epoch, progress.step)
    with StopRequest() as stop, display:
        training.evaluate_if_due(display)
        is_over = training.has_stalled()
        batches = () if is_over else iterate_batches(training.samples, plan, progress.step, config.data.num_workers)
        for batch in batches:
            losses, rate = training.step(batch)
            display.after_step(progress.step, losses, rate, config.batch_size)
            is_stopping = any_of_all(stop.is_set, training.accelerator.device)
            if is_stopping or plan.ends_epoch(progress.step) or progress.step % config.save_every_steps == 0:
                training.save()
            if is_stopping:
                break
            training.evaluate_if_due(display)
            if is_over := plan.ends_epoch(progress.step) and training.has_stalled():
                display.say(f"stopped early: nothing better since epoch {progress.best_epoch}")
                break
    return TrainingResult(training.run, progress, is_over or progress.evaluated_epoch == plan.num_epochs)


class Training:
    """The parts of a run and what is done with them."""

    def __init__(
        self,
        config: TrainDetectorConfig,
        run: RunFolder,
        console: Console,
        after_evaluation: AfterEvaluation | None = None,
    ) -> None:
        config, words = settle_precision(config, run, training_device())
        self.config, self.run, self.after_evaluation = config, run, after_evaluation
        self.accelerator = _accelerator(config, run)
        train_set = read_split(config, config.data.annotations, config.data.images, "train", console)
        detector_config = resolve_classes(config.detector, train_set, config.data.annotations)
        self.samples = training_samples(config, train_set, detector_config)
        self.plan = batch_plan(config, len(train_set), detector_config, self.accelerator)
        self.validation = validation_set(config, console)
        console.print(words, markup=False, highlight=False, soft_wrap=True)
        splits = {"train": train_set} | ({} if self.validation is None else {"val": self.validation[0]})
        self.record = RunRecord(config, run, self.accelerator, detector_config.preprocessing, splits)
        device = self.accelerator.device
        changes = (config.pruning, config.quantization_aware)
        detector, masks = begin_network(detector_config, config.start_from, *changes, console)
        self.masks = None if masks is None else masks.to(device)
        is_sharded = config.shard_weights and self.accelerator.num_processes > 1
        # Sharded tensors know no memory layouts.
        self.detector = on_device(detector, device, channels_last=config.channels_last and not is_sharded)
        freeze(self.detector, config.freeze)
        loss_config = config.loss or published_loss(detector_config.head)
        is_plain = config.distillation is None  # a teacher's losses are divided by counts of their own
        self.counts = PartCounts() if is_plain and config.accumulate_steps > 1 and divides_once(loss_config) else None
        self.parts_are_added = is_plain and grows_with_batch(loss_config)
        self.loss = build_loss(config.loss, detector_config.head, self.counts or average_count)
        self.ema = None if config.ema is None else Ema(config.ema, self.detector)
        if config.sync_batch_norm:
            self._synchronise_norms(device)
        self.whole = self._shard(device) if is_sharded else None
        optimizer = build_optimizer(config.optimizer, self.detector, config.batch_size)
        self.distillation = None
        if config.distillation is not None:
            self.distillation = Distillation(config.distillation, self.detector, device)
            self.distillation.add_to(optimizer)
        steps = (self.plan.steps_per_epoch, self.plan.num_steps)
        self.rates = LrSetter.of(optimizer, build_schedule(config.schedule, *steps))
        if config.compile:
            self.detector.compile()
        trained = self.detector if self.distillation is None else self.distillation.network
        # "For evaluation" leaves out what copies of a network on each process need.
        self.model = self.accelerator.prepare_model(trained, evaluation_mode=is_sharded)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.progress = Progress()

    def restore(self) -> None:
        """Go on from the saved state, if there is one; journal entries after it are made again."""
        if self.run.state.is_file():
            self.progress = load_state(self.run.state, self._parts())
        if self.accelerator.is_main_process:
            self.run.steps.keep(lambda entry: entry["step"] < self.progress.step)
            self.run.metrics.keep(lambda entry: entry["epoch"] <= self.progress.evaluated_epoch)
        self.record.begin(self.progress.step)

    def step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """One optimiser step; returns the losses by name and the learning rate, and writes them down."""
        step = self.progress.step
        rate = self.rates.set_for_step(step)
        train_mode(self.detector, self.config.freeze)
        values = self._learn(batch)
        gradient_norm = self._clip_gradients(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masks is not None:
            self.masks.apply(self.detector)
        if self.ema is not None:
            self.ema.update(self.detector)
        if self.accelerator.is_main_process:
            entry = {"step": step, "epoch": self.plan.epoch_of(step), "lr": rate, "losses": values}
            entry["gradient_norm"] = gradient_norm
            self.run.steps.append(entry)
            self.record.after_step(entry, batch)
        self.progress.step = step + 1
        return values, rate

    def has_stalled(self) -> bool:
        """Whether early stopping ends the run here; all processes are told the same."""
        config = self.config.early_stopping
        if config is None:
            return False
        entries = self.run.metrics.read() if self.accelerator.is_main_process else []
        values = [entry[self.config.evaluation.metric] for entry in entries]
        return any_of_all(has_stalled(config, values), self.accelerator.device)

    def save(self) -> None:
        """Write the weights to ship and the whole state; both are whole or as they were."""
        shipped, states = self._shipped(), {name: part.state_dict() for name, part in self._parts().items()}
        if not self.accelerator.is_main_process:
            return
        try:
            require_space(self.run.path, [*states.values(), shipped.state_dict()])
            ship(self.run.last, shipped)
            write_state(self.run.state, self.progress, states)
        except OSError as error:
            raise TrainingError(
                f"step {self.progress.step}: the state cannot be written ({error}); the one before it is still whole, "
                f"go on from it with: handeye train --resume {self.run.path}"
            ) from error

    def evaluate_if_due(self, display: ProgressDisplay) -> None:
        """Measure the shipped weights at the end of every n-th epoch and of the run; keep them if they are the best."""
        step, plan = self.progress.step, self.plan
        epoch = -(-step // plan.steps_per_epoch)
        is_due = epoch % self.config.evaluation.every_epochs == 0 or step == plan.num_steps
        if step == 0 or not plan.ends_epoch(step) or not is_due or self.progress.evaluated_epoch == epoch:
            return
        self.progress.evaluated_epoch = epoch
        self._evaluate(epoch, display)
        self.save()
        self.record.write_page()
        self.accelerator.wait_for_everyone()
        display.pause_clock()

    def _synchronise_norms(self, device: torch.device) -> None:
        synchronise_norms(self.detector, device)
        if device.type == "cpu":
            self.loss = deterministic_gradients(self.loss)

    def _shard(self, device: torch.device) -> Detector:
        """Leave this process its share of the weights and their average; returns a copy on the CPU, to gather into."""
        copied, names = copy.deepcopy(self.detector).cpu(), learning_parameters(self.detector)
        shard(self.detector, names, device)
        if self.ema is not None:
            shard(self.ema.model, names, device)
        return copied

    def _learn(self, batch: Batch) -> dict[str, float]:
        """The gradients of a batch, part by part; returns its losses by name, of all processes together."""
        parts = split_batch(batch, self.config.accumulate_steps)
        losses = []
        for number, part in enumerate(parts, start=1):
            # Processes exchange the gradients once, after the last part.
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(self.model):
                part_losses = self._losses(part)
                losses.append(self._finite_values(part_losses, part))
                self.accelerator.backward(part_losses["total"])
        divisor = 1.0 if self.parts_are_added else float(len(parts))
        if self.counts is not None:
            divisor = self.counts.take()
        divide_gradients(self.model.parameters(), divisor)
        return add_losses(losses, divisor)

    def _losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        device, step = self.accelerator.device, self.progress.step
        images = batch.images.to(device, non_blocking=True)
        targets = [target.to(device) for target in batch_targets(batch)]
        with_l1 = self.plan.is_among_last(self.plan.epoch_of(step), self.config.l1_last_epochs)
        said = self._predict(images, targets)
        if self.distillation is None:
            return self.loss(said, targets, with_l1=with_l1)
        with self.accelerator.autocast():
            taught = self.distillation.ask(images)
        return self.distillation.join(self.loss(said.output, targets, with_l1=with_l1), said, taught)

    def _predict(self, images: torch.Tensor, targets: list[BoxTargets]) -> Any:
        """The output of the detector, or of the student that it is part of."""
        try:
            return self.model(normalise_images(images, self.detector.config.preprocessing), targets)
        except TorchDynamoException as error:
            why = " ".join(str(error).split()[:40])
            raise TrainingError(f"compile: this network cannot be compiled here, leave it out ({why})") from error

    def _evaluate(self, epoch: int, display: ProgressDisplay) -> None:
        if self.validation is None:
            return
        annotations, images, ground_truth = self.validation
        device = self.accelerator.device
        detector = self._shipped().to(device).eval()
        detections = detect_together(detector, annotations, images, self.config.evaluation, device)
        if not self.accelerator.is_main_process:
            return
        metrics = evaluate_boxes(ground_truth, detections)
        entry = {"epoch": epoch, "step": self.progress.step, **metrics.summary()}
        self.run.metrics.append({**entry, "AP_of_class": dict(metrics.AP_of_class)})
        self._keep_best(epoch, metrics.summary()[self.config.evaluation.metric], detector)
        self.record.after_evaluation(entry, annotations, images, detections)
        best = f"best {self.progress.best_value:.3f} at epoch {self.progress.best_epoch}"
        display.say(f"epoch {epoch}  AP {metrics.AP:.3f}  AP50 {metrics.AP50:.3f}  AP75 {metrics.AP75:.3f}  ({best})")
        if self.after_evaluation is not None:
            self.after_evaluation(epoch, metrics.summary()[self.config.evaluation.metric])

    def _keep_best(self, epoch: int, value: float, detector: Detector) -> None:
        if self.progress.best_value is None or value > self.progress.best_value:
            self.progress.best_value, self.progress.best_epoch = value, epoch
            extra = {"epoch": str(epoch), self.config.evaluation.metric: f"{value:.4f}"}
            ship(self.run.best, detector, extra)

    def _shipped(self) -> Detector:
        """The weights that are measured and saved: the average, or the weights themselves without one.

        All processes must ask for them: sharded ones are gathered.
        """
        shipped = self.detector if self.ema is None else self.ema.model
        return shipped if self.whole is None else gathered_into(self.whole, shipped)

    def _parts(self) -> dict[str, Any]:
        """Everything with a state of its own."""
        parts: dict[str, Any] = {"detector": self.detector, "optimizer": self.optimizer}
        if self.ema is not None:
            parts["ema"] = self.ema
        if self.masks is not None:
            parts["masks"] = self.masks
        if self.distillation is not None:
            parts["adapters"] = self.distillation.network.adapters
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts if self.whole is None else sharded_states(parts)

    def _finite_values(self, losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, float]:
        """The losses as numbers; a total that is not finite ends the run before it reaches the weights."""
        stacked = mean_over_processes(torch.stack([loss.detach() for loss in losses.values()]))
        values = dict(zip(losses, stacked.tolist(), strict=True))
        if not math.isfinite(values["total"]):
            parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise self._not_finite(f"the loss is not finite ({parts})", batch)
        return values

    def _clip_gradients(self, batch: Batch) -> float:
        """Shorten the gradients to clip_norm and return the norm they had, which without clip_norm they keep."""
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        total = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        norm = math.nan if total is None else float(whole(total))  # None comes from XLA devices only
        # With fp16 infinite gradients belong to finding the scale; the scaler skips such steps itself.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise self._not_finite(f"the gradients are not finite (norm {norm:g})", batch)
        return norm

    def _not_finite(self, what: str, batch: Batch) -> TrainingError:
        """The error that ends the run before a step spoils the weights; the batch is kept for inspection."""
        kept = self.run.path / "bad_batch.pt"
        boxes = [torch.from_numpy(boxes.xyxy) for boxes in batch.boxes]
        torch.save({"images": batch.images, "boxes_xyxy": boxes}, kept)
        return TrainingError(
            f"step {self.progress.step}: {what}; its batch is kept in {kept}, the weights before it in "
            f"{self.run.state}. A lower rate, a longer warm-up, clip_norm or precision: fp32 may help"
        )


def _accelerator(config: TrainDetectorConfig, run: RunFolder) -> Accelerator:
    """What knows the processes and the precision; all random generators begin anew."""
    trackers = tracker_options(config.trackers, run.path)
    # accelerate remembers the precision of its first training and refuses others; a search may have several.
    AcceleratorState._reset_state()  # noqa: SLF001 - there is no public way
    accelerator = Accelerator(cpu=are_many_on_cpus(), mixed_precision=PRECISIONS[config.precision], **trackers)
    set_seed(config.seed)
    return accelerator

"""Training a detector, top to bottom: build the parts, restore them if the run goes on, then step after step.

Every random number of a step follows from (seed, step), and the state holds everything else, so a run that was killed
and resumed ends with the same weights, on the CPU bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console

from vision.assignment.targets import BoxTargets
from vision.checkpoints.native import save_detector, start_from
from vision.data.annotations import AnnotationSet
from vision.data.batches import Batch, BatchPlan, TrainingSamples, check_files, iterate_batches, normalise_images
from vision.data.coco import read_coco
from vision.detector import Detector, DetectorConfig
from vision.errors import ConfigError
from vision.evaluation.average_precision import GroundTruth, evaluate_boxes
from vision.evaluation.curves import plot_losses, plot_metrics, plot_precision_recall, precision_recall
from vision.losses.yolox_loss import YoloxLoss
from vision.training.checkpoint_state import Progress, load_state, save_state
from vision.training.config import FROM_ANNOTATIONS, TrainDetectorConfig
from vision.training.optimizer import build_optimizer
from vision.training.progress_display import ProgressDisplay
from vision.training.run_folder import RunFolder
from vision.training.schedules import RateSetter, WarmupCosine
from vision.training.stop_request import StopRequest
from vision.training.validate import detect_all
from vision.training.weight_average import WeightAverage

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Our words for accelerate's."""


class TrainingError(Exception):
    """The training itself went wrong (a loss that is not finite); the message says what was kept and what to try."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    run: RunFolder
    progress: Progress
    is_finished: bool
    """False when a signal asked it to stop."""


def train_detector(config: TrainDetectorConfig, run: RunFolder, console: Console) -> TrainingResult:
    """Train from the state in `run`, or from the beginning where it holds none, to the end or to a signal.

    Raises DatasetError and ConfigError for what the user can mend, TrainingError when the loss is not finite.
    """
    training = Training(config, run, console)
    training.restore()
    plan, progress = training.plan, training.progress
    display = ProgressDisplay(console, plan.num_steps, plan.steps_per_epoch, progress.step)
    with StopRequest() as stop, display:
        training.evaluate_if_due(display)
        batches = iterate_batches(training.samples, plan, progress.step, config.data.num_workers)
        for batch in batches:
            losses, rate = training.step(batch)
            display.after_step(progress.step, losses, rate, config.batch_size)
            if stop.is_set or plan.ends_epoch(progress.step) or progress.step % config.save_every_steps == 0:
                training.save()
            if not stop.is_set:
                training.evaluate_if_due(display)
            if stop.is_set:
                break
    return TrainingResult(run, progress, is_finished=progress.evaluated_epoch == plan.num_epochs)


class Training:
    """The parts of a run and what is done with them."""

    def __init__(self, config: TrainDetectorConfig, run: RunFolder, console: Console) -> None:
        self.config, self.run = config, run
        self.accelerator = Accelerator(mixed_precision=PRECISIONS[config.precision])
        set_seed(config.seed)
        train_set = _read_annotations(config.data.annotations, console)
        detector_config = resolve_classes(config.detector, train_set, config.data.annotations)
        self.samples = _training_samples(config, train_set, detector_config)
        self.plan = _batch_plan(config, len(train_set), detector_config, self.accelerator)
        self.validation = _validation_set(config, console)
        self.detector = _on_device(_new_detector(config, detector_config, console), config, self.accelerator.device)
        self.loss = YoloxLoss(config.loss)
        self.average = None if config.average is None else WeightAverage(config.average, self.detector)
        optimizer = build_optimizer(config.optimizer, self.detector, config.batch_size)
        schedule = WarmupCosine.from_config(config.schedule, self.plan.steps_per_epoch, self.plan.num_steps)
        self.rates = RateSetter.of(optimizer, schedule)
        self.model, self.optimizer = self.accelerator.prepare(self.detector, optimizer)
        self.progress = Progress()

    def restore(self) -> None:
        """Go on from the saved state, if there is one; journal entries after it are made again."""
        if self.run.state.is_file():
            self.progress = load_state(self.run.state, self._parts())
        if self.accelerator.is_main_process:
            self.run.steps.keep(lambda entry: entry["step"] < self.progress.step)
            self.run.metrics.keep(lambda entry: entry["epoch"] <= self.progress.evaluated_epoch)

    def step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """One optimiser step; returns the losses by name and the learning rate, and writes them down."""
        step, device = self.progress.step, self.accelerator.device
        rate = self.rates.set_for_step(step)
        images = batch.images.to(device, non_blocking=True)
        targets = [
            BoxTargets(torch.from_numpy(boxes), torch.from_numpy(class_ids)).to(device)
            for boxes, class_ids in zip(batch.boxes_xyxy, batch.class_ids, strict=True)
        ]
        self.model.train()
        output = self.model(normalise_images(images, self.detector.config.preprocessing))
        with_l1 = self.plan.is_among_last(self.plan.epoch_of(step), self.config.l1_last_epochs)
        losses = self.loss(output, targets, with_l1=with_l1)
        values = self._finite_values(losses, batch)
        self.accelerator.backward(losses["total"])
        gradient_norm = self._clip_gradients(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.detector)
        if self.accelerator.is_main_process:
            entry = {"step": step, "epoch": self.plan.epoch_of(step), "rate": rate, "losses": values}
            self.run.steps.append({**entry, "gradient_norm": gradient_norm})
        self.progress.step = step + 1
        return values, rate

    def save(self) -> None:
        """Write the weights to ship and the whole state; both are whole or as they were."""
        if not self.accelerator.is_main_process:
            return
        try:
            save_detector(self.run.last, self._shipped())
            save_state(self.run.state, self.progress, self._parts())
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
        if self.accelerator.is_main_process:
            self._evaluate(epoch, display)
            self.save()
        self.accelerator.wait_for_everyone()
        display.pause_clock()

    def _evaluate(self, epoch: int, display: ProgressDisplay) -> None:
        plot_losses(self.run.path / "losses.png", self.run.steps.read())
        if self.validation is None:
            return
        annotations, images, ground_truth = self.validation
        detector = self._shipped().eval()
        detections = detect_all(detector, annotations, images, self.config.evaluation, self.accelerator.device)
        metrics = evaluate_boxes(ground_truth, detections)
        entry = {"epoch": epoch, "step": self.progress.step, **metrics.summary()}
        self.run.metrics.append({**entry, "AP_of_class": dict(metrics.AP_of_class)})
        self._keep_best(epoch, metrics.summary()[self.config.evaluation.metric])
        plot_metrics(self.run.path / "metrics.png", self.run.metrics.read())
        plot_precision_recall(self.run.path / "precision_recall.png", precision_recall(annotations, detections))
        best = f"best {self.progress.best_value:.3f} at epoch {self.progress.best_epoch}"
        display.say(f"epoch {epoch}  AP {metrics.AP:.3f}  AP50 {metrics.AP50:.3f}  AP75 {metrics.AP75:.3f}  ({best})")

    def _keep_best(self, epoch: int, value: float) -> None:
        if self.progress.best_value is None or value > self.progress.best_value:
            self.progress.best_value, self.progress.best_epoch = value, epoch
            extra = {"epoch": str(epoch), self.config.evaluation.metric: f"{value:.4f}"}
            save_detector(self.run.best, self._shipped(), extra)

    def _shipped(self) -> Detector:
        """The weights that are measured and saved: the average, or the weights themselves without one."""
        return self.detector if self.average is None else self.average.model

    def _parts(self) -> dict[str, Any]:
        """Everything with a state of its own."""
        parts: dict[str, Any] = {"detector": self.detector, "optimizer": self.optimizer}
        if self.average is not None:
            parts["average"] = self.average
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def _finite_values(self, losses: dict[str, torch.Tensor], batch: Batch) -> dict[str, float]:
        """The losses as numbers; a total that is not finite ends the run before it reaches the weights."""
        values = dict(zip(losses, torch.stack([loss.detach() for loss in losses.values()]).tolist(), strict=True))
        if not math.isfinite(values["total"]):
            parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise self._not_finite(f"the loss is not finite ({parts})", batch)
        return values

    def _clip_gradients(self, batch: Batch) -> float:
        """Shorten the gradients to clip_norm and return the norm they had, which without clip_norm they keep."""
        limit = math.inf if self.config.clip_norm is None else self.config.clip_norm
        total = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        norm = math.nan if total is None else float(total)  # None comes from XLA devices only
        # With fp16 infinite gradients belong to finding the scale; the scaler skips such steps itself.
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise self._not_finite(f"the gradients are not finite (norm {norm:g})", batch)
        return norm

    def _not_finite(self, what: str, batch: Batch) -> TrainingError:
        """The error that ends the run before a step spoils the weights; the batch is kept for inspection."""
        kept = self.run.path / "bad_batch.pt"
        boxes = [torch.from_numpy(boxes_xyxy) for boxes_xyxy in batch.boxes_xyxy]
        torch.save({"images": batch.images, "boxes_xyxy": boxes}, kept)
        return TrainingError(
            f"step {self.progress.step}: {what}; its batch is kept in {kept}, the weights before it in "
            f"{self.run.state}. A lower rate, a longer warm-up, clip_norm or precision: fp32 may help"
        )


def resolve_classes(config: DetectorConfig, train_set: AnnotationSet, origin: Path) -> DetectorConfig:
    """The detector's configuration with the classes of the annotations; ConfigError where it names others."""
    names = train_set.categories.names
    if config.class_names not in ((FROM_ANNOTATIONS,), names):
        raise ConfigError(
            f"detector.class_names is {list(config.class_names)}, but {origin} has {list(names)}; "
            "leave detector.class_names and detector.num_classes out to take them from the annotations"
        )
    content = {**config.model_dump(), "num_classes": len(names), "class_names": names}
    return DetectorConfig.model_validate(content)


def _read_annotations(path: Path, console: Console) -> AnnotationSet:
    annotations = read_coco(path)
    lost = ", ".join(f"{count} {reason}" for reason, count in annotations.dropped.items())
    console.print(
        f"{path}: {len(annotations)} images, {annotations.num_boxes()} boxes, {len(annotations.categories)} classes"
        + (f"; left out: {lost}" if lost else ""),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return annotations


def _new_detector(config: TrainDetectorConfig, detector_config: DetectorConfig, console: Console) -> Detector:
    """Fresh weights, or those of `start_from` where they fit."""
    detector = Detector(detector_config)
    if config.start_from is not None:
        fresh = start_from(detector, config.start_from)
        console.print(
            f"{config.start_from}: all weights taken but {len(fresh)}", markup=False, highlight=False, soft_wrap=True
        )
    return detector


def _training_samples(
    config: TrainDetectorConfig, train_set: AnnotationSet, detector: DetectorConfig
) -> TrainingSamples:
    return TrainingSamples(
        train_set,
        config.data.images,
        config.augmentation,
        detector.preprocessing,
        config.seed,
        cache_images=config.data.cache_images,
    )


def _batch_plan(
    config: TrainDetectorConfig, num_images: int, detector: DetectorConfig, accelerator: Accelerator
) -> BatchPlan:
    if config.batch_size % accelerator.num_processes:
        raise ConfigError(f"batch_size {config.batch_size} does not divide by {accelerator.num_processes} processes")
    return BatchPlan(
        num_images=num_images,
        batch_size=config.batch_size,
        epochs=config.epochs,
        max_steps=config.max_steps,
        seed=config.seed,
        size_hw=detector.preprocessing.size_hw,
        multi_scale=config.augmentation.multi_scale,
        weak_last_epochs=config.augmentation.weak_last_epochs,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )


def _validation_set(config: TrainDetectorConfig, console: Console) -> tuple[AnnotationSet, Path, GroundTruth] | None:
    """The validation annotations, their folder and COCO's view of them; None where nothing is to be measured."""
    if config.data.val_annotations is None:
        return None
    annotations = _read_annotations(config.data.val_annotations, console)
    images = config.data.val_images or config.data.images
    check_files([images / image.file_name for image in annotations.images])
    return annotations, images, GroundTruth(config.data.val_annotations)


def _on_device(detector: Detector, config: TrainDetectorConfig, device: torch.device) -> Detector:
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    return detector.to(device).to(memory_format=layout)

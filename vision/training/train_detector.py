"""Train a detector: read the data, build network and features, restore a saved run, then run the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.console import Console
from torch._dynamo.exc import TorchDynamoException

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.data.batches import Batch, BatchPlan, iterate_batches, normalise_images
from handeye.vision.detector import Detector
from handeye.vision.evaluation.average_precision import CocoMetrics, defined, evaluate_boxes
from handeye.vision.losses.build import build_loss
from handeye.vision.training.checkpoint_state import Progress, telling_full_disk
from handeye.vision.training.config import TrainDetectorConfig, has_stalled
from handeye.vision.training.console import ProgressDisplay, say
from handeye.vision.training.detector_features import ShardWeights, detector_features
from handeye.vision.training.distributed import (
    TrainingError,
    any_of_all,
    are_many_on_cpus,
    telling_lost_processes,
    training_device,
)
from handeye.vision.training.features import NEED_TRAINED_WEIGHTS, Losses, Setup
from handeye.vision.training.loop import LoopConfig, TrainingLoop
from handeye.vision.training.network import build_network, save_weights
from handeye.vision.training.precision import settle_precision
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.run_record import RunRecord, logger_options
from handeye.vision.training.sharding import whole
from handeye.vision.training.training_data import (
    batch_plan,
    batch_targets,
    read_split,
    resolve_classes,
    training_images,
    training_samples,
    validation_set,
)
from handeye.vision.training.validate import detect_together

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Our names for accelerate's."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    run: RunFolder
    progress: Progress
    is_finished: bool
    """False when a signal asked it to stop."""


AfterEvaluation = Callable[[int, float], None]
"""Called with the epoch and the value of the metric; what it raises ends the run."""


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
            is_finished = training.train(console)
            return TrainingResult(run, training.progress, is_finished)
        finally:
            training.record.finish()


class Training(TrainingLoop[Detector, Batch]):
    """The training loop of a detector, with accelerate for processes and precision."""

    network_key, unit = "detector", "images"

    def __init__(
        self,
        config: TrainDetectorConfig,
        run: RunFolder,
        console: Console,
        after_evaluation: AfterEvaluation | None = None,
    ) -> None:
        config, about_precision = settle_precision(config, run, training_device())
        self.config, self.after_evaluation = config, after_evaluation
        self.accelerator = _accelerator(config, run)
        train_set = read_split(config, config.data.annotations, training_images(config), "train", console)
        detector_config = resolve_classes(config.detector, train_set, config.data.annotations)
        self.samples = training_samples(config, train_set, detector_config)
        self.plan = batch_plan(config, len(train_set), detector_config, self.accelerator)
        self.validation = validation_set(config, detector_config.class_names, console)
        say(console, about_precision)
        splits = {"train": train_set} | ({} if self.validation is None else {"val": self.validation[0]})
        self.record = RunRecord(config, run, self.accelerator, detector_config.preprocessing, splits)
        judged_by = [key for key in NEED_TRAINED_WEIGHTS if getattr(config, key) is not None]
        network = build_network(detector_config, config.start_from, console, judged_by=judged_by)
        setup = Setup(network, self.accelerator.device, build_loss(config.loss, detector_config.head))
        features = detector_features(config, self.accelerator, console)
        super().__init__(run, _loop_config(config, self.plan), setup, features)
        self.loss = setup.loss
        # evaluation_mode leaves out the replication over processes, which sharding replaces.
        is_sharded = any(isinstance(feature, ShardWeights) for feature in features)
        self.model = self.accelerator.prepare_model(self.model, evaluation_mode=is_sharded)
        self.optimizer = self.accelerator.prepare_optimizer(self.optimizer)

    def batches(self) -> Iterable[Batch]:
        """From the current step on, made ahead by worker processes."""
        return iterate_batches(self.samples, self.plan, self.progress.step, self.config.data.num_workers)

    def losses(self, batch: Batch) -> Losses:
        """Of the detector's task, and of the teacher where there is one."""
        device, epoch = self.accelerator.device, self.plan.epoch_of(self.progress.step)
        images = batch.images.to(device, non_blocking=True)
        targets = [target.to(device) for target in batch_targets(batch)]
        with_l1 = self.plan.is_among_last(epoch, self.config.l1_last_epochs)
        output = self._predict(images, targets)
        return self.joined_losses(lambda output: self.loss(output, targets, with_l1=with_l1), output, images)

    def restore(self) -> None:
        """Continue from the saved state, if there is one, and open the loggers."""
        super().restore()
        self.record.begin(self.progress.step)

    def after_journal(self, entry: Mapping[str, Any], batch: Batch) -> None:
        """Log the step; draw the first batches."""
        self.record.after_step(entry, batch)

    def is_save_due(self) -> bool:
        """Also at the end of every epoch."""
        return self.plan.ends_epoch(self.progress.step) or super().is_save_due()

    def has_stalled(self) -> bool:
        """Whether early stopping ends the run after this epoch; the same on all processes."""
        config = self.config.early_stopping
        if config is None or not self.plan.ends_epoch(self.progress.step):
            return False
        entries = self.run.metrics.read() if self.accelerator.is_main_process else []
        values = [defined(entry[self.config.evaluation.metric]) for entry in entries]
        known = [value for value in values if value is not None]
        return any_of_all(has_stalled(config, known), self.accelerator.device)

    def is_evaluation_due(self) -> bool:
        """At the end of every n-th epoch and of the run."""
        step, epoch = self.progress.step, self._epochs_done()
        is_due = epoch % self.config.evaluation.every_epochs == 0 or step == self.plan.num_steps
        return is_due and self.plan.ends_epoch(step) and self.progress.evaluated_epoch != epoch

    def is_in_state(self, metrics: Mapping[str, Any]) -> bool:
        """Whether its epoch was evaluated when the state was saved."""
        return metrics["epoch"] <= self.progress.evaluated_epoch

    def evaluate(self, display: ProgressDisplay) -> None:
        """Average precision on the validation images, shared out over the processes; the best weights are kept."""
        epoch = self.progress.evaluated_epoch = self._epochs_done()
        if self.validation is None:
            return
        annotations, images, ground_truth = self.validation
        device = self.accelerator.device
        detector = self.weights_to_save().to(device).eval()
        detections = detect_together(detector, annotations, images, self.config.evaluation, device)
        if not self.accelerator.is_main_process:
            return
        metrics = evaluate_boxes(ground_truth, detections)
        value = metrics.value(self.config.evaluation.metric)
        entry = {"epoch": epoch, "step": self.progress.step, **metrics.summary()}
        self.run.metrics.append({**entry, "AP_of_class": dict(metrics.AP_of_class)})
        if value is not None:
            self._keep_best(epoch, value, detector)
        self.record.after_evaluation(entry, annotations, images, detections)
        display.say(f"epoch {epoch}  {_in_words(metrics)}  ({self._best_in_words()})")
        if self.after_evaluation is not None and value is not None:
            self.after_evaluation(epoch, value)

    def after_evaluation_saved(self) -> None:
        """Write the report."""
        self.record.write_page()
        self.accelerator.wait_for_everyone()

    def save_weights(self, path: Path, network: Detector) -> None:
        """A native float checkpoint."""
        save_weights(path, network)

    def backward(self, loss: torch.Tensor) -> None:
        """With the loss scaled where fp16 needs it."""
        self.accelerator.backward(loss)

    def clip_gradients(self, max_norm: float) -> float:
        """Over all shards and processes."""
        total = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        return math.nan if total is None else float(whole(total))  # None comes from XLA devices only

    def skips_infinite_gradients(self) -> bool:
        """With fp16 they are part of the search for the loss scale."""
        return self.accelerator.scaler is not None

    def no_sync(self) -> AbstractContextManager[Any]:
        """Leave the gradients of a part of the batch to this process."""
        return self.accelerator.no_sync(self.model)

    def keep_bad_batch(self, batch: Batch) -> str:
        """Keep it in bad_batch.pt."""
        path = self.run.path / "bad_batch.pt"
        boxes = [torch.from_numpy(boxes.xyxy) for boxes in batch.boxes]
        torch.save({"images": batch.images, "boxes_xyxy": boxes}, path)
        return f"its batch is kept in {path}, "

    def _epochs_done(self) -> int:
        return -(-self.progress.step // self.plan.steps_per_epoch)

    def _predict(self, images: torch.Tensor, targets: list[BoxTargets]) -> Any:
        """The output of the detector, or of the student that it is part of."""
        try:
            return self.model(normalise_images(images, self.network.config.preprocessing), targets)
        except TorchDynamoException as error:
            why = " ".join(str(error).split()[:40])
            raise TrainingError(f"compile: this network cannot be compiled here, leave it out ({why})") from error

    def _keep_best(self, epoch: int, value: float, detector: Detector) -> None:
        """Of equal values the later one counts: its weights are trained longer."""
        if self.progress.best_value is None or value >= self.progress.best_value:
            self.progress.best_value, self.progress.best_epoch = value, epoch
            extra = {"epoch": str(epoch), self.config.evaluation.metric: f"{value:.4f}"}
            save_weights(self.run.best, detector, extra)

    def _best_in_words(self) -> str:
        value = self.progress.best_value
        return "no best yet" if value is None else f"best {value:.3f} at epoch {self.progress.best_epoch}"


def _in_words(metrics: CocoMetrics) -> str:
    values = {name: metrics.value(name) for name in ("AP", "AP50", "AP75")}
    return "  ".join(f"{name} {'undefined' if value is None else f'{value:.3f}'}" for name, value in values.items())


def _loop_config(config: TrainDetectorConfig, plan: BatchPlan) -> LoopConfig:
    return LoopConfig(
        num_steps=plan.num_steps,
        steps_per_epoch=plan.steps_per_epoch,
        batch_size=config.batch_size,
        save_every_steps=config.save_every_steps,
        clip_norm=config.clip_norm,
        optimizer=config.optimizer,
        schedule=config.schedule,
    )


def _accelerator(config: TrainDetectorConfig, run: RunFolder) -> Accelerator:
    """Processes and precision; all random generators are seeded."""
    loggers = logger_options(config.loggers, run.path)
    # accelerate remembers the precision of its first training and refuses others; a search may have several.
    AcceleratorState._reset_state()  # noqa: SLF001 - there is no public way
    accelerator = Accelerator(cpu=are_many_on_cpus(), mixed_precision=PRECISIONS[config.precision], **loggers)
    set_seed(config.seed)
    return accelerator

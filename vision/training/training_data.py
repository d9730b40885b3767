"""Read the training and validation data of a configuration: annotations, classes, samples, the plan of batches."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import validate_config
from handeye.vision.data.annotations import BROKEN, AnnotationSet, first_reasons
from handeye.vision.data.batches import Batch, BatchPlan, TrainingSamples, check_files
from handeye.vision.data.formats import find_images, read_annotations
from handeye.vision.data.image_files import without_broken
from handeye.vision.detector import DetectorConfig
from handeye.vision.errors import ConfigError, DatasetError
from handeye.vision.evaluation.average_precision import GroundTruth, evaluate_boxes
from handeye.vision.training.config import FROM_ANNOTATIONS, TrainDetectorConfig
from handeye.vision.training.console import say


def batch_targets(batch: Batch) -> list[BoxTargets]:
    """The target boxes of each image of a batch, and its crowd regions, which the loss ignores."""
    targets = []
    for boxes in batch.boxes:
        objects, crowds = boxes[~boxes.is_crowd], boxes[boxes.is_crowd]
        columns = (objects.xyxy, objects.class_ids, crowds.xyxy)
        targets.append(BoxTargets(*(torch.from_numpy(column) for column in columns)))
    return targets


def resolve_classes(config: DetectorConfig, train_set: AnnotationSet, origin: Path) -> DetectorConfig:
    """The detector's configuration with the classes of the annotations; ConfigError where it names others."""
    names = train_set.categories.names
    if config.class_names not in ((FROM_ANNOTATIONS,), names):
        raise ConfigError(
            f"detector.class_names is {list(config.class_names)}, but {origin} has {list(names)}; "
            "leave detector.class_names and detector.num_classes out to take them from the annotations"
        )
    content = {**config.model_dump(), "num_classes": len(names), "class_names": names}
    return validate_config(DetectorConfig, content, origin=str(origin))


def training_images(config: TrainDetectorConfig) -> Path:
    """The folder of the training images. Raises DatasetError where it is neither named nor found."""
    return find_images(config.data.annotations, config.data.images)


def read_split(config: TrainDetectorConfig, path: Path, images: Path, split: str, console: Console) -> AnnotationSet:
    """Read the annotations of a split and print what was found and what was left out."""
    skip_broken, keep_masks = config.data.skip_broken, split == "train" and config.augmentation.copy_paste is not None
    annotations = read_annotations(path, images, split=split, keep_masks=keep_masks, skip_broken=skip_broken)
    if skip_broken:
        annotations = without_broken(annotations, images)
    for omission in annotations.left_out:
        if omission.reason == BROKEN:
            say(console, f"skipped: {omission.item}")
    lost = ", ".join(f"{count} {reason}" for reason, count in annotations.dropped.items())
    found = f"{len(annotations)} images, {annotations.num_boxes()} boxes, {len(annotations.categories)} classes"
    say(console, f"{path}: {found}" + (f"; left out: {lost}" if lost else ""))
    return annotations


def training_samples(
    config: TrainDetectorConfig, train_set: AnnotationSet, detector: DetectorConfig
) -> TrainingSamples:
    """The training images with augmentation. Raises DatasetError when files are missing or nothing is annotated."""
    if not train_set.num_objects():
        raise DatasetError(
            f"{config.data.annotations}: nothing to learn: {len(train_set)} images without a box"
            + first_reasons(train_set.left_out)
        )
    return TrainingSamples(
        train_set,
        training_images(config),
        config.augmentation,
        detector.preprocessing,
        config.seed,
        cache_images=config.data.cache_images,
    )


def batch_plan(
    config: TrainDetectorConfig, num_images: int, detector: DetectorConfig, accelerator: Accelerator
) -> BatchPlan:
    """This process's share of every step. Raises ConfigError when the batch cannot be divided."""
    if config.batch_size % (accelerator.num_processes * config.accumulate_steps):
        raise ConfigError(
            f"batch_size {config.batch_size} does not divide by {accelerator.num_processes} processes "
            f"times {config.accumulate_steps} parts (accumulate_steps)"
        )
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


def validation_set(
    config: TrainDetectorConfig, class_names: tuple[str, ...], console: Console
) -> tuple[AnnotationSet, Path, GroundTruth] | None:
    """The validation annotations, their folder and COCO's view of them; None without any.

    Raises DatasetError when files are missing or the classes are not the model's; says when the metric is undefined.
    """
    if config.data.val_annotations is None:
        return None
    images = find_images(config.data.val_annotations, config.data.val_images or config.data.images, "val")
    annotations = read_split(config, config.data.val_annotations, images, "val", console)
    check_files([images / image.file_name for image in annotations.images])
    ground_truth = GroundTruth(annotations, config.data.val_annotations)
    ground_truth.category_of_class(class_names)
    metric = config.evaluation.metric
    if evaluate_boxes(ground_truth, {}).value(metric) is None:
        what = "objects of that size" if annotations.num_objects() else "boxes"
        say(
            console,
            f"{config.data.val_annotations}: no {what}, so {metric} is undefined: "
            "no weights will be kept as the best, and nothing stops early",
        )
    return annotations, images, ground_truth

"""The configuration of a detector's training; `handeye show-config` prints it with every default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vision.config import Config
from vision.data.augmentation import AugmentationConfig
from vision.detector import DetectorConfig
from vision.losses.yolox_loss import YoloxLossConfig
from vision.training.optimizer import OptimizerConfig, SgdConfig
from vision.training.schedules import ScheduleConfig
from vision.training.weight_average import WeightAverageConfig

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class DataConfig(Config):
    """Where images and annotations lie (relative to the working directory) and how they are read."""

    annotations: Path
    """COCO file of the training images."""
    images: Path
    """Folder to which its file names are relative."""
    val_annotations: Path | None = None
    """COCO file of the images that AP is measured on; null trains without measuring."""
    val_images: Path | None = None
    """Folder of these images; null means the training images' folder."""
    num_workers: Annotated[int, Field(ge=0)] = 2
    """Processes that make batches ahead; 0 makes them in the training process."""
    cache_images: bool = False
    """Keep the decoded training images in memory: for small sets, whose mosaics would decode them again and again."""


class EvaluationConfig(Config):
    """How the averaged weights are measured on the validation images."""

    every_epochs: PositiveInt = 5
    """Measure after every so many epochs; the last epoch is always measured."""
    batch_size: PositiveInt = 16
    score_threshold: Fraction = 0.01
    """Weaker detections are left out."""
    iou_threshold: Fraction = 0.65
    """Of two boxes of a class that overlap more, the weaker one is dropped."""
    metric: Literal["AP", "AP50", "AP75"] = "AP"
    """The best weights are those with the highest value of this."""


class TrainDetectorConfig(Config):
    """Everything that decides a training run. The defaults are the published YOLOX recipe."""

    detector: DetectorConfig
    """num_classes and class_names come from the annotations and may be left out."""
    data: DataConfig
    start_from: Path | None = None
    """Checkpoint to fine-tune: every weight that fits is taken from it, a head for other classes starts anew."""
    epochs: PositiveInt = 300
    max_steps: PositiveInt | None = None
    """End after so many optimiser steps even if epochs are left; for tests and trials."""
    batch_size: PositiveInt = 64
    """Images of one step over all processes."""
    seed: Annotated[int, Field(ge=0)] = 0
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: YoloxLossConfig = YoloxLossConfig()
    l1_last_epochs: Annotated[int, Field(ge=0)] = 15
    """The last epochs, in which the absolute error of the boxes joins the loss; YOLOX: those with weak augmentation."""
    optimizer: OptimizerConfig = SgdConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    average: WeightAverageConfig | None = WeightAverageConfig()
    """Moving average of the weights, which is what is measured and shipped; null ships the weights themselves."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest Euclidean norm of all gradients together; null leaves them alone, as YOLOX does with SGD. AdamW needs it:
    a rare step with huge gradients fills its second moments and slows every weight for hundreds of steps."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights and the loss stay fp32. fp16 needs a GPU."""
    channels_last: bool = True
    """Memory layout of images and weights; faster on recent CPUs and GPUs."""
    evaluation: EvaluationConfig = EvaluationConfig()
    save_every_steps: PositiveInt = 500
    """Save the whole state after so many steps, besides at every epoch's end and when the run is asked to stop."""

    @model_validator(mode="before")
    @classmethod
    def _classes_may_wait(cls, content: Any) -> Any:
        """A detector without classes gets them from the annotations; until then it has one placeholder."""
        if not isinstance(content, dict) or not isinstance(content.get("detector", {}), dict):
            return content
        detector = dict(content.get("detector", {}))
        if "num_classes" not in detector and "class_names" not in detector:
            detector["class_names"] = (FROM_ANNOTATIONS,)
        return {**content, "detector": detector}


FROM_ANNOTATIONS = "(from the annotations)"
"""Stands for the class names until the annotations are read."""

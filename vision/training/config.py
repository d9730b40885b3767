"""The configuration of a detector's training; `handeye show-config` prints it with every default."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from handeye.vision.config import Config
from handeye.vision.data.augmentation import AugmentationConfig
from handeye.vision.detector import DetectorConfig
from handeye.vision.evaluation.protocol import ProtocolName
from handeye.vision.losses.build import LossConfig
from handeye.vision.training.distillation import DistillationConfig
from handeye.vision.training.features import require_compatible
from handeye.vision.training.network import PruningConfig
from handeye.vision.training.optimizer import EmaConfig, OptimizerConfig, SgdConfig
from handeye.vision.training.precision import Precision
from handeye.vision.training.quantization_aware import QuantizationAwareConfig
from handeye.vision.training.schedules import CosineScheduleConfig, ScheduleConfig

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class EarlyStoppingConfig(Config):
    """When to end a run that no longer improves; the best weights are kept in any case."""

    patience: PositiveInt = 10
    """Evaluations in a row that may fail to beat the best one before them."""
    least_gain: Annotated[float, Field(ge=0)] = 0.0
    """An evaluation beats the best one only by more than this."""


def has_stalled(config: EarlyStoppingConfig, values: Iterable[float]) -> bool:
    """Whether the last `patience` values all failed to beat the best one before them; a pure function of the values."""
    best, failures = None, 0
    for value in values:
        if best is None or value > best + config.least_gain:
            best, failures = value, 0
        else:
            failures += 1
    return failures >= config.patience


class DataConfig(Config):
    """Paths of images and annotations (relative to the working directory) and how they are read."""

    annotations: Path
    """The training images' boxes: a COCO file, a Pascal VOC folder or image list, or a YOLO data.yaml or folder."""
    images: Path | None = None
    """Folder to which its file names are relative; null finds it, as data.yaml says or in a usual layout."""
    val_annotations: Path | None = None
    """The same for the validation images (of a data.yaml, its split val); null trains without evaluation."""
    val_images: Path | None = None
    """Folder of these images; null means the training images' folder, and with `images: null` finds it likewise."""
    num_workers: Annotated[int, Field(ge=0)] = 2
    """Worker processes that prepare batches; 0 prepares them in the training process."""
    cache_images: bool = False
    """Keep the decoded training images in memory, for small data sets."""
    skip_broken: bool = False
    """Report and skip broken annotations and images instead of failing; every image is read first."""


class EvaluationConfig(Config):
    """How the weights (their EMA) are evaluated on the validation images."""

    every_epochs: PositiveInt = 5
    """Epochs between evaluations; the last epoch is always evaluated."""
    batch_size: PositiveInt = 16
    protocol: ProtocolName = "deployed"
    """What is done to the boxes before they are scored: deployed, as they will run, or published, as in the literature
    (not cut at the edges of the image)."""
    metric: Literal["AP", "AP50", "AP75"] = "AP"
    """The best weights are those with the highest value of this."""


class TrainDetectorConfig(Config):
    """Everything that determines a training run. But for the loss, the defaults are the published YOLOX recipe."""

    detector: DetectorConfig
    """num_classes and class_names come from the annotations and may be left out."""
    data: DataConfig
    start_from: Path | None = None
    """Checkpoint to fine-tune: every weight that fits is taken from it; a head for other classes starts fresh. A
    pruned one brings its widths along."""
    pruning: PruningConfig | None = None
    """Remove channels or keep small weights at zero; start_from should name a trained detector then."""
    quantization_aware: QuantizationAwareConfig | None = None
    """Quantization-aware training with int8 inputs and kernels; start_from should name a trained detector then."""
    distillation: DistillationConfig | None = None
    """A teacher to imitate besides learning the task. With accumulate_steps the losses of the parts of a batch are then
    averaged."""
    epochs: PositiveInt = 300
    max_steps: PositiveInt | None = None
    """End after this number of optimizer steps even if epochs are left; for tests and trials."""
    batch_size: PositiveInt = 64
    """Images of one step over all processes."""
    accumulate_steps: PositiveInt = 1
    """Gradient accumulation: the number of parts into which each process's share of a batch is split to fit into
    memory. With the losses of YOLOX and RT-DETR the gradients are those of the whole batch, but for batch norm, which
    sees the parts."""
    seed: Annotated[int, Field(ge=0)] = 0
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig | None = None
    """null is the loss that the head was published with."""
    l1_last_epochs: Annotated[int, Field(ge=0)] = 15
    """The last epochs, in which the absolute error of the boxes joins the loss; YOLOX: those with weak augmentation.
    Other heads learn from it always or never."""
    optimizer: OptimizerConfig = SgdConfig()
    schedule: ScheduleConfig = CosineScheduleConfig()
    ema: EmaConfig | None = EmaConfig()
    """Moving average of the weights, which is evaluated and saved; null saves the weights themselves."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest Euclidean norm of all gradients together; null does not clip, as YOLOX with SGD. AdamW needs it: a rare
    step with huge gradients fills its second moments and slows every weight for hundreds of steps."""
    freeze: tuple[str, ...] = ()
    """Names of modules that are not trained, nor anything below them: backbone, backbone.stages.0. Their batch norms
    keep their statistics too."""
    # Not auto: a bare configuration then computes the same on every machine, and sync_batch_norm and accumulate_steps
    # stay exact, which bf16 is not. Recipes, which are for speed, say auto.
    precision: Precision = "fp32"
    """Mixed precision of the forward and backward pass; weights and the loss stay fp32. auto is bf16 where all
    processes have it (GPUs from compute capability 8.0, CPUs with AMX or AVX512-BF16), else fp32; a run keeps its first
    choice. Without such hardware bf16 takes many times as long as fp32. fp16 needs a GPU."""
    channels_last: bool = True
    """Memory layout of images and weights; faster on recent CPUs and GPUs."""
    compile: bool = False
    """Compile the network with torch.compile: the first step of each image size takes minutes, the others less time.
    Best without multi_scale."""
    sync_batch_norm: bool = False
    """Batch norm over the images of all processes, for few images on each GPU; on a single one it changes nothing. On
    CPUs YOLOX then learns the same in fp32 to the last bit in 1, 2, 4, ... processes of as many threads each."""
    shard_weights: bool = False
    """Shard weights, gradients, EMA and optimizer state over the processes (FSDP2), for networks that leave a GPU no
    memory for images; slower than a replica on each. On a single process it changes nothing. Needs torch 2.7."""
    evaluation: EvaluationConfig = EvaluationConfig()
    early_stopping: EarlyStoppingConfig | None = None
    """End the run when its evaluations no longer improve; null trains all epochs."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where losses and metrics are logged besides the run folder; TensorBoard's files lie in its loggers/, the others
    are services whose packages are installed separately."""
    save_every_steps: PositiveInt = 500
    """Steps between saved states, besides at the end of every epoch and when the run is asked to stop."""

    @model_validator(mode="after")
    def _stopping_needs_measurements(self) -> TrainDetectorConfig:
        if self.early_stopping is not None and self.data.val_annotations is None:
            raise ValueError("early_stopping needs evaluations: name data.val_annotations")
        return self

    @model_validator(mode="after")
    def _features_go_together(self) -> TrainDetectorConfig:
        require_compatible(self._chosen_features(), has_trained_weights=self.start_from is not None)
        return self

    @model_validator(mode="before")
    @classmethod
    def _classes_may_wait(cls, content: Any) -> Any:
        """A detector without classes gets them from the annotations; until then it has a placeholder."""
        if not isinstance(content, dict) or not isinstance(content.get("detector", {}), dict):
            return content
        detector = dict(content.get("detector", {}))
        if "num_classes" not in detector and "class_names" not in detector:
            detector["class_names"] = (FROM_ANNOTATIONS,)
        return {**content, "detector": detector}

    def _chosen_features(self) -> set[str]:
        """The keys of the features that are on, and `key=value` where the value decides what they go together with."""
        keys = ("pruning", "quantization_aware", "distillation", "compile", "shard_weights", "sync_batch_norm")
        chosen = {key for key in keys if getattr(self, key)}
        if self.pruning is not None:
            chosen.add(f"pruning.kind={self.pruning.kind}")
        return chosen | {f"precision={self.precision}"}


FROM_ANNOTATIONS = "(from the annotations)"
"""Stands for the class names until the annotations are read."""

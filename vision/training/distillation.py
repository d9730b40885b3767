"""Learning from a teacher: a trained detector whose answers and features a smaller one imitates while it learns.

Equation (28.29) of the specification: L = alpha L_task + (1 - alpha) KL(p_teacher || p_student), to which boxes and
features join. The teacher sees the same augmented pictures, in eval mode and without gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from vision.boxes.targets import BoxTargets
from vision.checkpoints.native import load_detector
from vision.config import Config
from vision.data.batches import normalise_images
from vision.detector import Detector, DetectorConfig, DetectorOutput
from vision.errors import ConfigError
from vision.heads.outputs import GridOutput, QueryOutput
from vision.heads.yolo_grid import YoloGridHeadConfig
from vision.losses.imitation import imitate_cells, imitate_features, imitate_queries

Weight = Annotated[float, Field(ge=0)]

SCORING = {"detr": "softmax", "rtdetr": "sigmoid", "dfine": "sigmoid"}
"""How each head of queries scores; those that score alike can teach one another."""


class DistillationConfig(Config):
    """Who teaches, and how much its word counts."""

    teacher: Path
    """Native checkpoint (.safetensors) of any detector with the same classes."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the task's own loss; the teacher's has the rest."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """What logits are divided by before they are compared."""
    logits_weight: Weight = 1.0
    """Of classes and objectness; 0 with box_weight 0 leaves only the features, which any two architectures share."""
    box_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    """Of the necks' maps, at the strides that both have; 1 x 1 convolutions bring the student's to the teacher's
    channels. They are trained along and not shipped."""


class StudentOutput(NamedTuple):
    """What a student says, and its pyramid in the teacher's channels."""

    output: DetectorOutput
    adapted: list[Tensor]


class Student(nn.Module):
    """A detector and the adapters of its pyramid: what learns when a teacher is there."""

    def __init__(self, detector: Detector, adapters: nn.ModuleDict) -> None:
        super().__init__()
        self.detector, self.adapters = detector, adapters
        self.tap = PyramidTap(detector)

    def forward(self, images: Float[Tensor, "B 3 H W"], targets: Sequence[BoxTargets]) -> StudentOutput:
        """(B, 3, H, W) -> the detector's output and one map for each adapter, fine to coarse."""
        output = self.detector(images, targets)
        pyramid = self.tap.take()
        return StudentOutput(output, [adapter(pyramid[int(stride)]) for stride, adapter in self.adapters.items()])


class PyramidTap:
    """Listens to a detector's neck."""

    def __init__(self, detector: Detector) -> None:
        self._strides, self._pyramid = detector.neck.strides, []
        detector.neck.register_forward_hook(self._hear)

    def take(self) -> dict[int, Tensor]:
        """The maps (B, C, H, W) of the last call by stride; they are let go of."""
        pyramid, self._pyramid = dict(zip(self._strides, self._pyramid, strict=True)), []
        return pyramid

    def _hear(self, neck: nn.Module, inputs: object, pyramid: Sequence[Tensor]) -> None:
        del neck, inputs
        self._pyramid = list(pyramid)


class Distillation:
    """A teacher and what its student is told; `network` is what is to be trained in the detector's place."""

    def __init__(self, config: DistillationConfig, detector: Detector, device: torch.device) -> None:
        """Raises ModelFileError for a teacher that cannot be read, ConfigError for one that cannot teach `detector`."""
        self.config = config
        self.teacher = load_detector(config.teacher).requires_grad_(requires_grad=False).to(device)
        require_compatible(config, detector.config, self.teacher)
        self.strides = shared_strides(detector, self.teacher) if config.feature_weight else ()
        self.tap = PyramidTap(self.teacher)
        self.network = Student(detector, _adapters(detector, self.teacher, self.strides)).to(device)

    def add_to(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser train the adapters too, at its peak rate and without decay."""
        if adapters := list(self.network.adapters.parameters()):
            optimizer.add_param_group({"params": adapters, "weight_decay": 0.0})

    @torch.no_grad()
    def ask(self, images: UInt8[Tensor, "B 3 H W"]) -> StudentOutput:
        """The teacher's answer to pictures in 0..255, and its pyramid at the strides that the student has too."""
        output = self.teacher.eval()(normalise_images(images, self.teacher.config.preprocessing))
        pyramid = self.tap.take()
        return StudentOutput(output, [pyramid[stride] for stride in self.strides])

    def join(
        self, task: dict[str, Float[Tensor, ""]], student: StudentOutput, teacher: StudentOutput
    ) -> dict[str, Float[Tensor, ""]]:
        """The losses of the task and of the imitation, weighted, and their total, which is (28.29)."""
        with torch.autocast(student.output.rows.device.type, enabled=False):
            imitated = self._imitation(student, teacher)
        alpha = self.config.alpha
        losses = {name: alpha * value for name, value in task.items() if name != "total"}
        losses |= {name: (1 - alpha) * value for name, value in imitated.items()}
        return {"total": alpha * task["total"] + (1 - alpha) * torch.stack(list(imitated.values())).sum(), **losses}

    def _imitation(self, student: StudentOutput, teacher: StudentOutput) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.logits_weight or config.box_weight:
            parts = _imitated_answers(student.output, teacher.output, config.temperature, self.teacher.config)
            for name, value in parts.items():
                losses[name] = (config.box_weight if name == "imitated_box" else config.logits_weight) * value
        if config.feature_weight:
            losses["imitated_features"] = config.feature_weight * imitate_features(student.adapted, teacher.adapted)
        return losses


def require_compatible(config: DistillationConfig, student: DetectorConfig, teacher: Detector) -> None:
    """Raise ConfigError, saying what would be right, where the teacher cannot teach such a student."""
    about = f"distillation.teacher {config.teacher}"
    theirs = teacher.config
    if theirs.class_names != student.class_names:
        raise ConfigError(
            f"{about}: knows the classes {_named(theirs.class_names)}, the student learns "
            f"{_named(student.class_names)}; both need the same in the same order"
        )
    if not (config.logits_weight or config.box_weight or config.feature_weight):
        raise ConfigError("distillation: all its weights are 0, so the teacher would teach nothing; leave it out")
    if (config.logits_weight or config.box_weight) and (why := _why_answers_differ(student, theirs)):
        raise ConfigError(
            f"{about}: its answers cannot be compared with the student's: {why}. "
            "With distillation.logits_weight=0 and distillation.box_weight=0 it teaches by features alone"
        )


def shared_strides(student: Detector, teacher: Detector) -> tuple[int, ...]:
    """The strides at which both necks have a map, fine to coarse; ConfigError where there are none."""
    strides = tuple(stride for stride in student.neck.strides if stride in teacher.neck.strides)
    if not strides:
        raise ConfigError(
            f"distillation.feature_weight: the student's maps have strides {list(student.neck.strides)}, the "
            f"teacher's {list(teacher.neck.strides)}; none is in both, so set it to 0"
        )
    return strides


def _why_answers_differ(student: DetectorConfig, teacher: DetectorConfig) -> str | None:
    ours, theirs = student.head, teacher.head
    if ours.kind in SCORING and theirs.kind in SCORING:
        same = SCORING[ours.kind] == SCORING[theirs.kind]
        return None if same else f"{theirs.kind} chooses by {SCORING[theirs.kind]}, {ours.kind} by {SCORING[ours.kind]}"
    if ours.kind != theirs.kind:
        return f"its head is of kind {theirs.kind}, the student's of kind {ours.kind}"
    if isinstance(ours, YoloGridHeadConfig) and isinstance(theirs, YoloGridHeadConfig):
        if (ours.version, ours.anchors) != (theirs.version, theirs.anchors):
            return f"its boxes are those of {theirs.version}, the student's of {ours.version}, or the anchors differ"
        if ours.version == "v1":
            return "v1 predicts no probabilities, but their values"
    return None


def _imitated_answers(
    student: DetectorOutput, teacher: DetectorOutput, temperature: float, config: DetectorConfig
) -> dict[str, Tensor]:
    if isinstance(student, QueryOutput) and isinstance(teacher, QueryOutput):
        return imitate_queries(student, teacher, temperature)
    assert isinstance(student, GridOutput)
    assert isinstance(teacher, GridOutput)
    if len(student.strides) != len(teacher.strides):
        raise ConfigError(
            f"distillation: the teacher answers for {len(teacher.strides)} cells of a picture, the student for "
            f"{len(student.strides)}; their necks need maps of the same strides"
        )
    is_choice = isinstance(config.head, YoloGridHeadConfig) and config.head.version == "v2"
    return imitate_cells(student, teacher, temperature, is_choice=is_choice)


def _adapters(student: Detector, teacher: Detector, strides: Sequence[int]) -> nn.ModuleDict:
    """1 x 1 convolutions from the channels that the student's maps have to the teacher's; pruned necks differ from
    their plan, so the maps themselves are asked."""
    if not strides:
        return nn.ModuleDict()
    ours, theirs = _map_channels(student), _map_channels(teacher)
    return nn.ModuleDict({str(stride): nn.Conv2d(ours[stride], theirs[stride], 1, bias=False) for stride in strides})


@torch.no_grad()
def _map_channels(detector: Detector) -> dict[int, int]:
    """Channels of the neck's maps by stride."""
    device, was_training = next(detector.parameters()).device, detector.training
    size = 2 * detector.backbone.strides[-1]
    pyramid = detector.eval().neck(detector.backbone(torch.zeros(1, 3, size, size, device=device)))
    detector.train(was_training)
    return {stride: maps.shape[1] for stride, maps in zip(detector.neck.strides, pyramid, strict=True)}


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

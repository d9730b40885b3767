"""Knowledge distillation: train a detector to imitate the outputs and features of a larger, trained one.

Hinton et al. 2015 (arXiv:1503.02531): L = alpha L_task + (1 - alpha) KL(p_teacher || p_student), here with box and
feature losses added. Logits are divided by a temperature, so that small probabilities matter too, and the divergence
is multiplied by its square, so that its gradients keep their size. The teacher sees the same augmented images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.assignment.hungarian import match_hungarian
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import aligned_iou, pairwise_giou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.checkpoints.native import load_detector
from handeye.vision.config import Config
from handeye.vision.data.batches import normalise_images
from handeye.vision.detector import Detector, DetectorConfig, DetectorOutput
from handeye.vision.errors import ConfigError
from handeye.vision.heads.outputs import GridOutput, QueryOutput
from handeye.vision.heads.yolo_grid import YoloGridHeadConfig
from handeye.vision.losses.counting import mean_over_processes

Weight = Annotated[float, Field(ge=0)]

SCORING = {"detr": "softmax", "rtdetr": "sigmoid", "dfine": "sigmoid"}
"""How each query-based head scores; those with the same scoring can teach one another."""
CERTAIN = 0.3
"""A query of the teacher stands for an object when one of its classes has at least this probability."""
L1_COST, GIOU_COST, CLASS_COST = 5.0, 2.0, 2.0
"""Of matching a student's query to a teacher's; DETR's weights for matching queries to objects."""


class DistillationConfig(Config):
    """The teacher, and the weights of its losses."""

    teacher: Path
    """Native checkpoint (.safetensors) of any detector with the same classes."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the task loss; the imitation losses get 1 - alpha."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Divides the logits of both before they are compared."""
    logits_weight: Weight = 1.0
    """Weight of classes and objectness; with this and box_weight at 0 only features are imitated, which works between
    any two architectures."""
    box_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    """Weight of the necks' feature maps, at the strides that both have; 1 x 1 convolutions map the student's channels
    to the teacher's. They are trained too, but not saved with the weights."""


class StudentOutput(NamedTuple):
    """The output of a student or teacher, and its feature maps in the teacher's channels."""

    output: DetectorOutput
    adapted: list[Tensor]


class Student(nn.Module):
    """A detector and the adapters of its feature maps: what is trained with a teacher."""

    def __init__(self, detector: Detector, adapters: nn.ModuleDict) -> None:
        super().__init__()
        self.detector, self.adapters = detector, adapters
        self.tap = PyramidTap(detector)

    def forward(self, images: Float[Tensor, "B 3 H W"], targets: Sequence[BoxTargets]) -> StudentOutput:
        """(B, 3, H, W) -> the detector's output and one feature map per adapter, fine to coarse."""
        output = self.detector(images, targets)
        pyramid = self.tap.take()
        return StudentOutput(output, [adapter(pyramid[int(stride)]) for stride, adapter in self.adapters.items()])


class PyramidTap:
    """Keeps the feature maps of a detector's last forward pass (a hook on its neck)."""

    def __init__(self, detector: Detector) -> None:
        self._strides, self._pyramid = detector.neck.strides, []
        detector.neck.register_forward_hook(self._keep)

    def take(self) -> dict[int, Tensor]:
        """The maps (B, C, H, W) of the last forward pass by stride; afterwards they are no longer held here."""
        pyramid, self._pyramid = dict(zip(self._strides, self._pyramid, strict=True)), []
        return pyramid

    def _keep(self, neck: nn.Module, inputs: object, pyramid: Sequence[Tensor]) -> None:
        del neck, inputs
        self._pyramid = list(pyramid)


class Distillation:
    """A teacher and the losses of imitating it; `network` is trained in place of the detector."""

    def __init__(self, config: DistillationConfig, detector: Detector, device: torch.device) -> None:
        """Raises ModelFileError for a teacher that cannot be read, ConfigError for one that cannot teach `detector`."""
        self.config = config
        self.teacher = load_detector(config.teacher).requires_grad_(requires_grad=False).to(device)
        require_compatible(config, detector.config, self.teacher)
        self.strides = shared_strides(detector, self.teacher) if config.feature_weight else ()
        self.tap = PyramidTap(self.teacher)
        self.network = Student(detector, _adapters(detector, self.teacher, self.strides)).to(device)

    def param_groups(self) -> list[dict[str, Any]]:
        """The adapters for the optimizer, which trains them at its peak rate and without weight decay."""
        adapters = list(self.network.adapters.parameters())
        return [{"params": adapters, "weight_decay": 0.0}] if adapters else []

    @torch.no_grad()
    def ask(self, images: UInt8[Tensor, "B 3 H W"]) -> StudentOutput:
        """The teacher's output for images in 0..255, and its feature maps at the strides that the student has too."""
        output = self.teacher.eval()(normalise_images(images, self.teacher.config.preprocessing))
        pyramid = self.tap.take()
        return StudentOutput(output, [pyramid[stride] for stride in self.strides])

    def join(
        self,
        task: dict[str, Float[Tensor, ""]],
        student_output: StudentOutput,
        teacher_output: StudentOutput,
    ) -> dict[str, Float[Tensor, ""]]:
        """The weighted losses of task and imitation, and their total: alpha task + (1 - alpha) imitation."""
        with torch.autocast(student_output.output.rows.device.type, enabled=False):
            imitated = self._imitation(student_output, teacher_output)
        alpha = self.config.alpha
        losses = {name: alpha * value for name, value in task.items() if name != "total"}
        losses |= {name: (1 - alpha) * value for name, value in imitated.items()}
        return {"total": alpha * task["total"] + (1 - alpha) * torch.stack(list(imitated.values())).sum(), **losses}

    def _imitation(self, student: StudentOutput, teacher: StudentOutput) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.logits_weight or config.box_weight:
            parts = _imitated_outputs(student.output, teacher.output, config.temperature, self.teacher.config)
            for name, value in parts.items():
                losses[name] = (config.box_weight if name == "imitated_box" else config.logits_weight) * value
        if config.feature_weight:
            losses["imitated_features"] = config.feature_weight * imitate_features(student.adapted, teacher.adapted)
        return losses


def require_compatible(config: DistillationConfig, student: DetectorConfig, teacher: Detector) -> None:
    """Raise ConfigError, saying what would be right, where the student cannot imitate the teacher."""
    about = f"distillation.teacher {config.teacher}"
    theirs = teacher.config
    if theirs.class_names != student.class_names:
        raise ConfigError(
            f"{about}: has the classes {_named(theirs.class_names)}; the student has "
            f"{_named(student.class_names)}; both need the same in the same order"
        )
    if not (config.logits_weight or config.box_weight or config.feature_weight):
        raise ConfigError("distillation: all its weights are 0, so nothing would be imitated; leave it out")
    if (config.logits_weight or config.box_weight) and (why := _why_outputs_differ(student, theirs)):
        raise ConfigError(
            f"{about}: its outputs cannot be compared with the student's: {why}. "
            "With distillation.logits_weight=0 and distillation.box_weight=0 only features are imitated"
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


def _why_outputs_differ(student: DetectorConfig, teacher: DetectorConfig) -> str | None:
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
            return "v1 predicts probabilities directly, not logits"
    return None


def _imitated_outputs(
    student: DetectorOutput, teacher: DetectorOutput, temperature: float, config: DetectorConfig
) -> dict[str, Tensor]:
    if isinstance(student, QueryOutput) and isinstance(teacher, QueryOutput):
        return imitate_queries(student, teacher, temperature)
    assert isinstance(student, GridOutput)
    assert isinstance(teacher, GridOutput)
    if len(student.strides) != len(teacher.strides):
        raise ConfigError(
            f"distillation: the teacher predicts {len(teacher.strides)} cells of an image, the student "
            f"{len(student.strides)}; their necks need maps of the same strides"
        )
    is_choice = isinstance(config.head, YoloGridHeadConfig) and config.head.version == "v2"
    return imitate_cells(student, teacher, temperature, is_choice=is_choice)


def _adapters(student: Detector, teacher: Detector, strides: Sequence[int]) -> nn.ModuleDict:
    """1 x 1 convolutions from the student's channels to the teacher's.

    The channels are counted in the maps: those of a pruned neck differ from its configuration.
    """
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


def binary_kl(
    student_logits: Float[Tensor, "*shape"], teacher_logits: Float[Tensor, "*shape"], temperature: float
) -> Float[Tensor, "*shape"]:
    """T^2 KL(p_teacher || p_student) of independent labels with probability sigmoid(logit / T), elementwise."""
    student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
    wanted = teacher.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(student, wanted, reduction="none")
    entropy = functional.binary_cross_entropy_with_logits(teacher, wanted, reduction="none")
    return temperature**2 * (cross_entropy - entropy)


def softmax_kl(
    student_logits: Float[Tensor, "*shape classes"], teacher_logits: Float[Tensor, "*shape classes"], temperature: float
) -> Float[Tensor, "*shape"]:
    """T^2 KL(p_teacher || p_student) over the classes of the last axis, p = softmax(logits / T)."""
    student = (student_logits.float() / temperature).log_softmax(dim=-1)
    teacher = (teacher_logits.float() / temperature).log_softmax(dim=-1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)


def imitate_cells(
    student: GridOutput, teacher: GridOutput, temperature: float, *, is_choice: bool
) -> dict[str, Float[Tensor, ""]]:
    """The parts `imitated_objectness`, `imitated_class` and `imitated_box` (1 - IoU) of two heads with the same cells.

    Class and box of a cell are weighted by the teacher's objectness there. All sums are divided by the teacher's
    sum of objectness over all processes, at least 1. is_choice: the classes exclude one another (YOLO v2).
    """
    weight = teacher.objectness_logits.float().sigmoid().squeeze(-1)
    if is_choice:
        classes = softmax_kl(student.class_logits, teacher.class_logits, temperature)
    else:
        classes = binary_kl(student.class_logits, teacher.class_logits, temperature).sum(dim=-1)
    boxes = 1 - aligned_iou(cxcywh_to_xyxy(student.boxes_cxcywh), cxcywh_to_xyxy(teacher.boxes_cxcywh))
    objectness = binary_kl(student.objectness_logits, teacher.objectness_logits, temperature)
    divisor = mean_over_processes(weight.sum()).clamp(min=1)
    return {
        "imitated_objectness": objectness.sum() / divisor,
        "imitated_class": (weight * classes).sum() / divisor,
        "imitated_box": (weight * boxes).sum() / divisor,
    }


def imitate_queries(student: QueryOutput, teacher: QueryOutput, temperature: float) -> dict[str, Float[Tensor, ""]]:
    """The parts `imitated_class` and `imitated_box` (absolute error of cx, cy, w, h) of two query-based heads.

    Queries have no fixed position, so each of the teacher's that is certain of an object is matched to one of the
    student's; the student's other queries learn from the task alone. Sums are divided by the number of the teacher's
    certain queries over all processes, at least 1.
    """
    student_index, teacher_index = _matched_queries(student, teacher)
    student_logits, teacher_logits = student.logits[student_index], teacher.logits[teacher_index]
    if student.scoring == "softmax":
        classes = softmax_kl(student_logits, teacher_logits, temperature)
    else:
        classes = binary_kl(student_logits, teacher_logits, temperature)
    boxes = student.boxes_cxcywh_norm[student_index].float() - teacher.boxes_cxcywh_norm[teacher_index].float()
    count = torch.tensor(float(len(student_index[0])), device=student.logits.device)
    divisor = mean_over_processes(count).clamp(min=1)
    return {"imitated_class": classes.sum() / divisor, "imitated_box": boxes.abs().sum() / divisor}


def imitate_features(
    student: Sequence[Float[Tensor, "B _ _ _"]], teacher: Sequence[Float[Tensor, "B _ _ _"]]
) -> Float[Tensor, ""]:
    """1 - Pearson's correlation of every channel over batch and cells, the mean over channels and levels.

    Cao et al. 2022 (arXiv:2207.02039): magnitudes differ between networks and would dominate a distance.
    """
    distances = [
        (_standardised(ours.float()) - _standardised(theirs.float())).square().mean() / 2
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return torch.stack(distances).mean()


@torch.no_grad()
def _matched_queries(student: QueryOutput, teacher: QueryOutput) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Image and query indices, of the student and of the teacher, of the matching with the least cost."""
    student_boxes, teacher_boxes = student.boxes_cxcywh_norm.float(), teacher.boxes_cxcywh_norm.float()
    certain = [scores.amax(dim=-1).ge(CERTAIN).nonzero().squeeze(-1) for scores in teacher.scores]
    most = max(len(queries) for queries in certain)
    cost = torch.zeros(1, *student.logits.shape[:2], most, device=student.logits.device)
    for image, queries in enumerate(certain):
        ours, theirs = student_boxes[image], teacher_boxes[image][queries]
        cost[0, image, :, : len(queries)] = (
            L1_COST * torch.cdist(ours, theirs, p=1)
            - GIOU_COST * pairwise_giou(cxcywh_to_xyxy(ours), cxcywh_to_xyxy(theirs))
            + CLASS_COST * torch.cdist(student.scores[image], teacher.scores[image][queries], p=1)
        )
    matches = match_hungarian(cost, [len(queries) for queries in certain])[0]
    teacher_index = torch.cat(certain)[matches.target_index]
    return (matches.image_index, matches.query_index), (matches.image_index, teacher_index)


def _standardised(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Mean 0 and variance 1 for every channel; a constant one becomes 0."""
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0, keepdim=True)
    return (features - mean) * (variance + 1e-6).rsqrt()

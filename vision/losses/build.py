"""Build a detection loss from its configuration, or the published loss of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from typing_extensions import assert_never

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import HeadConfig
from handeye.vision.heads.detr import DetrHeadConfig
from handeye.vision.heads.dfine import DfineHeadConfig
from handeye.vision.heads.rtdetr import RtdetrHeadConfig
from handeye.vision.heads.yolo_grid import YoloGridHeadConfig
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.losses.counting import Count, average_count
from handeye.vision.losses.dfine_loss import DfineLoss, DfineLossConfig
from handeye.vision.losses.set_loss import DETR_LOSS, SetLoss, SetLossConfig
from handeye.vision.losses.yolo_loss import (
    YoloLoss,
    YoloV1LossConfig,
    YoloV2LossConfig,
    YoloV3LossConfig,
    YoloV5LossConfig,
    published_yolo_loss,
)
from handeye.vision.losses.yolox_loss import YoloxLoss, YoloxLossConfig

LossConfig = Annotated[
    YoloxLossConfig
    | SetLossConfig
    | DfineLossConfig
    | YoloV1LossConfig
    | YoloV2LossConfig
    | YoloV3LossConfig
    | YoloV5LossConfig,
    Field(discriminator="kind"),
]
"""A loss, told apart by `kind`."""


@runtime_checkable
class DetectionLoss(Protocol):
    """Interface of a loss: the parts, weighted, and their sum as `total`."""

    def __call__(
        self, output: Any, targets: Sequence[BoxTargets], *, with_l1: bool = False
    ) -> dict[str, Float[Tensor, ""]]:
        """output: of the head that the loss is for. with_l1: the last epochs, where some losses add a part."""
        ...


def build_loss(config: LossConfig | None, head: HeadConfig, count: Count = average_count) -> DetectionLoss:
    """The loss of that configuration, or the published one of that head when there is none.

    count: makes the divisor of losses that `divides_once` is true of. Raises ConfigError for a loss that does not fit
    the output of the head.
    """
    published = published_loss(head)
    config = config or published
    _check_fit(config, published, head.kind)
    match config:
        case YoloxLossConfig():
            return YoloxLoss(config, count)
        case YoloV1LossConfig() | YoloV2LossConfig() | YoloV3LossConfig() | YoloV5LossConfig():
            return YoloLoss(config)
        case SetLossConfig():
            return SetLoss(config, count)
        case DfineLossConfig():
            return DfineLoss(config)
        case _:
            assert_never(config)


def divides_once(config: LossConfig) -> bool:
    """Whether all sums of a loss are divided by one and the same count, so that parts of a batch add up exactly.

    The others have means of several kinds.
    """
    if isinstance(config, SetLossConfig):
        return config.classification == "varifocal"
    return isinstance(config, YoloxLossConfig)


def grows_with_batch(config: LossConfig) -> bool:
    """Whether more images make a loss larger, so that parts of a batch are to be added, not averaged."""
    return isinstance(config, YoloV5LossConfig)


def published_loss(head: HeadConfig) -> LossConfig:
    """The loss that the authors of the head trained it with."""
    match head:
        case YoloxHeadConfig():
            return YoloxLossConfig()
        case YoloGridHeadConfig():
            return published_yolo_loss(head.version)
        case DetrHeadConfig():
            return DETR_LOSS
        case RtdetrHeadConfig():
            return SetLossConfig()
        case DfineHeadConfig():
            return DfineLossConfig()
        case _:
            assert_never(head)


def _check_fit(config: LossConfig, published: LossConfig, head_kind: str) -> None:
    if config.kind != published.kind:
        raise ConfigError(f"loss.kind: a head of kind {head_kind} takes the loss {published.kind}, got {config.kind}")
    wanted, given = getattr(published, "classification", None), getattr(config, "classification", None)
    if wanted != given:
        raise ConfigError(f"loss.classification: a head of kind {head_kind} takes {wanted}, got {given}")

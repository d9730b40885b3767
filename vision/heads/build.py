"""Build a detection head from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from typing_extensions import assert_never

from handeye.vision.heads.detr import DetrHead, DetrHeadConfig
from handeye.vision.heads.dfine import DfineHead, DfineHeadConfig
from handeye.vision.heads.rtdetr import RtdetrHead, RtdetrHeadConfig
from handeye.vision.heads.yolo_grid import YoloGridHead, YoloGridHeadConfig
from handeye.vision.heads.yolox import YoloxHead, YoloxHeadConfig

HeadConfig = Annotated[
    YoloxHeadConfig | YoloGridHeadConfig | DetrHeadConfig | RtdetrHeadConfig | DfineHeadConfig,
    Field(discriminator="kind"),
]
"""A head of one kind, told apart by `kind`."""
Head = YoloxHead | YoloGridHead | DetrHead | RtdetrHead | DfineHead


def build_head(config: HeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> Head:
    """The head for a pyramid of these widths and strides, with fresh weights."""
    match config:
        case YoloxHeadConfig():
            return YoloxHead(config, channels, strides, num_classes)
        case YoloGridHeadConfig():
            return YoloGridHead(config, channels, strides, num_classes)
        case DetrHeadConfig():
            return DetrHead(config, channels, strides, num_classes)
        case DfineHeadConfig():
            return DfineHead(config, channels, strides, num_classes)
        case RtdetrHeadConfig():
            return RtdetrHead(config, channels, strides, num_classes)
        case _:
            assert_never(config)

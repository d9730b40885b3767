"""YOLOX as it is published (Ge et al. 2021, arXiv:2107.08430): one plan in six sizes."""

from __future__ import annotations

from typing import Literal

from vision.backbones.cspdarknet import CSPDarknetConfig
from vision.checkpoints.coco_names import COCO_NAMES
from vision.detector import DetectorConfig
from vision.heads.yolox import YoloxHeadConfig
from vision.images import Preprocessing
from vision.necks.path_aggregation import PathAggregationConfig

YoloxVariant = Literal["nano", "tiny", "s", "m", "l", "x"]


def yolox_config(variant: YoloxVariant, class_names: tuple[str, ...] = COCO_NAMES) -> DetectorConfig:
    """YOLOX in one of its published sizes, for the given classes."""
    depth, width, side, depthwise, _ = YOLOX_SIZES[variant]
    return DetectorConfig(
        backbone=CSPDarknetConfig(depth=depth, width=width, depthwise=depthwise),
        neck=PathAggregationConfig(depth=depth, depthwise=depthwise),
        head=YoloxHeadConfig(hidden_dim=int(256 * width), depthwise=depthwise),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=Preprocessing(size_hw=(side, side)),
    )


YOLOX_SIZES: dict[YoloxVariant, tuple[float, float, int, bool, float]] = {
    "nano": (0.33, 0.25, 416, True, 0.258),
    "tiny": (0.33, 0.375, 416, False, 0.328),
    "s": (0.33, 0.5, 640, False, 0.405),
    "m": (0.67, 0.75, 640, False, 0.469),
    "l": (1.0, 1.0, 640, False, 0.497),
    "x": (1.33, 1.25, 640, False, 0.511),
}
"""Depth, width, side of the input in pixels, depthwise, published COCO AP."""

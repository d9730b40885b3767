"""The model zoo: the published detectors that can be loaded, with the licences of their code and of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from vision.backbones.cspdarknet import CSPDarknetConfig
from vision.checkpoints.coco_names import COCO_NAMES
from vision.detector import Detector, DetectorConfig
from vision.heads.yolox import YoloxHeadConfig
from vision.images import Preprocessing
from vision.necks.path_aggregation import PathAggregationConfig

YoloxVariant = Literal["nano", "tiny", "s", "m", "l", "x"]


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published detector: its configuration, where its weights come from and what may be done with them."""

    name: str
    config: DetectorConfig
    coco_ap: float
    """AP on COCO val2017 as its authors print it, a fraction."""
    ap_source: str
    code_licence: str
    weights_licence: str
    weights_address: str


def published_models() -> dict[str, PublishedModel]:
    """Every model of the zoo by name, small to large."""
    return {model.name: model for model in map(_published_yolox, YOLOX_SIZES)}


def yolox_config(variant: YoloxVariant, class_names: tuple[str, ...] = COCO_NAMES) -> DetectorConfig:
    """YOLOX in one of its published sizes (Ge et al. 2021, arXiv:2107.08430), for the given classes."""
    depth, width, side, depthwise, _ = YOLOX_SIZES[variant]
    return DetectorConfig(
        backbone=CSPDarknetConfig(depth=depth, width=width, depthwise=depthwise),
        neck=PathAggregationConfig(depth=depth, depthwise=depthwise),
        head=YoloxHeadConfig(hidden_dim=int(256 * width), depthwise=depthwise),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=Preprocessing(size_hw=(side, side)),
    )


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a detector costs: its parameters, and the operations of one image at its own input size."""

    parameters: int
    gflops: float
    """1e9 floating-point operations, a multiplication and an addition counted as two; convolutions only."""


def count_cost(config: DetectorConfig) -> ModelCost:
    """Count parameters and operations without computing anything: shapes flow through torch's meta device."""
    with torch.device("meta"), torch.no_grad():
        detector = Detector(config).eval()
        with FlopCounterMode(display=False) as counter:
            detector(torch.empty(1, 3, *config.preprocessing.size_hw))
    return ModelCost(sum(weight.numel() for weight in detector.parameters()), counter.get_total_flops() / 1e9)


YOLOX_SIZES: dict[YoloxVariant, tuple[float, float, int, bool, float]] = {
    "nano": (0.33, 0.25, 416, True, 0.258),
    "tiny": (0.33, 0.375, 416, False, 0.328),
    "s": (0.33, 0.5, 640, False, 0.405),
    "m": (0.67, 0.75, 640, False, 0.469),
    "l": (1.0, 1.0, 640, False, 0.497),
    "x": (1.33, 1.25, 640, False, 0.511),
}
"""Depth, width, side of the input in pixels, depthwise, published COCO AP."""


def _published_yolox(variant: YoloxVariant) -> PublishedModel:
    releases = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
    return PublishedModel(
        name=f"yolox_{variant}",
        config=yolox_config(variant),
        coco_ap=YOLOX_SIZES[variant][-1],
        ap_source="README of Megvii-BaseDetection/YOLOX, val2017",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        weights_address=f"{releases}/yolox_{variant}.pth",
    )

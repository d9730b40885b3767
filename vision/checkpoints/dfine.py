"""D-FINE as it is published (Peng et al. 2024, arXiv:2410.13842): the plans of its five sizes and COCO's classes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from vision.backbones.hgnetv2 import HGNetv2Config
from vision.checkpoints.coco_names import COCO_NAMES
from vision.checkpoints.rtdetr import RTDETR_PREPROCESSING
from vision.detector import DetectorConfig
from vision.heads.dfine import DfineHeadConfig
from vision.necks.hybrid_encoder import HybridEncoderConfig

DfineVariant = Literal["n", "s", "m", "l", "x"]


class DfinePlan(NamedTuple):
    """What tells one size from another; what is not said is as in l."""

    backbone: HGNetv2Config
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    coco_ap: float


DFINE_PLANS: dict[DfineVariant, DfinePlan] = {
    "n": DfinePlan(
        HGNetv2Config(size="b0", affine=True, strides=(16, 32)),
        {"hidden_dim": 128, "feed_forward_dim": 512, "expansion": 0.34, "depth": 0.5},
        {"hidden_dim": 128, "feed_forward_dim": 512, "num_decoder_layers": 3},
        0.428,
    ),
    "s": DfinePlan(
        HGNetv2Config(size="b0", affine=True), {"expansion": 0.5, "depth": 0.34}, {"num_decoder_layers": 3}, 0.485
    ),
    "m": DfinePlan(HGNetv2Config(size="b2", affine=True), {"depth": 0.67}, {"num_decoder_layers": 4}, 0.523),
    "l": DfinePlan(HGNetv2Config(size="b4", batch_norm="frozen", frozen_parts=1), {}, {}, 0.540),
    "x": DfinePlan(
        HGNetv2Config(size="b5", batch_norm="frozen", frozen_parts=1),
        {"hidden_dim": 384, "feed_forward_dim": 2048},
        {"bin_scale": 8.0},
        0.558,
    ),
}
"""COCO AP as the README of Peterande/D-FINE prints it for val2017, trained on COCO alone."""


def dfine_config(variant: DfineVariant, class_names: tuple[str, ...] = COCO_NAMES) -> DetectorConfig:
    """D-FINE in one of its published sizes, for the given classes."""
    plan = DFINE_PLANS[variant]
    return DetectorConfig(
        backbone=plan.backbone,
        neck=HybridEncoderConfig(blocks="dfine", **plan.encoder),
        head=DfineHeadConfig(**plan.decoder),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=RTDETR_PREPROCESSING,
    )

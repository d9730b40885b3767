"""The model zoo: the published detectors that can be loaded, with the licences of their code and of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from handeye.vision.checkpoints.detr import detr_config
from handeye.vision.checkpoints.dfine import DFINE_PLANS, DfineVariant, dfine_config
from handeye.vision.checkpoints.download import PublishedFile
from handeye.vision.checkpoints.rtdetr import RTDETR_RELEASES, RtdetrVariant, RtdetrVersion, rtdetr_config
from handeye.vision.checkpoints.yolox import YOLOX_SIZES, YoloxVariant, yolox_config
from handeye.vision.detector import Detector, DetectorConfig

COSTS = {
    "yolox_nano": (912_159, 1.05),
    "yolox_tiny": (5_055_855, 6.41),
    "yolox_s": (8_968_255, 26.69),
    "yolox_m": (25_326_495, 73.53),
    "yolox_l": (54_208_895, 155.29),
    "yolox_x": (99_071_455, 281.41),
    "detr_resnet50": (41_524_768, 203.18),
    "detr_resnet101": (60_464_672, 362.27),
    "rtdetr_r18vd": (20_184_464, 58.39),
    "rtdetr_r34vd": (31_441_668, 90.5),
    "rtdetr_r50vd_m": (36_593_772, 97.5),
    "rtdetr_r50vd": (42_891_372, 131.75),
    "rtdetr_r101vd": (76_556_268, 249.63),
    "rtdetrv2_r18vd": (20_184_464, 58.39),
    "rtdetrv2_r34vd": (31_441_668, 90.5),
    "rtdetrv2_r50vd_m": (36_593_772, 97.5),
    "rtdetrv2_r50vd": (42_891_372, 131.75),
    "rtdetrv2_r101vd": (76_556_268, 249.63),
    "dfine_n": (3_782_693, 7.32),
    "dfine_s": (10_321_877, 25.52),
    "dfine_m": (19_590_064, 57.06),
    "dfine_l": (31_244_152, 91.65),
    "dfine_x": (62_621_560, 203.12),
}
"""Parameters and 1e9 operations at the model's own input size, as `count_cost` counts them in seconds."""


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a detector costs: its parameters, and the operations of one image at its own input size."""

    parameters: int
    gflops: float
    """1e9 floating-point operations of convolutions and matrix products; a multiplication and an addition are two."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A published detector: configuration, address and licences of its weights, COCO AP."""

    name: str
    config: DetectorConfig
    coco_ap: float
    """AP on COCO val2017 as its authors print it, a fraction."""
    ap_source: str
    code_licence: str
    weights_licence: str
    weights: PublishedFile

    @property
    def cost(self) -> ModelCost:
        """As `count_cost` counts it."""
        return ModelCost(*COSTS[self.name])


def published_models() -> dict[str, PublishedModel]:
    """Every model of the zoo by name, family by family, each small to large."""
    models = (
        *map(_published_yolox, YOLOX_SIZES),
        *map(_published_detr, DETR_RELEASES),
        *(_published_rtdetr(*release) for release in RTDETR_RELEASES),
        *map(_published_dfine, DFINE_PLANS),
    )
    return {model.name: model for model in models}


def count_cost(config: DetectorConfig) -> ModelCost:
    """Count parameters and operations on torch's meta device, without computing anything."""
    with torch.device("meta"), torch.no_grad():
        detector = Detector(config).eval().requires_grad_(requires_grad=False)
        with FlopCounterMode(display=False) as counter:
            detector(torch.empty(1, 3, *config.preprocessing.size_hw))
    return ModelCost(sum(weight.numel() for weight in detector.parameters()), counter.get_total_flops() / 1e9)


def _published_yolox(variant: YoloxVariant) -> PublishedModel:
    releases = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"
    return PublishedModel(
        name=f"yolox_{variant}",
        config=yolox_config(variant),
        coco_ap=YOLOX_SIZES[variant][-1],
        ap_source="README of Megvii-BaseDetection/YOLOX, val2017",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        weights=PublishedFile(f"{releases}/yolox_{variant}.pth"),
    )


def _published_rtdetr(version: RtdetrVersion, variant: RtdetrVariant) -> PublishedModel:
    coco_ap, file = RTDETR_RELEASES[version, variant]
    return PublishedModel(
        name=f"{'rtdetr' if version == 1 else 'rtdetrv2'}_{variant}",
        config=rtdetr_config(version, variant),
        coco_ap=coco_ap,
        ap_source="README of lyuwenyu/RT-DETR, val2017",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        weights=PublishedFile(f"https://github.com/lyuwenyu/storage/releases/download/{file}"),
    )


DETR_RELEASES: dict[Literal[50, 101], tuple[float, str]] = {
    50: (0.420, "e632da11"),
    101: (0.435, "2c7b67e5"),
}
"""Depth of the backbone, published COCO AP, and the first digits of the SHA-256 of the weights."""


def _published_detr(depth: Literal[50, 101]) -> PublishedModel:
    coco_ap, hash_start = DETR_RELEASES[depth]
    address = f"https://dl.fbaipublicfiles.com/detr/detr-r{depth}-{hash_start}.pth"
    return PublishedModel(
        name=f"detr_resnet{depth}",
        config=detr_config(depth),
        coco_ap=coco_ap,
        ap_source="README of facebookresearch/detr, val2017",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        weights=PublishedFile(address, sha256_start=hash_start),
    )


def _published_dfine(variant: DfineVariant) -> PublishedModel:
    releases = "https://github.com/Peterande/storage/releases/download/dfinev1.0"
    return PublishedModel(
        name=f"dfine_{variant}",
        config=dfine_config(variant),
        coco_ap=DFINE_PLANS[variant].coco_ap,
        ap_source="README of Peterande/D-FINE, val2017",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        weights=PublishedFile(f"{releases}/dfine_{variant}_coco.pth"),
    )

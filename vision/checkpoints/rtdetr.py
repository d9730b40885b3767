"""RT-DETR and RT-DETRv2 as they are published (arXiv:2304.08069, arXiv:2407.17140): five sizes of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vision.backbones.resnet import ResNetConfig
from vision.checkpoints.coco_names import COCO_NAMES
from vision.detector import DetectorConfig
from vision.heads.rtdetr import RtdetrHeadConfig
from vision.images import Preprocessing
from vision.necks.hybrid_encoder import HybridEncoderConfig

RtdetrVersion = Literal[1, 2]
RtdetrVariant = Literal["r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd"]


def rtdetr_config(
    version: RtdetrVersion, variant: RtdetrVariant, class_names: tuple[str, ...] = COCO_NAMES
) -> DetectorConfig:
    """RT-DETR or RT-DETRv2 in one of its published sizes, for the given classes.

    From R50 on the norms of the backbone stay as pretrained and its stem does not learn.
    """
    size = RTDETR_SIZES[variant]
    is_frozen = size.depth >= 50
    return DetectorConfig(
        backbone=ResNetConfig(
            depth=size.depth,
            variant="vd",
            batch_norm="frozen" if is_frozen else "live",
            frozen_parts=1 if is_frozen else 0,
        ),
        neck=HybridEncoderConfig(
            hidden_dim=size.neck_dim, feed_forward_dim=size.neck_feed_forward_dim, expansion=size.expansion
        ),
        head=RtdetrHeadConfig(
            version=version, num_decoder_layers=size.num_layers, num_layers_in_use=size.num_layers_in_use
        ),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=RTDETR_PREPROCESSING,
    )


RTDETR_PREPROCESSING = Preprocessing(size_hw=(640, 640), resize="stretch", antialias=True, colour="rgb", scale=1 / 255)
"""Stretched whatever the aspect ratio, no mean and no standard deviation."""


@dataclass(frozen=True, slots=True)
class RtdetrSize:
    """What differs between the sizes."""

    depth: Literal[18, 34, 50, 101]
    num_layers: int
    num_layers_in_use: int
    expansion: float
    neck_dim: int = 256
    neck_feed_forward_dim: int = 1024


RTDETR_SIZES: dict[RtdetrVariant, RtdetrSize] = {
    "r18vd": RtdetrSize(18, 3, 3, 0.5),
    "r34vd": RtdetrSize(34, 4, 4, 0.5),
    "r50vd_m": RtdetrSize(50, 6, 3, 0.5),
    "r50vd": RtdetrSize(50, 6, 6, 1.0),
    "r101vd": RtdetrSize(101, 6, 6, 1.0, neck_dim=384, neck_feed_forward_dim=2048),
}
"""Depth of the backbone, decoder layers, after how many of them the result stands, and the neck."""

RTDETR_RELEASES: dict[tuple[RtdetrVersion, RtdetrVariant], tuple[float, str]] = {
    (1, "r18vd"): (0.464, "v0.1/rtdetr_r18vd_dec3_6x_coco_from_paddle.pth"),
    (1, "r34vd"): (0.489, "v0.1/rtdetr_r34vd_dec4_6x_coco_from_paddle.pth"),
    (1, "r50vd_m"): (0.513, "v0.1/rtdetr_r50vd_m_6x_coco_from_paddle.pth"),
    (1, "r50vd"): (0.531, "v0.1/rtdetr_r50vd_6x_coco_from_paddle.pth"),
    (1, "r101vd"): (0.543, "v0.1/rtdetr_r101vd_6x_coco_from_paddle.pth"),
    (2, "r18vd"): (0.481, "v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1.pth"),
    (2, "r34vd"): (0.499, "v0.1/rtdetrv2_r34vd_120e_coco_ema.pth"),
    (2, "r50vd_m"): (0.519, "v0.1/rtdetrv2_r50vd_m_7x_coco_ema.pth"),
    (2, "r50vd"): (0.534, "v0.1/rtdetrv2_r50vd_6x_coco_ema.pth"),
    (2, "r101vd"): (0.543, "v0.1/rtdetrv2_r101vd_6x_coco_from_paddle.pth"),
}
"""Published COCO AP, and the file below the releases of github.com/lyuwenyu/storage."""

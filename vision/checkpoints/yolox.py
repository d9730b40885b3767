"""Published YOLOX (Ge et al. 2021, arXiv:2107.08430): configurations of its six sizes, key map of its weights.

The authors' code (github.com/Megvii-BaseDetection/YOLOX) keeps the neck inside `backbone` and the backbone inside that.
"""

from __future__ import annotations

from typing import Literal

from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.checkpoints.coco_names import COCO_NAMES
from handeye.vision.checkpoints.key_map import KeyMap
from handeye.vision.detector import DetectorConfig
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.images import Preprocessing
from handeye.vision.necks.path_aggregation import PathAggregationConfig

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


YOLOX_KEYS = KeyMap(
    renames=(
        (r"\.norm\.", ".bn."),
        (r"\.depthwise\.", ".dconv."),
        (r"\.pointwise\.", ".pconv."),
        (r"\.blocks\.(\d+)\.mix\.", r".m.\1.conv1."),
        (r"\.blocks\.(\d+)\.spatial\.", r".m.\1.conv2."),
        (r"^backbone\.stages\.3\.pooling\.reduce\.", "backbone.backbone.dark5.1.conv1."),
        (r"^backbone\.stages\.3\.pooling\.join\.", "backbone.backbone.dark5.1.conv2."),
        (r"\.main\.", ".conv1."),
        (r"\.bypass\.", ".conv2."),
        (r"\.join\.", ".conv3."),
        (r"^backbone\.stem\.", "backbone.backbone.stem."),
        (r"^backbone\.stages\.3\.block\.", "backbone.backbone.dark5.2."),
        (r"^backbone\.stages\.0\.", "backbone.backbone.dark2."),
        (r"^backbone\.stages\.1\.", "backbone.backbone.dark3."),
        (r"^backbone\.stages\.2\.", "backbone.backbone.dark4."),
        (r"^backbone\.stages\.3\.", "backbone.backbone.dark5."),
        (r"\.down\.", ".0."),
        (r"\.block\.", ".1."),
        (r"^neck\.reduce\.1\.", "backbone.lateral_conv0."),
        (r"^neck\.merge_down\.1\.", "backbone.C3_p4."),
        (r"^neck\.reduce\.0\.", "backbone.reduce_conv1."),
        (r"^neck\.merge_down\.0\.", "backbone.C3_p3."),
        (r"^neck\.shrink\.0\.", "backbone.bu_conv2."),
        (r"^neck\.merge_up\.0\.", "backbone.C3_n3."),
        (r"^neck\.shrink\.1\.", "backbone.bu_conv1."),
        (r"^neck\.merge_up\.1\.", "backbone.C3_n4."),
        (r"^head\.levels\.(\d+)\.stem\.", r"head.stems.\1."),
        (r"^head\.levels\.(\d+)\.class_branch\.", r"head.cls_convs.\1."),
        (r"^head\.levels\.(\d+)\.box_branch\.", r"head.reg_convs.\1."),
        (r"^head\.levels\.(\d+)\.predict_class\.", r"head.cls_preds.\1."),
        (r"^head\.levels\.(\d+)\.predict_box\.", r"head.reg_preds.\1."),
        (r"^head\.levels\.(\d+)\.predict_objectness\.", r"head.obj_preds.\1."),
    )
)
"""The authors'."""

"""DETR as it is published (Carion et al. 2020, arXiv:2005.12872): its plan and its 91 classes."""

from __future__ import annotations

from typing import Literal

from vision.backbones.resnet import ResNetConfig
from vision.checkpoints.coco_names import COCO_NAMES_BY_CATEGORY_ID
from vision.detector import DetectorConfig
from vision.heads.detr import DetrHeadConfig
from vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from vision.necks.levels import LevelsConfig


def detr_config(depth: Literal[50, 101], class_names: tuple[str, ...] = COCO_NAMES_BY_CATEGORY_ID) -> DetectorConfig:
    """DETR with a ResNet of that depth; by default class k is COCO's category k, as its weights have it."""
    return DetectorConfig(
        backbone=ResNetConfig(depth=depth, batch_norm="frozen", frozen_parts=2, strides=(32,)),
        neck=LevelsConfig(num_levels=1),
        head=DetrHeadConfig(),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=DETR_PREPROCESSING,
    )


DETR_PREPROCESSING = Preprocessing(
    size_hw=(800, 1333),
    resize="shorter_side",
    antialias=True,
    colour="rgb",
    scale=1 / 255,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
)
"""The shorter side becomes 800 pixels, the longer at most 1333."""

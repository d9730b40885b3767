"""Every backbone there is, and the one place where a configuration becomes one.

A backbone has `channels` and `strides` (fine to coarse) and gives one feature map for each stride.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import assert_never

from handeye.vision.backbones.cspdarknet import CSPDarknet, CSPDarknetConfig
from handeye.vision.backbones.darknet import Darknet, DarknetConfig
from handeye.vision.backbones.hgnetv2 import HGNetv2, HGNetv2Config
from handeye.vision.backbones.resnet import ResNet, ResNetConfig
from handeye.vision.backbones.swin import Swin, SwinConfig
from handeye.vision.backbones.vit import ViT, ViTConfig

BackboneConfig = Annotated[
    CSPDarknetConfig | DarknetConfig | HGNetv2Config | ResNetConfig | SwinConfig | ViTConfig,
    Field(discriminator="kind"),
]
"""Told apart by `kind`."""
Backbone = CSPDarknet | Darknet | HGNetv2 | ResNet | Swin | ViT


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of that configuration, with fresh weights."""
    match config:
        case CSPDarknetConfig():
            return CSPDarknet(config)
        case DarknetConfig():
            return Darknet(config)
        case HGNetv2Config():
            return HGNetv2(config)
        case ResNetConfig():
            return ResNet(config)
        case SwinConfig():
            return Swin(config)
        case ViTConfig():
            return ViT(config)
        case _:
            assert_never(config)

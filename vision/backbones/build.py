"""Build a backbone, or an image classifier with that backbone, from its configuration.

A backbone has `channels` and `strides` (fine to coarse) and gives one feature map for each stride.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
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


ClassificationBackboneConfig = ResNetConfig | SwinConfig | ViTConfig
ClassificationBackbone = ResNet | Swin | ViT
"""Backbones with a pooled feature vector for classification, as wide as their coarsest level."""


class Classifier(nn.Module):
    """A backbone with a linear layer: images (B, 3, H, W) -> logits (B, num_classes).

    Backbones are pretrained so, and their published weights are checked so.
    """

    def __init__(self, backbone: ClassificationBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B num_classes"]:
        """A linear function of the pooled features."""
        return self.head(self.backbone.forward_classification_features(images))


def build_classifier(config: ClassificationBackboneConfig, num_classes: int = 1000) -> Classifier:
    """The classifier with the backbone of that configuration, with fresh weights; ImageNet has 1000 classes."""
    match config:
        case ResNetConfig():
            return Classifier(ResNet(config), num_classes)
        case SwinConfig():
            return Classifier(Swin(config), num_classes)
        case ViTConfig():
            return Classifier(ViT(config), num_classes)
        case _:
            assert_never(config)


def count_parameters(config: ClassificationBackboneConfig, num_classes: int = 1000) -> int:
    """Number of parameters of the classifier, counted on the meta device without allocating them."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_classifier(config, num_classes).parameters())

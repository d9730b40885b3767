"""A backbone with a linear layer on top: how backbones are pretrained, and how their published weights are checked."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import assert_never

from handeye.vision.backbones.resnet import ResNet, ResNetConfig
from handeye.vision.backbones.swin import Swin, SwinConfig
from handeye.vision.backbones.vit import ViT, ViTConfig

ClassificationBackboneConfig = ResNetConfig | SwinConfig | ViTConfig
ClassificationBackbone = ResNet | Swin | ViT
"""Backbones that can make one vector of the whole image, with as many numbers as their coarsest level has channels."""


class Classifier(nn.Module):
    """images (B, 3, H, W) -> logits (B, num_classes)."""

    def __init__(self, backbone: ClassificationBackbone, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.channels[-1], num_classes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B num_classes"]:
        """A linear function of the vector that stands for the image, equation (22.19) of the specification."""
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
    """How many numbers the classifier learns; nothing is allocated to know it."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_classifier(config, num_classes).parameters())

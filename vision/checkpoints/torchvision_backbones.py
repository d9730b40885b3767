"""Backbones whose ImageNet weights torchvision publishes: their plans, their names, where the files are."""

from __future__ import annotations

from dataclasses import dataclass

from vision.backbones.resnet import ResNetConfig
from vision.backbones.swin import SwinConfig
from vision.backbones.vit import ViTConfig
from vision.checkpoints.download import PublishedFile
from vision.checkpoints.key_map import KeyMap
from vision.checkpoints.resnet_names import TORCHVISION_RESNET_KEYS
from vision.checkpoints.swin_names import SWIN_KEYS
from vision.checkpoints.vit_names import VIT_KEYS
from vision.classifier import ClassificationBackboneConfig


@dataclass(frozen=True, slots=True)
class PublishedBackbone:
    """A classifier that torchvision publishes: what it is made of, how good it is, where its weights are."""

    name: str
    config: ClassificationBackboneConfig
    key_map: KeyMap
    imagenet_top1: float
    """Fraction of ImageNet's validation images named right at 224 x 224, as torchvision prints it."""
    hash_start: str
    """How the SHA-256 of the file begins; its name says so."""

    @property
    def weights(self) -> PublishedFile:
        """Where the weights are."""
        address = f"https://download.pytorch.org/models/{self.name}-{self.hash_start}.pth"
        return PublishedFile(address, sha256_start=self.hash_start)


LICENCE = "BSD-3-Clause"
"""Torchvision's, of its code; it states no other for these weights (it does for its SWAG weights, not listed here)."""

TOP1_SOURCE = "torchvision, IMAGENET1K_V1"


def published_backbones() -> dict[str, PublishedBackbone]:
    """Every one by name."""
    # The published Swin has the norm of its coarsest features only.
    models = (
        PublishedBackbone("resnet18", ResNetConfig(depth=18), TORCHVISION_RESNET_KEYS, 0.69758, "f37072fd"),
        PublishedBackbone("resnet34", ResNetConfig(depth=34), TORCHVISION_RESNET_KEYS, 0.73314, "b627a593"),
        PublishedBackbone("resnet50", ResNetConfig(depth=50), TORCHVISION_RESNET_KEYS, 0.76130, "0676ba61"),
        PublishedBackbone("resnet101", ResNetConfig(depth=101), TORCHVISION_RESNET_KEYS, 0.77374, "63fe2227"),
        PublishedBackbone("swin_t", SwinConfig(size="t", strides=(32,)), SWIN_KEYS, 0.81474, "704ceda3"),
        PublishedBackbone(
            "swin_s", SwinConfig(size="s", stochastic_depth=0.3, strides=(32,)), SWIN_KEYS, 0.83196, "5e29d889"
        ),
        PublishedBackbone(
            "swin_b", SwinConfig(size="b", stochastic_depth=0.5, strides=(32,)), SWIN_KEYS, 0.83582, "68c6b09e"
        ),
        PublishedBackbone("vit_b_16", ViTConfig(size="b"), VIT_KEYS, 0.81072, "c867db91"),
        PublishedBackbone("vit_l_16", ViTConfig(size="l"), VIT_KEYS, 0.79662, "852ce7e3"),
    )
    return {model.name: model for model in models}

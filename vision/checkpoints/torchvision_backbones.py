"""Backbones with ImageNet weights published by torchvision: configurations, download addresses, key maps.

The key maps of ResNets also serve DETR, which keeps torchvision's names, and RT-DETR's `vd` form (its authors' and the
transformers library's names).
"""

from __future__ import annotations

from dataclasses import dataclass

from handeye.vision.backbones.build import ClassificationBackboneConfig
from handeye.vision.backbones.resnet import ResNetConfig
from handeye.vision.backbones.swin import SwinConfig
from handeye.vision.backbones.vit import ViTConfig
from handeye.vision.checkpoints.download import PublishedFile
from handeye.vision.checkpoints.key_map import KeyMap, Rename


@dataclass(frozen=True, slots=True)
class PublishedBackbone:
    """A classifier published by torchvision: configuration, accuracy, address of its weights."""

    name: str
    config: ClassificationBackboneConfig
    key_map: KeyMap
    imagenet_top1: float
    """Top-1 accuracy on ImageNet's validation images at 224 x 224, as published by torchvision."""
    hash_start: str
    """First digits of the SHA-256 of the file, which are part of its name."""

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


SWIN_KEYS = KeyMap(
    renames=(
        (r"^backbone\.embed\.project\.", "features.0.0."),
        (r"^backbone\.embed\.norm\.", "features.0.2."),
        (r"^(backbone\..*)\.attention\.project_qkv\.", r"\1.attn.qkv."),
        (r"^(backbone\..*)\.attention\.project_out\.", r"\1.attn.proj."),
        (r"^(backbone\..*)\.attention\.offset_bias$", r"\1.attn.relative_position_bias_table"),
        (r"^(backbone\..*)\.attention_norm\.", r"\1.norm1."),
        (r"^(backbone\..*)\.feed_forward_norm\.", r"\1.norm2."),
        (r"^(backbone\..*)\.feed_forward\.expand\.", r"\1.mlp.0."),
        (r"^(backbone\..*)\.feed_forward\.contract\.", r"\1.mlp.3."),
        (r"^(backbone\..*)\.merge\.reduce\.", r"\1.merge.reduction."),
        *((rf"^backbone\.stages\.{index}\.merge\.", f"features.{2 * index}.") for index in range(1, 4)),
        *((rf"^backbone\.stages\.{index}\.blocks\.", f"features.{2 * index + 1}.") for index in range(4)),
        (r"^backbone\.norms\.stride32\.", "norm."),
    ),
    ignored=(r"features\.\d+\.\d+\.attn\.relative_position_index",),
)
"""A classifier; of the norms of the features it has that of stride 32 only, so the backbone's strides are (32,)."""


VIT_KEYS = KeyMap(
    renames=(
        (r"^backbone\.class_token$", "class_token"),
        (r"^backbone\.embed\.", "conv_proj."),
        (r"^backbone\.positions$", "encoder.pos_embedding"),
        (r"^backbone\.norm\.", "encoder.ln."),
        (r"^backbone\.blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        *(
            (rf"^(encoder\..*)\.attention\.project_{name}\.(weight|bias)$", rf"\1.self_attention.in_proj_\2[{index}]")
            for index, name in enumerate(("query", "key", "value"))
        ),
        (r"^(encoder\..*)\.attention\.project_out\.", r"\1.self_attention.out_proj."),
        (r"^(encoder\..*)\.attention_norm\.", r"\1.ln_1."),
        (r"^(encoder\..*)\.feed_forward_norm\.", r"\1.ln_2."),
        (r"^(encoder\..*)\.feed_forward\.expand\.", r"\1.mlp.0."),
        (r"^(encoder\..*)\.feed_forward\.contract\.", r"\1.mlp.3."),
        (r"^head\.", "heads.head."),
    ),
    respelt=((r"\.mlp\.linear_1\.", ".mlp.0."), (r"\.mlp\.linear_2\.", ".mlp.3.")),
)
"""A classifier; files of before 2023 spell the two linear layers of a block out."""


def plain_renames(prefix: str = "") -> tuple[Rename, ...]:
    """From `backbone.` of ours to torchvision's names, which stand behind `prefix` in larger networks."""
    blocks = (
        _in_block(r"\.shortcut\.0\.conv\.", ".downsample.0."),
        _in_block(r"\.shortcut\.0\.norm\.", ".downsample.1."),
        *(
            _in_block(rf"\.layers\.{index}\.{part}\.", f".{short}{index + 1}.")
            for index in range(3)
            for part, short in (("conv", "conv"), ("norm", "bn"))
        ),
    )
    stages = tuple((rf"^backbone\.stages\.{index}\.", f"{prefix}layer{index + 1}.") for index in range(4))
    stem = ((r"^backbone\.stem\.0\.conv\.", f"{prefix}conv1."), (r"^backbone\.stem\.0\.norm\.", f"{prefix}bn1."))
    return (*stem, *blocks, *stages)


def _in_block(pattern: str, replacement: str) -> Rename:
    """A rename that leaves alone what is not in a block of the backbone."""
    return (rf"^(backbone\.stages\.\d+\.\d+){pattern}", rf"\1{replacement}")


TORCHVISION_RESNET_KEYS = KeyMap(renames=(*plain_renames(), (r"^head\.", "fc.")))
"""A classifier with a plain ResNet."""

VD_RENAMES: tuple[Rename, ...] = (
    *((rf"^backbone\.stem\.{index}\.", f"backbone.conv1.conv1_{index + 1}.") for index in range(3)),
    _in_block(r"\.shortcut\.0\.", ".short."),
    _in_block(r"\.shortcut\.1\.", ".short.conv."),
    *(_in_block(rf"\.layers\.{index}\.", f".branch2{letter}.") for index, letter in enumerate("abc")),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"backbone.res_layers.\1.blocks.\2."),
)
"""RT-DETR's own names; a shortcut has one level more where it averages first."""

VD_TRANSFORMERS_RENAMES: tuple[Rename, ...] = (
    (r"^(backbone\..*)\.conv\.", r"\1.convolution."),
    (r"^(backbone\..*)\.norm\.", r"\1.normalization."),
    (r"^backbone\.stem\.", "model.backbone.model.embedder.embedder."),
    _in_block(r"\.shortcut\.0\.", ".shortcut."),
    _in_block(r"\.layers\.", ".layer."),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"model.backbone.model.encoder.stages.\1.layers.\2."),
)
"""The same network in transformers' names."""

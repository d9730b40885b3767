"""Published DETR (Carion et al. 2020, arXiv:2005.12872): configuration, its 91 classes, key maps of its weights.

Key maps: of the authors (github.com/facebookresearch/detr), who pack query, key and value into one matrix, and of the
transformers library, which keeps them apart and has two namings of the backbone: timm's, which is torchvision's, and
that of its own ResNet class.
"""

from __future__ import annotations

from typing import Literal

from handeye.vision.backbones.resnet import ResNetConfig
from handeye.vision.checkpoints.coco_names import COCO_NAMES_BY_CATEGORY_ID
from handeye.vision.checkpoints.key_map import KeyMap, Rename
from handeye.vision.checkpoints.torchvision_backbones import plain_renames
from handeye.vision.detector import DetectorConfig
from handeye.vision.heads.detr import DetrHeadConfig
from handeye.vision.images import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from handeye.vision.necks.build import LevelsConfig


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


BOX_PREDICTOR: tuple[Rename, ...] = tuple(
    (rf"^head\.predict_box\.{2 * index}\.", f"head.predict_box.layers.{index}.") for index in range(3)
)
"""The linear layers counted without the functions between them."""

LAYER_RENAMES: tuple[Rename, ...] = (
    (r"\.attention_norm\.", ".norm1."),
    (r"\.self_attention_norm\.", ".norm1."),
    (r"\.cross_attention_norm\.", ".norm2."),
    (r"(decoder\.\d+)\.feed_forward_norm\.", r"\1.norm3."),
    (r"\.feed_forward_norm\.", ".norm2."),
    (r"\.feed_forward\.expand\.", ".linear1."),
    (r"\.feed_forward\.contract\.", ".linear2."),
    (r"\.(self_)?attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".multihead_attn."),
    (r"\.project_query\.(weight|bias)$", r".in_proj_\1[0]"),
    (r"\.project_key\.(weight|bias)$", r".in_proj_\1[1]"),
    (r"\.project_value\.(weight|bias)$", r".in_proj_\1[2]"),
    (r"\.project_out\.", ".out_proj."),
)
"""Inside a layer, for all code that names its parts as torch.nn.Transformer does."""

DETR_KEYS = KeyMap(
    renames=(
        *plain_renames("backbone.0.body."),
        (r"^head\.project\.", "input_proj."),
        (r"^head\.queries\.", "query_embed."),
        (r"^head\.predict_class\.", "class_embed."),
        *BOX_PREDICTOR,
        (r"^head\.predict_box\.", "bbox_embed."),
        (r"^head\.decoder_norm\.", "transformer.decoder.norm."),
        *LAYER_RENAMES,
        (r"^head\.(encoder|decoder)\.", r"transformer.\1.layers."),
    )
)
"""The authors'."""

_TRANSFORMER_OF_TRANSFORMERS: tuple[Rename, ...] = (
    (r"^head\.project\.", "model.input_projection."),
    (r"^head\.queries\.", "model.query_position_embeddings."),
    (r"^head\.predict_class\.", "class_labels_classifier."),
    *BOX_PREDICTOR,
    (r"^head\.predict_box\.", "bbox_predictor."),
    (r"^head\.decoder_norm\.", "model.decoder.layernorm."),
    (r"\.(self_)?attention_norm\.", ".self_attn_layer_norm."),
    (r"\.cross_attention_norm\.", ".encoder_attn_layer_norm."),
    (r"\.feed_forward_norm\.", ".final_layer_norm."),
    (r"\.feed_forward\.expand\.", ".mlp.fc1."),
    (r"\.feed_forward\.contract\.", ".mlp.fc2."),
    (r"\.(self_)?attention\.", ".self_attn."),
    (r"\.cross_attention\.", ".encoder_attn."),
    (r"\.project_query\.", ".q_proj."),
    (r"\.project_key\.", ".k_proj."),
    (r"\.project_value\.", ".v_proj."),
    (r"\.project_out\.", ".o_proj."),
    (r"^head\.(encoder|decoder)\.", r"model.\1.layers."),
)
_FILES_OF_TRANSFORMERS: tuple[Rename, ...] = (
    (r"^model\.backbone\.conv_encoder\.model\.", "model.backbone.model."),
    (r"\.out_proj\.", ".o_proj."),
    (r"\.layers\.(\d+)\.fc(\d)\.", r".layers.\1.mlp.fc\2."),
)
"""Files still spell as version 4 did in memory."""

DETR_TIMM_KEYS = KeyMap(
    renames=(*plain_renames("model.backbone.model."), *_TRANSFORMER_OF_TRANSFORMERS), respelt=_FILES_OF_TRANSFORMERS
)
"""transformers', with timm's backbone: the files that it publishes of DETR."""

DETR_TRANSFORMERS_KEYS = KeyMap(
    renames=(
        (r"^(backbone\..*)\.conv\.", r"\1.convolution."),
        (r"^(backbone\..*)\.norm\.", r"\1.normalization."),
        (r"^backbone\.stem\.0\.", "model.backbone.model.embedder.embedder."),
        (r"^(backbone\..*)\.shortcut\.0\.", r"\1.shortcut."),
        (r"^(backbone\..*)\.layers\.", r"\1.layer."),
        (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"model.backbone.model.encoder.stages.\1.layers.\2."),
        *_TRANSFORMER_OF_TRANSFORMERS,
    ),
    respelt=_FILES_OF_TRANSFORMERS,
)
"""transformers', with its own ResNet."""

DETR_KEY_MAPS = (DETR_KEYS, DETR_TIMM_KEYS, DETR_TRANSFORMERS_KEYS)

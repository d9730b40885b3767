"""Published D-FINE (Peng et al. 2024, arXiv:2410.13842): configurations of its five sizes, key maps of its weights.

Key maps: of the authors (github.com/Peterande/D-FINE), most of whose names are RT-DETRv2's, and of the transformers
library.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from handeye.vision.backbones.hgnetv2 import HGNetv2Config
from handeye.vision.checkpoints.coco_names import COCO_NAMES
from handeye.vision.checkpoints.key_map import KeyMap, Rename
from handeye.vision.checkpoints.rtdetr import (
    AIFI,
    ATTENTION_RENAMES,
    COMPUTED,
    HEAD_RENAMES,
    HF_AIFI,
    HF_LAYER,
    LAYER,
    MERGING_RENAMES,
    PUBLISHED_LAYER,
    RTDETR_PREPROCESSING,
    box_layers,
    level_renames,
    split_attention,
)
from handeye.vision.detector import DetectorConfig
from handeye.vision.heads.dfine import DfineHeadConfig
from handeye.vision.necks.hybrid_encoder import HybridEncoderConfig

DfineVariant = Literal["n", "s", "m", "l", "x"]


class DfinePlan(NamedTuple):
    """What differs between the sizes; anything left out is as in l."""

    backbone: HGNetv2Config
    encoder: dict[str, Any]
    decoder: dict[str, Any]
    coco_ap: float


DFINE_PLANS: dict[DfineVariant, DfinePlan] = {
    "n": DfinePlan(
        HGNetv2Config(size="b0", affine=True, strides=(16, 32)),
        {"hidden_dim": 128, "feed_forward_dim": 512, "expansion": 0.34, "depth": 0.5},
        {"hidden_dim": 128, "feed_forward_dim": 512, "num_decoder_layers": 3},
        0.428,
    ),
    "s": DfinePlan(
        HGNetv2Config(size="b0", affine=True), {"expansion": 0.5, "depth": 0.34}, {"num_decoder_layers": 3}, 0.485
    ),
    "m": DfinePlan(HGNetv2Config(size="b2", affine=True), {"depth": 0.67}, {"num_decoder_layers": 4}, 0.523),
    "l": DfinePlan(HGNetv2Config(size="b4", batch_norm="frozen", frozen_parts=1), {}, {}, 0.540),
    "x": DfinePlan(
        HGNetv2Config(size="b5", batch_norm="frozen", frozen_parts=1),
        {"hidden_dim": 384, "feed_forward_dim": 2048},
        {"bin_scale": 8.0},
        0.558,
    ),
}
"""COCO AP as the README of Peterande/D-FINE prints it for val2017, trained on COCO alone."""


def dfine_config(variant: DfineVariant, class_names: tuple[str, ...] = COCO_NAMES) -> DetectorConfig:
    """D-FINE in one of its published sizes, for the given classes."""
    plan = DFINE_PLANS[variant]
    return DetectorConfig(
        backbone=plan.backbone,
        neck=HybridEncoderConfig(blocks="dfine", **plan.encoder),
        head=DfineHeadConfig(**plan.decoder),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=RTDETR_PREPROCESSING,
    )


HGNETV2_NAMES = (
    (r"^backbone\.stem\.shrink\.", "backbone.stem.stem1."),
    (r"^backbone\.stem\.narrow\.", "backbone.stem.stem2a."),
    (r"^backbone\.stem\.widen\.", "backbone.stem.stem2b."),
    (r"^backbone\.stem\.shrink_again\.", "backbone.stem.stem3."),
    (r"^backbone\.stem\.mix\.", "backbone.stem.stem4."),
    (r"^(backbone\.stages\.\d+)\.down\.", r"\1.downsample."),
    (r"^(backbone\.stages\..*)\.pointwise\.", r"\1.conv1."),
    (r"^(backbone\.stages\..*)\.depthwise\.", r"\1.conv2."),
    (r"^(backbone\.stages\..*)\.squeeze\.", r"\1.aggregation.0."),
    (r"^(backbone\.stages\..*)\.expand\.", r"\1.aggregation.1."),
    (r"^(backbone\..*)\.norm\.", r"\1.bn."),
    (r"^(backbone\..*)\.affine\.", r"\1.lab."),
)
"""The backbone in the authors' names."""

CROSS_STAGE_RENAMES: tuple[Rename, ...] = (
    *MERGING_RENAMES[:2],  # the RepVGG blocks
    (r"^(neck\.merge.*)\.main\.", r"\1.conv1."),
    (r"^(neck\.merge.*)\.bypass\.", r"\1.conv2."),
)
"""Inside the stages of the merging blocks."""

AGGREGATION_RENAMES: tuple[Rename, ...] = (
    *CROSS_STAGE_RENAMES,
    (r"^(neck\.merge_\w+\.\d+)\.split\.", r"\1.cv1."),
    *((rf"^(neck\.merge.*)\.stages\.{index}\.block\.", rf"\1.cv{index + 2}.0.") for index in range(2)),
    *((rf"^(neck\.merge.*)\.stages\.{index}\.spatial\.", rf"\1.cv{index + 2}.1.") for index in range(2)),
    (r"^(neck\.merge_\w+\.\d+)\.join\.", r"\1.cv4."),
    (r"^(neck\.shrink\.\d+)\.mix\.", r"\1.0.cv1."),
    (r"^(neck\.shrink\.\d+)\.spatial\.", r"\1.0.cv2."),
)
"""Merging and shrinking in the neck, as the authors call it."""

REFINEMENT_RENAMES: tuple[Rename, ...] = (
    (r"^head\.selection\.project\.", "decoder.enc_output.proj."),
    (r"^head\.selection\.norm\.", "decoder.enc_output.norm."),
    (rf"{LAYER}\.gateway\.", rf"{PUBLISHED_LAYER}.gateway."),
    (r"^head\.weighting\.bound$", "decoder.up"),
    (r"^head\.weighting\.scale$", "decoder.reg_scale"),
    *box_layers(r"^head\.predict_first_box", "decoder.pre_bbox_head"),
    *box_layers(r"^head\.predict_edges\.(\d+)", r"decoder.dec_bbox_head.\1"),
    *box_layers(r"^head\.quality\.(\d+)\.judge", r"decoder.decoder.lqe_layers.\1.reg_conf"),
)
"""What D-FINE has in its head beside RT-DETR's."""

DFINE_KEYS = KeyMap(
    renames=(
        *HGNETV2_NAMES,
        (r"^neck\.project\.", "encoder.input_proj."),
        *AGGREGATION_RENAMES,
        *level_renames(),
        *ATTENTION_RENAMES,
        *HEAD_RENAMES,
        *REFINEMENT_RENAMES,
    ),
    # The two numbers of the bins are there twice.
    ignored=(*COMPUTED, r"decoder\.decoder\.(up|reg_scale)"),
    optional=(r"decoder\.(up|reg_scale)",),
)
"""As the authors have them."""

HF_AGGREGATION_RENAMES: tuple[Rename, ...] = (
    *CROSS_STAGE_RENAMES,
    (r"^(neck\.merge_\w+\.\d+)\.split\.", r"\1.conv1."),
    *((rf"^(neck\.merge.*)\.stages\.{index}\.block\.", rf"\1.csp_rep{index + 1}.") for index in range(2)),
    *((rf"^(neck\.merge.*)\.stages\.{index}\.spatial\.", rf"\1.conv{index + 2}.") for index in range(2)),
    (r"^(neck\.merge_\w+\.\d+)\.join\.", r"\1.conv4."),
    (r"^(neck\.shrink\.\d+)\.mix\.", r"\1.conv1."),
    (r"^(neck\.shrink\.\d+)\.spatial\.", r"\1.conv2."),
)
"""Merging and shrinking in the neck, as transformers calls it."""

HF_ATTENTION_RENAMES: tuple[Rename, ...] = (
    *split_attention(rf"{AIFI}\.attention", rf"{HF_AIFI}.self_attn"),
    (rf"{AIFI}\.attention_norm\.", rf"{HF_AIFI}.self_attn_layer_norm."),
    (rf"{AIFI}\.feed_forward\.expand\.", rf"{HF_AIFI}.mlp.layers.0."),
    (rf"{AIFI}\.feed_forward\.contract\.", rf"{HF_AIFI}.mlp.layers.1."),
    (rf"{AIFI}\.feed_forward_norm\.", rf"{HF_AIFI}.final_layer_norm."),
    *split_attention(rf"{LAYER}\.self_attention", rf"{HF_LAYER}.self_attn"),
    (rf"{LAYER}\.self_attention_norm\.", rf"{HF_LAYER}.self_attn_layer_norm."),
    (rf"{LAYER}\.cross_attention\.predict_offsets\.", rf"{HF_LAYER}.encoder_attn.sampling_offsets."),
    (rf"{LAYER}\.cross_attention\.predict_weights\.", rf"{HF_LAYER}.encoder_attn.attention_weights."),
    (rf"{LAYER}\.gateway\.", rf"{HF_LAYER}.gateway."),
    (rf"{LAYER}\.feed_forward\.expand\.", rf"{HF_LAYER}.mlp.layers.0."),
    (rf"{LAYER}\.feed_forward\.contract\.", rf"{HF_LAYER}.mlp.layers.1."),
    (rf"{LAYER}\.feed_forward_norm\.", rf"{HF_LAYER}.final_layer_norm."),
)
"""The attention layers of neck and decoder in transformers' names."""

HF_HEAD_RENAMES: tuple[Rename, ...] = (
    (r"^head\.project\.(\d+)\.conv\.", r"model.decoder_input_proj.\1.0."),
    (r"^head\.project\.(\d+)\.norm\.", r"model.decoder_input_proj.\1.1."),
    (r"^head\.selection\.project\.", "model.enc_output.0."),
    (r"^head\.selection\.norm\.", "model.enc_output.1."),
    (r"^head\.selection\.predict_class\.", "model.enc_score_head."),
    *box_layers(r"^head\.selection\.predict_box", "model.enc_bbox_head"),
    (r"^head\.denoising\.class_embedding\.", "model.denoising_class_embed."),
    *box_layers(r"^head\.query_position", "model.decoder.query_pos_head"),
    (r"^head\.weighting\.bound$", "model.decoder.up"),
    (r"^head\.weighting\.scale$", "model.decoder.reg_scale"),
    *box_layers(r"^head\.predict_first_box", "model.decoder.pre_bbox_head"),
    *box_layers(r"^head\.predict_edges\.(\d+)", r"model.decoder.bbox_embed.\1"),
    (r"^head\.predict_class\.", "model.decoder.class_embed."),
    *box_layers(r"^head\.quality\.(\d+)\.judge", r"model.decoder.lqe_layers.\1.reg_conf"),
)
"""The rest of the head in transformers' names."""

TRANSFORMERS_DFINE_KEYS = KeyMap(
    renames=(
        *HGNETV2_NAMES,
        (r"^(backbone\..*)\.conv\.(\w+)$", r"\1.convolution.\2"),
        (r"^(backbone\..*)\.bn\.", r"\1.normalization."),
        (r"^backbone\.stem\.", "model.backbone.model.embedder."),
        (r"^backbone\.stages\.", "model.backbone.model.encoder.stages."),
        (r"^neck\.project\.(\d+)\.conv\.", r"model.encoder_input_proj.\1.0."),
        (r"^neck\.project\.(\d+)\.norm\.", r"model.encoder_input_proj.\1.1."),
        *HF_AGGREGATION_RENAMES,
        *level_renames("model."),
        *HF_ATTENTION_RENAMES,
        *HF_HEAD_RENAMES,
    ),
    ignored=(r"model\.anchors", r"model\.valid_mask", r".*\.n(um)?_points_scale"),
    optional=(r"model\.decoder\.(up|reg_scale)",),
    respelt=(
        # Files keep names of before version 5; some hold the predictors a second time.
        (r"\.self_attn\.out_proj\.", ".self_attn.o_proj."),
        (r"(layers\.\d+)\.fc1\.", r"\1.mlp.layers.0."),
        (r"(layers\.\d+)\.fc2\.", r"\1.mlp.layers.1."),
        (r"^model\.encoder\.encoder\.", "model.encoder.aifi."),
        (r"^(class_embed|bbox_embed)\.", r"model.decoder.\1."),
    ),
)
"""As the transformers library has them, in memory and in files."""

DFINE_KEY_MAPS = (DFINE_KEYS, TRANSFORMERS_DFINE_KEYS)

"""The names of D-FINE's weights: those of their authors and those of the transformers library.

Authors: github.com/Peterande/D-FINE, who took over most names from RT-DETRv2.
"""

from __future__ import annotations

from vision.checkpoints.hgnetv2_names import HGNETV2_NAMES
from vision.checkpoints.key_map import KeyMap, Rename
from vision.checkpoints.rtdetr_names import (
    AIFI,
    ATTENTION_RENAMES,
    COMPUTED,
    HEAD_RENAMES,
    HF_AIFI,
    HF_LAYER,
    LAYER,
    MERGING_RENAMES,
    PUBLISHED_LAYER,
    box_layers,
    level_renames,
    split_attention,
)

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

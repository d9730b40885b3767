"""The names of torchvision's Swin Transformers (github.com/pytorch/vision): merging is a stage of its own there."""

from __future__ import annotations

from vision.checkpoints.key_map import KeyMap

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

"""The names of torchvision's Vision Transformers (github.com/pytorch/vision), whose projections are packed."""

from __future__ import annotations

from vision.checkpoints.key_map import KeyMap

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

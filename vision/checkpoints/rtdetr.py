"""Published RT-DETR and RT-DETRv2 (arXiv:2304.08069, arXiv:2407.17140): five sizes of each, key maps of their weights.

Key maps: of the authors (github.com/lyuwenyu/RT-DETR, folders rtdetr_pytorch and rtdetrv2_pytorch) and of the
transformers library. The two versions differ in the names of three layers; files of the second also hold anchors for
one input size, which are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handeye.vision.backbones.resnet import ResNetConfig
from handeye.vision.checkpoints.coco_names import COCO_NAMES
from handeye.vision.checkpoints.key_map import KeyMap, Rename
from handeye.vision.checkpoints.torchvision_backbones import VD_RENAMES, VD_TRANSFORMERS_RENAMES
from handeye.vision.detector import DetectorConfig
from handeye.vision.heads.rtdetr import RtdetrHeadConfig
from handeye.vision.images import Preprocessing
from handeye.vision.necks.hybrid_encoder import HybridEncoderConfig

RtdetrVersion = Literal[1, 2]
RtdetrVariant = Literal["r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd"]


def rtdetr_config(
    version: RtdetrVersion, variant: RtdetrVariant, class_names: tuple[str, ...] = COCO_NAMES
) -> DetectorConfig:
    """RT-DETR or RT-DETRv2 in one of its published sizes, for the given classes.

    From R50 on the norms of the backbone stay as pretrained and its stem does not learn.
    """
    size = RTDETR_SIZES[variant]
    is_frozen = size.depth >= 50
    return DetectorConfig(
        backbone=ResNetConfig(
            depth=size.depth,
            variant="vd",
            batch_norm="frozen" if is_frozen else "live",
            frozen_parts=1 if is_frozen else 0,
        ),
        neck=HybridEncoderConfig(
            hidden_dim=size.neck_dim, feed_forward_dim=size.neck_feed_forward_dim, expansion=size.expansion
        ),
        head=RtdetrHeadConfig(
            version=version, num_decoder_layers=size.num_layers, num_layers_in_use=size.num_layers_in_use
        ),
        num_classes=len(class_names),
        class_names=class_names,
        preprocessing=RTDETR_PREPROCESSING,
    )


RTDETR_PREPROCESSING = Preprocessing(size_hw=(640, 640), resize="stretch", antialias=True, colour="rgb", scale=1 / 255)
"""Stretched whatever the aspect ratio, no mean and no standard deviation."""


@dataclass(frozen=True, slots=True)
class RtdetrSize:
    """What differs between the sizes."""

    depth: Literal[18, 34, 50, 101]
    num_layers: int
    num_layers_in_use: int
    expansion: float
    neck_dim: int = 256
    neck_feed_forward_dim: int = 1024


RTDETR_SIZES: dict[RtdetrVariant, RtdetrSize] = {
    "r18vd": RtdetrSize(18, 3, 3, 0.5),
    "r34vd": RtdetrSize(34, 4, 4, 0.5),
    "r50vd_m": RtdetrSize(50, 6, 3, 0.5),
    "r50vd": RtdetrSize(50, 6, 6, 1.0),
    "r101vd": RtdetrSize(101, 6, 6, 1.0, neck_dim=384, neck_feed_forward_dim=2048),
}
"""Depth of the backbone, decoder layers, after how many of them the result stands, and the neck."""

RTDETR_RELEASES: dict[tuple[RtdetrVersion, RtdetrVariant], tuple[float, str]] = {
    (1, "r18vd"): (0.464, "v0.1/rtdetr_r18vd_dec3_6x_coco_from_paddle.pth"),
    (1, "r34vd"): (0.489, "v0.1/rtdetr_r34vd_dec4_6x_coco_from_paddle.pth"),
    (1, "r50vd_m"): (0.513, "v0.1/rtdetr_r50vd_m_6x_coco_from_paddle.pth"),
    (1, "r50vd"): (0.531, "v0.1/rtdetr_r50vd_6x_coco_from_paddle.pth"),
    (1, "r101vd"): (0.543, "v0.1/rtdetr_r101vd_6x_coco_from_paddle.pth"),
    (2, "r18vd"): (0.481, "v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1.pth"),
    (2, "r34vd"): (0.499, "v0.1/rtdetrv2_r34vd_120e_coco_ema.pth"),
    (2, "r50vd_m"): (0.519, "v0.1/rtdetrv2_r50vd_m_7x_coco_ema.pth"),
    (2, "r50vd"): (0.534, "v0.1/rtdetrv2_r50vd_6x_coco_ema.pth"),
    (2, "r101vd"): (0.543, "v0.1/rtdetrv2_r101vd_6x_coco_from_paddle.pth"),
}
"""Published COCO AP, and the file below the releases of github.com/lyuwenyu/storage."""


def packed_attention(place: str, published: str) -> tuple[Rename, ...]:
    """Attention whose query, key and value are published as one matrix; `place` is a pattern of what comes before."""
    parts = (("query", 0), ("key", 1), ("value", 2))
    return (
        *((rf"{place}\.project_{part}\.(weight|bias)$", rf"{published}.in_proj_\2[{index}]") for part, index in parts),
        (rf"{place}\.project_out\.", rf"{published}.out_proj."),
    )


def split_attention(place: str, published: str) -> tuple[Rename, ...]:
    """Attention in transformers: separate matrices, as ours."""
    parts = ("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")
    return tuple((rf"{place}\.project_{part}\.", rf"{published}.{letter}_proj.") for part, letter in parts)


def box_layers(place: str, published: str) -> tuple[Rename, ...]:
    """Linear layers with ReLU between: every second module of ours has weights."""
    return tuple((rf"{place}\.{2 * index}\.", rf"{published}.layers.{index}.") for index in range(3))


MERGING_RENAMES: tuple[Rename, ...] = (
    (r"^(neck\.merge.*)\.blocks\.(\d+)\.spatial\.", r"\1.bottlenecks.\2.conv1."),
    (r"^(neck\.merge.*)\.blocks\.(\d+)\.mix\.", r"\1.bottlenecks.\2.conv2."),
    (r"^(neck\.merge_\w+\.\d+)\.main\.", r"\1.conv1."),
    (r"^(neck\.merge_\w+\.\d+)\.bypass\.", r"\1.conv2."),
    (r"^(neck\.merge_\w+\.\d+)\.join\.", r"\1.conv3."),
)
"""Inside the merging blocks of the neck."""


def level_renames(prefix: str = "") -> tuple[Rename, ...]:
    """The ways down and up of the neck."""
    return (
        (r"^neck\.reduce\.", f"{prefix}encoder.lateral_convs."),
        (r"^neck\.merge_down\.", f"{prefix}encoder.fpn_blocks."),
        (r"^neck\.shrink\.", f"{prefix}encoder.downsample_convs."),
        (r"^neck\.merge_up\.", f"{prefix}encoder.pan_blocks."),
    )


AIFI, PUBLISHED_AIFI = r"^neck\.attention\.(\d+)", r"encoder.encoder.0.layers.\1"
LAYER, PUBLISHED_LAYER = r"^head\.decoder\.(\d+)", r"decoder.decoder.layers.\1"

ATTENTION_RENAMES: tuple[Rename, ...] = (
    *packed_attention(rf"{AIFI}\.attention", rf"{PUBLISHED_AIFI}.self_attn"),
    (rf"{AIFI}\.attention_norm\.", rf"{PUBLISHED_AIFI}.norm1."),
    (rf"{AIFI}\.feed_forward\.expand\.", rf"{PUBLISHED_AIFI}.linear1."),
    (rf"{AIFI}\.feed_forward\.contract\.", rf"{PUBLISHED_AIFI}.linear2."),
    (rf"{AIFI}\.feed_forward_norm\.", rf"{PUBLISHED_AIFI}.norm2."),
    *packed_attention(rf"{LAYER}\.self_attention", rf"{PUBLISHED_LAYER}.self_attn"),
    (rf"{LAYER}\.self_attention_norm\.", rf"{PUBLISHED_LAYER}.norm1."),
    (rf"{LAYER}\.cross_attention\.predict_offsets\.", rf"{PUBLISHED_LAYER}.cross_attn.sampling_offsets."),
    (rf"{LAYER}\.cross_attention\.predict_weights\.", rf"{PUBLISHED_LAYER}.cross_attn.attention_weights."),
    (rf"{LAYER}\.cross_attention\.project_value\.", rf"{PUBLISHED_LAYER}.cross_attn.value_proj."),
    (rf"{LAYER}\.cross_attention\.project_out\.", rf"{PUBLISHED_LAYER}.cross_attn.output_proj."),
    (rf"{LAYER}\.cross_attention_norm\.", rf"{PUBLISHED_LAYER}.norm2."),
    (rf"{LAYER}\.feed_forward\.expand\.", rf"{PUBLISHED_LAYER}.linear1."),
    (rf"{LAYER}\.feed_forward\.contract\.", rf"{PUBLISHED_LAYER}.linear2."),
    (rf"{LAYER}\.feed_forward_norm\.", rf"{PUBLISHED_LAYER}.norm3."),
)
"""The attention layers of neck and decoder in their authors' names."""

HEAD_RENAMES: tuple[Rename, ...] = (
    (r"^head\.project\.", "decoder.input_proj."),
    (r"^head\.selection\.predict_class\.", "decoder.enc_score_head."),
    *box_layers(r"^head\.selection\.predict_box", "decoder.enc_bbox_head"),
    (r"^head\.denoising\.class_embedding\.", "decoder.denoising_class_embed."),
    *box_layers(r"^head\.query_position", "decoder.query_pos_head"),
    (r"^head\.predict_class\.", "decoder.dec_score_head."),
    *box_layers(r"^head\.predict_box\.(\d+)", r"decoder.dec_bbox_head.\1"),
)
"""The rest of the head in its authors' names."""

COMPUTED = (r"decoder\.anchors", r"decoder\.valid_mask", r".*\.num_points_scale")
"""Buffers that the published code computes itself, for one input size."""


def _published(input_projection: tuple[str, str], selection: tuple[str, str]) -> KeyMap:
    """The authors' names; the versions differ in what they call the parts of two modules."""
    differing = (
        *((rf"^neck\.project\.(\d+)\.{ours}\.", rf"encoder.input_proj.\1.{theirs}.") for ours, theirs in
          zip(("conv", "norm"), input_projection, strict=True)),
        *((rf"^head\.selection\.{ours}\.", rf"decoder.enc_output.{theirs}.") for ours, theirs in
          zip(("project", "norm"), selection, strict=True)),
    )  # fmt: skip
    renames = (*VD_RENAMES, *differing, *MERGING_RENAMES, *level_renames(), *ATTENTION_RENAMES, *HEAD_RENAMES)
    return KeyMap(renames, ignored=COMPUTED)


RTDETR_KEYS = _published(("0", "1"), ("0", "1"))
"""Of RT-DETR."""
RTDETRV2_KEYS = _published(("conv", "norm"), ("proj", "norm"))
"""Of RT-DETRv2."""

HF_AIFI, HF_LAYER = r"model.encoder.aifi.0.layers.\1", r"model.decoder.layers.\1"

TRANSFORMERS_RTDETR_KEYS = KeyMap(
    renames=(
        *VD_TRANSFORMERS_RENAMES,
        (r"^neck\.project\.(\d+)\.conv\.", r"model.encoder_input_proj.\1.0."),
        (r"^neck\.project\.(\d+)\.norm\.", r"model.encoder_input_proj.\1.1."),
        *MERGING_RENAMES,
        *level_renames("model."),
        *split_attention(rf"{AIFI}\.attention", rf"{HF_AIFI}.self_attn"),
        (rf"{AIFI}\.attention_norm\.", rf"{HF_AIFI}.self_attn_layer_norm."),
        (rf"{AIFI}\.feed_forward\.expand\.", rf"{HF_AIFI}.mlp.fc1."),
        (rf"{AIFI}\.feed_forward\.contract\.", rf"{HF_AIFI}.mlp.fc2."),
        (rf"{AIFI}\.feed_forward_norm\.", rf"{HF_AIFI}.final_layer_norm."),
        *split_attention(rf"{LAYER}\.self_attention", rf"{HF_LAYER}.self_attn"),
        (rf"{LAYER}\.self_attention_norm\.", rf"{HF_LAYER}.self_attn_layer_norm."),
        (rf"{LAYER}\.cross_attention\.predict_offsets\.", rf"{HF_LAYER}.encoder_attn.sampling_offsets."),
        (rf"{LAYER}\.cross_attention\.predict_weights\.", rf"{HF_LAYER}.encoder_attn.attention_weights."),
        (rf"{LAYER}\.cross_attention\.project_value\.", rf"{HF_LAYER}.encoder_attn.value_proj."),
        (rf"{LAYER}\.cross_attention\.project_out\.", rf"{HF_LAYER}.encoder_attn.output_proj."),
        (rf"{LAYER}\.cross_attention_norm\.", rf"{HF_LAYER}.encoder_attn_layer_norm."),
        (rf"{LAYER}\.feed_forward\.expand\.", rf"{HF_LAYER}.mlp.fc1."),
        (rf"{LAYER}\.feed_forward\.contract\.", rf"{HF_LAYER}.mlp.fc2."),
        (rf"{LAYER}\.feed_forward_norm\.", rf"{HF_LAYER}.final_layer_norm."),
        (r"^head\.project\.(\d+)\.conv\.", r"model.decoder_input_proj.\1.0."),
        (r"^head\.project\.(\d+)\.norm\.", r"model.decoder_input_proj.\1.1."),
        (r"^head\.selection\.project\.", "model.enc_output.0."),
        (r"^head\.selection\.norm\.", "model.enc_output.1."),
        (r"^head\.selection\.predict_class\.", "model.enc_score_head."),
        *box_layers(r"^head\.selection\.predict_box", "model.enc_bbox_head"),
        (r"^head\.denoising\.class_embedding\.", "model.denoising_class_embed."),
        *box_layers(r"^head\.query_position", "model.decoder.query_pos_head"),
        (r"^head\.predict_class\.", "model.decoder.class_embed."),
        *box_layers(r"^head\.predict_box\.(\d+)", r"model.decoder.bbox_embed.\1"),
    ),
    ignored=(r"model\.anchors", r"model\.valid_mask", r".*\.n_points_scale"),
    respelt=(
        # Files of before version 5, and the heads that some files hold a second time.
        (r"\.out_proj\.", ".o_proj."),
        (r"(layers\.\d+)\.fc([12])\.", r"\1.mlp.fc\2."),
        (r"^model\.encoder\.encoder\.", "model.encoder.aifi."),
        (r"^(class_embed|bbox_embed)\.", r"model.decoder.\1."),
    ),
)
"""Of both versions in the transformers library."""

"""YOLO v1 to v5: decoding by hand and by round trips, order of the rows, worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handeye.vision.backbones.cspdarknet import CSPDarknet, CSPDarknetConfig
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import build_head
from handeye.vision.heads.yolo_grid import (
    YoloGridHead,
    YoloGridHeadConfig,
    YoloGridOutput,
    centre_scale,
    decode_centres,
    decode_sizes,
    encode_centres,
    encode_sizes,
)

VERSIONS = ["v1", "v2", "v3", "v4", "v5"]
LEVELS = {"v1": 1, "v2": 1, "v3": 3, "v4": 3, "v5": 3}


def head_output(version, size_hw=(64, 96), num_classes=4, num_images=2, **settings) -> YoloGridOutput:
    strides = (8, 16, 32)[-LEVELS[version] :]
    widths = (6, 10, 12)[-LEVELS[version] :]
    config = YoloGridHeadConfig.model_validate({"version": version, **settings})
    head = build_head(config, widths, strides, num_classes).eval()
    pyramid = [
        torch.randn(num_images, width, size_hw[0] // stride, size_hw[1] // stride)
        for width, stride in zip(widths, strides, strict=True)
    ]
    return head(pyramid)


def one_row(version, raw, *, cell, stride, prior, objectness=0.0, classes=(0.0, 0.0)) -> YoloGridOutput:
    return YoloGridOutput(
        box_predictions=torch.tensor([[raw]]),
        objectness_logits=torch.tensor([[[objectness]]]),
        class_logits=torch.tensor([[classes]]),
        cell_xy=torch.tensor([cell], dtype=torch.float32),
        strides=torch.tensor([[float(stride)]]),
        version=version,
        prior_wh=torch.tensor([prior], dtype=torch.float32),
        centre_scales=torch.tensor([[centre_scale(version, stride)]]),
    )


# A cell at column 3, row 5 of stride 16, prior 20 x 30 (the whole image in v1); sigma(0) = 1/2, sigma(ln 3) = 3/4.
@pytest.mark.parametrize(
    ("version", "raw", "expected"),
    [
        ("v1", [0.25, 0.75, 0.5, -2.0], [52, 92, 5, 120]),
        ("v2", [0.0, math.log(3), 0.0, math.log(2)], [56, 92, 20, 60]),
        ("v3", [0.0, math.log(3), 0.0, math.log(2)], [56, 92, 20, 60]),
        ("v4", [0.0, math.log(3), 0.0, math.log(2)], [56, (5 + 1.1 * 0.75 - 0.05) * 16, 20, 60]),
        ("v5", [0.0, math.log(3), 0.0, math.log(3)], [56, 96, 20, 67.5]),
    ],
)
def test_decoding_by_hand(version, raw, expected):
    output = one_row(version, raw, cell=[3, 5], stride=16, prior=[20, 30])
    torch.testing.assert_close(output.boxes_cxcywh[0, 0], torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("version", VERSIONS)
@given(
    offset=st.tuples(*[st.floats(0.001, 0.999)] * 2),
    factor=st.tuples(*[st.floats(0.01, 3.9)] * 2),
    stride=st.sampled_from([8, 16, 32]),
)
def test_what_is_encoded_decodes_to_itself(version, offset, factor, stride):
    scales = torch.tensor([centre_scale(version, stride)], dtype=torch.float64)
    offsets, factors = (torch.tensor(pair, dtype=torch.float64) for pair in (offset, factor))
    raw_centres, raw_sizes = encode_centres(version, offsets, scales), encode_sizes(version, factors)
    torch.testing.assert_close(decode_centres(version, raw_centres, scales), offsets)
    torch.testing.assert_close(decode_sizes(version, raw_sizes), factors)


@pytest.mark.parametrize("version", VERSIONS)
@given(st.tuples(*[st.floats(0.01, 6)] * 2), st.tuples(*[st.floats(-6, 6)] * 2))
def test_what_is_decoded_encodes_to_itself(version, raw_sizes, raw_centres):
    scales = torch.tensor([centre_scale(version, 8)], dtype=torch.float64)
    sizes, centres = (torch.tensor(pair, dtype=torch.float64) for pair in (raw_sizes, raw_centres))
    torch.testing.assert_close(encode_sizes(version, decode_sizes(version, sizes)), sizes)
    torch.testing.assert_close(encode_centres(version, decode_centres(version, centres, scales), scales), centres)


@pytest.mark.parametrize("version", VERSIONS)
def test_boxes_relative_to_their_rows_are_what_was_decoded(version):
    output = head_output(version)
    rows = torch.arange(output.boxes_cxcywh.shape[1])
    offsets, factors = output.relative_to_rows(output.boxes_cxcywh[0], rows)
    torch.testing.assert_close(encode_sizes(version, factors).abs(), output.box_predictions[0, :, 2:].abs())
    decoded = decode_centres(version, output.box_predictions[0, :, :2], output.centre_scales)
    torch.testing.assert_close(offsets, decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_are_boxes_objectness_and_class_probabilities(version):
    output = head_output(version, num_classes=5)
    assert output.rows.shape == (2, len(output.cell_xy), 10)
    torch.testing.assert_close(output.rows[..., :4], output.boxes_cxcywh)
    assert output.rows[..., 4:].min() >= 0
    assert output.rows[..., 4:].max() <= 1
    sums = output.rows[..., 5:].sum(dim=-1)
    assert torch.allclose(sums, torch.ones_like(sums)) == (version in ("v1", "v2"))


def test_rows_run_by_level_then_cell_then_anchor():
    output = head_output("v3", size_hw=(32, 64))
    expected = []
    anchors = YoloGridHeadConfig(version="v3").anchors
    for sizes, stride in zip(anchors, (8, 16, 32), strict=True):
        for row in range(32 // stride):
            for column in range(64 // stride):
                expected += [(column, row, stride, *size) for size in sizes]
    rows = torch.cat((output.cell_xy, output.strides, output.prior_wh), dim=1)
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float32))


def test_predictions_of_an_anchor_come_from_its_channels_and_its_cell():
    head = YoloGridHead(YoloGridHeadConfig(version="v2"), (6,), (32,), 3).eval()
    features = torch.zeros(1, 6, 2, 3)
    quiet = head([features])
    with torch.no_grad():
        assert head.levels[0].predict_box.bias is not None
        head.levels[0].predict_box.bias[4 * 2 : 4 * 3] += 1
    moved = (head([features]).box_predictions != quiet.box_predictions).any(dim=-1)[0]
    assert moved.nonzero().squeeze(1).tolist() == [2, 7, 12, 17, 22, 27]
    features[0, :, 1, 2] = 5
    moved = (head([features]).class_logits != quiet.class_logits).any(dim=-1)[0]
    assert moved.nonzero().squeeze(1).tolist() == [25, 26, 27, 28, 29]


def test_the_boxes_of_a_v1_cell_share_their_classes_and_no_others():
    logits = head_output("v1", boxes_per_cell=3).class_logits.view(2, 6, 3, 4)
    torch.testing.assert_close(logits[:, :, 0], logits[:, :, 2])
    assert (logits[:, 0, 0] != logits[:, 1, 0]).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_fresh_head_starts_at_its_priors_and_believes_in_nothing(version):
    head = build_head(YoloGridHeadConfig(version=version), (6,) * LEVELS[version], (32,) * LEVELS[version], 3).eval()
    output = head([torch.zeros(1, 6, 2, 3)] * LEVELS[version])
    middle = (output.cell_xy + 0.5) * output.strides
    torch.testing.assert_close(output.boxes_cxcywh[0, :, :2], middle)
    factor = 0.25 if version == "v1" else 1
    torch.testing.assert_close(output.boxes_cxcywh[0, :, 2:], output.prior_wh * factor)
    if version != "v1":
        torch.testing.assert_close(output.objectness, torch.full_like(output.objectness, 0.01))


def test_v1_sizes_are_shares_of_whatever_image_there_is():
    assert head_output("v1", size_hw=(64, 96)).prior_wh.unique(dim=0).tolist() == [[96, 64]]


def test_boxes_are_decoded_in_single_precision_even_from_half():
    output = one_row("v3", [0.3, 0.3, 1.0, 1.0], cell=[79, 79], stride=8, prior=[10, 13])
    half = output.box_predictions.to(torch.bfloat16)
    assert (
        type(output)(
            half,
            output.objectness_logits,
            output.class_logits,
            output.cell_xy,
            output.strides,
            "v3",
            output.prior_wh,
            output.centre_scales,
        ).boxes_cxcywh.dtype
        == torch.float32
    )


def test_the_published_stretches_of_v4_are_0_8_pixels_beyond_the_cell():
    assert [centre_scale("v4", stride) for stride in (8, 16, 32)] == pytest.approx([1.2, 1.1, 1.05])


def test_anchors_are_in_the_configuration_and_not_in_the_checkpoint():
    config = YoloGridHeadConfig(version="v4")
    assert YoloGridHeadConfig.model_validate_json(config.model_dump_json()) == config
    assert config.anchors[2][2] == (459, 401)
    assert not [key for key in YoloGridHead(config, (4, 4, 4), (8, 16, 32), 2).state_dict() if "anchor" in key]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"version": "v1", "anchors": [[[10, 13]]]}, "v1 has no anchors"),
        ({"version": "v3", "anchors": []}, "v3 needs anchors"),
        ({"version": "v3", "anchors": [[]]}, "anchors"),
        ({"version": "v3", "anchors": [[[10, 0]]]}, "greater than 0"),
        ({"version": "v2", "boxes_per_cell": 3}, "boxes_per_cell belongs to v1"),
        ({"version": "v6"}, "version"),
        ({"version": ["v3"]}, "version"),
    ],
)
def test_wrong_configurations_are_refused(content, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validate_config(YoloGridHeadConfig, content, origin="test")


def test_levels_that_do_not_fit_the_neck_are_refused():
    with pytest.raises(ConfigError, match=r"3 levels of the neck.*got them for 1"):
        build_head(YoloGridHeadConfig(version="v2"), (4, 4, 4), (8, 16, 32), 2)
    with pytest.raises(ConfigError, match="v1 has one level, the neck gives 2"):
        build_head(YoloGridHeadConfig(version="v1"), (4, 4), (16, 32), 2)


def channels_of(head: YoloGridHead) -> list[int]:
    """Channels that each level predicts, all its convolutions together."""
    return [
        sum(
            convolution.out_channels
            for convolution in (level.predict_box, level.predict_objectness, level.predict_class)
        )
        for level in head.levels
    ]


def test_v1_predicts_7_x_7_x_30_for_voc_as_in_figure_24_1():
    head = YoloGridHead(YoloGridHeadConfig(version="v1"), (8,), (64,), 20)
    assert channels_of(head) == [2 * 5 + 20]
    assert head([torch.zeros(1, 8, 7, 7)]).rows.shape[1] == 7 * 7 * 2


def test_v2_predicts_425_channels_for_coco_as_in_figure_24_2():
    assert channels_of(YoloGridHead(YoloGridHeadConfig(version="v2"), (8,), (32,), 80)) == [425]


def test_13_cells_of_32_pixels_with_3_boxes_are_43095_numbers_as_in_24_15_to_24_18():
    config = YoloGridHeadConfig(version="v3", anchors=(((10, 13), (16, 30), (33, 23)),))
    head = YoloGridHead(config, (8,), (32,), 80)
    assert channels_of(head) == [255]
    output = head([torch.zeros(1, 8, 416 // 32, 416 // 32)])
    assert output.rows.shape == (1, 507, 85)
    assert output.rows.numel() == 43_095
    torch.testing.assert_close(((output.cell_xy + 1) * output.strides).amax(dim=0), torch.tensor([416.0, 416.0]))


def test_a_forward_pass_at_416_pixels_has_10647_boxes():
    with torch.device("meta"):
        backbone = CSPDarknet(CSPDarknetConfig(width=0.5))
        features = backbone(torch.zeros(1, 3, 416, 416))
        head = YoloGridHead(YoloGridHeadConfig(version="v3"), backbone.channels, backbone.strides, 80)
        output = head(features)
    assert [tuple(level.shape[1:]) for level in features] == [(128, 52, 52), (256, 26, 26), (512, 13, 13)]
    assert channels_of(head) == [255, 255, 255]
    right, printed = (52 * 52 + 26 * 26 + 13 * 13) * 3, 13_182
    assert output.rows.shape == (1, right, 85) == (1, 10_647, 85)
    # The book calls the sum of all three the part of the finest, which is 8,112, and adds the others once more.
    assert printed - right == 2_028 + 507


def test_two_classes_need_21_channels():
    anchors = (((10, 13), (16, 30), (33, 23)),)
    config = YoloGridHeadConfig(version="v3", anchors=anchors)
    right, printed = 3 * (5 + 2), 255
    assert channels_of(YoloGridHead(config, (512,), (32,), 2)) == [right]
    assert channels_of(YoloGridHead(config, (512,), (32,), 80)) == [printed]


def test_a_decoded_box_by_hand():
    output = one_row("v3", [0.1, 0.2, 0.5, 0.6], cell=[6, 6], stride=32, prior=[16, 16])
    cx, cy, width, height = output.boxes_cxcywh[0, 0].tolist()
    assert (cx / 32, cy / 32) == pytest.approx((6.525, 6.550), abs=5e-4)
    assert (width, height) == pytest.approx((26.38, 29.15), abs=5e-3)
    # Printed as (209, 210, 26, 29): 6.550 x 32 is 209.6.
    assert [round(value) for value in (cx, cy, width, height)] == [209, 210, 26, 29]


def test_v3_asks_about_each_class_by_itself_as_in_24_6_and_v2_about_all_together():
    logits = (0.8, 0.8)
    together, each = (
        one_row(version, [0.0] * 4, cell=[0, 0], stride=8, prior=[8, 8], classes=logits) for version in ("v2", "v3")
    )
    torch.testing.assert_close(together.class_probabilities[0, 0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(each.class_probabilities[0, 0], torch.full((2,), 1 / (1 + math.exp(-0.8))))


def test_every_weight_takes_part_in_the_detector():
    detector = Detector(
        DetectorConfig.model_validate(
            {
                "backbone": {"kind": "cspdarknet", "width": 0.125},
                "neck": {"kind": "path_aggregation"},
                "head": {"kind": "yolo_grid", "version": "v3", "hidden_dim": 8},
                "num_classes": 3,
            }
        )
    ).train()
    detector(torch.rand(2, 3, 64, 64)).rows.sum().backward()
    assert [name for name, weight in detector.named_parameters() if weight.grad is None] == []

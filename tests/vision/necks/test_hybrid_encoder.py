"""The hybrid encoder: shapes, who hears of whom, and that attention knows rows from columns."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.necks.build import build_neck
from handeye.vision.necks.hybrid_encoder import HybridEncoder, HybridEncoderConfig

SMALL = HybridEncoderConfig(hidden_dim=16, num_heads=2, feed_forward_dim=24, depth=0.4)


def features_of(channels, size_hw, num_images=1):
    return [
        torch.randn(num_images, width, size_hw[0] >> level, size_hw[1] >> level).requires_grad_()
        for level, width in enumerate(channels)
    ]


@pytest.mark.parametrize("channels", [(8, 16, 32), (8,), (4, 12), (6, 10, 14, 18)])
@pytest.mark.parametrize("size_hw", [(16, 24), (8, 8)])
def test_every_level_keeps_its_size_and_gets_one_width(channels, size_hw):
    strides = tuple(8 << level for level in range(len(channels)))
    neck = build_neck(SMALL, channels, strides).eval()
    pyramid = neck(features_of(channels, size_hw, num_images=2))
    assert neck.channels == (16,) * len(channels)
    assert neck.strides == strides
    expected = [(2, 16, size_hw[0] >> level, size_hw[1] >> level) for level in range(len(channels))]
    assert [tuple(level.shape) for level in pyramid] == expected


@pytest.mark.parametrize("level", range(3))
def test_every_level_depends_on_every_feature(level):
    features = features_of((8, 16, 32), (16, 16))
    HybridEncoder(SMALL, (8, 16, 32), (8, 16, 32)).eval()(features)[level].sum().backward()
    for feature in features:
        assert feature.grad is not None
        assert feature.grad.abs().sum() > 0


@pytest.mark.parametrize(("num_encoder_layers", "sees_all"), [(0, False), (1, True)])
def test_attention_carries_across_the_whole_coarsest_level(num_encoder_layers, sees_all):
    config = SMALL.model_copy(update={"num_encoder_layers": num_encoder_layers})
    neck = HybridEncoder(config, (8,), (32,)).eval()
    features = features_of((8,), (6, 40))
    neck(features)[0][0, 0, 0, 0].backward()  # one channel: after a norm the sum of all of them is constant
    assert features[0].grad is not None
    assert bool(features[0].grad[0, :, -1, -1].abs().sum() > 0) is sees_all


def test_a_turned_map_gives_a_turned_map_once_rows_and_columns_change_places():
    """Positions are rows and columns of the map: turning the map and the halves of its table changes nothing else."""
    torch.manual_seed(0)
    neck = HybridEncoder(SMALL, (16,), (32,)).double().eval()
    turned = HybridEncoder(SMALL, (16,), (32,)).double().eval()
    swap = torch.cat((torch.arange(8, 16), torch.arange(8)))  # the halves of the channels: of the row, of the column
    weights = {
        key: value[swap] if value.ndim and len(value) == 16 else value for key, value in neck.state_dict().items()
    }
    weights = {
        key: value[:, swap] if value.ndim >= 2 and value.shape[1] == 16 and "project.0" not in key else value
        for key, value in weights.items()
    }
    turned.load_state_dict(weights)
    features = torch.randn(1, 16, 3, 5, dtype=torch.float64)
    expected = neck([features])[0].transpose(2, 3)[:, swap]
    torch.testing.assert_close(turned([features.transpose(2, 3)])[0], expected)


def test_depth_scales_the_merging_blocks():
    for depth, num_blocks in ((0.3, 1), (0.66, 2), (1.0, 3)):
        neck = HybridEncoder(SMALL.model_copy(update={"depth": depth}), (4, 8), (8, 16))
        assert {len(block.blocks) for block in (*neck.merge_down, *neck.merge_up)} == {num_blocks}


def test_the_blocks_of_dfine_take_the_same_places_without_activation_between_the_levels():
    config = SMALL.model_copy(update={"blocks": "dfine", "expansion": 0.34})
    neck = HybridEncoder(config, (8, 16, 32), (8, 16, 32)).eval()
    pyramid = neck(features_of((8, 16, 32), (16, 24)))
    assert [tuple(level.shape[1:]) for level in pyramid] == [(16, 16, 24), (16, 8, 12), (16, 4, 6)]
    for between in (*neck.reduce, *neck.shrink):
        assert not any(isinstance(module, torch.nn.SiLU) for module in between.modules())
        assert (between(torch.randn(1, 16, 8, 8)) < 0).any()
    # 0.34 * 16 / 2 = 2.72: the width inside is rounded down.
    assert {merge.stages[1].spatial.conv.out_channels for merge in (*neck.merge_down, *neck.merge_up)} == {2}


def test_two_sizes_in_one_process_do_not_disturb_each_other():
    torch.manual_seed(0)
    neck = HybridEncoder(SMALL, (8, 16), (16, 32)).eval()
    first, second = features_of((8, 16), (8, 12)), features_of((8, 16), (12, 8))
    before = neck(first)
    HybridEncoder(HybridEncoderConfig(hidden_dim=32), (8, 16), (16, 32)).eval()(second)
    neck(second)
    for ours, again in zip(before, neck(first), strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)


def test_attention_sees_the_coarsest_level_only():
    """Section 26.2.1: of a 640 x 640 image 400 tokens take part instead of 8400, a 441st part of the pairs."""
    tokens = [(640 // stride) ** 2 for stride in (8, 16, 32)]
    assert (sum(tokens), tokens[-1]) == (8400, 400)
    assert sum(tokens) ** 2 / tokens[-1] ** 2 == 441
    seen: list[torch.Size] = []
    neck = HybridEncoder(SMALL, (4, 4, 4), (8, 16, 32)).eval()
    neck.attention[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    with torch.no_grad():
        neck(features_of((4, 4, 4), (80, 80)))
    assert seen == [(1, 400, 16)]

"""Swin: torchvision's numbers at any size, windows that shift, and worked examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import swin_b, swin_s, swin_t
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformer

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.swin import (
    OTHER_REGION,
    PLANS,
    PatchMerging,
    Swin,
    SwinConfig,
    WindowAttention,
    offset_index,
    shift_mask,
)
from handeye.vision.checkpoints.torchvision_backbones import SWIN_KEYS
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError


def lively(network: nn.Module) -> nn.Module:
    """Weights with which every part of the network changes the outcome; torchvision's own start is almost linear."""
    generator = torch.Generator().manual_seed(3)
    for name, values in network.named_parameters():
        spread = 0.5 if "bias_table" in name else 0.2 if values.dim() == 1 else 1.5 * values[0].numel() ** -0.5
        nn.init.normal_(values, 1.0 if "norm" in name and name.endswith("weight") else 0.0, spread, generator)
    return network.eval()


def with_weights_of(theirs: nn.Module, config: SwinConfig) -> Swin:
    ours = Swin(config).eval()
    own = {f"backbone.{key}": value for key, value in ours.state_dict().items()}
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("head.")}
    renamed = SWIN_KEYS.to_ours(weights, own, origin="torchvision")
    ours.load_state_dict({key.removeprefix("backbone."): value for key, value in renamed.items()})
    return ours


@pytest.fixture(scope="module")
def shallow() -> tuple[Swin, SwinTransformer]:
    """Swin-T with fewer blocks, ours and torchvision's, of the same weights; in double precision."""
    torch.manual_seed(0)
    theirs = SwinTransformer([4, 4], 96, [2, 2, 2, 1], [3, 6, 12, 24], [7, 7])
    lively(theirs)
    theirs.head = nn.Identity()  # type: ignore[assignment]
    return with_weights_of(theirs, SwinConfig(blocks_per_stage=(2, 2, 2, 1), strides=(32,))).double(), theirs.double()


@pytest.mark.parametrize("size_hw", [(112, 112), (64, 96), (100, 172), (28, 260)])
def test_agrees_with_torchvision_at_every_size(shallow, size_hw):
    ours, theirs = shallow
    images = torch.rand(2, 3, *size_hw, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(images)
        features = ours.forward_classification_features(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-3, "were both images the same, nothing would be compared"
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "build"), [("t", swin_t), ("s", swin_s), ("b", swin_b)])
def test_the_published_sizes_agree_with_torchvision(size, build):
    theirs = lively(build(weights=None))
    ours = with_weights_of(theirs, SwinConfig(size=size, strides=(32,)))
    theirs.head = nn.Identity()
    images = torch.rand(1, 3, 192, 256, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_classification_features(images), theirs(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "build"),
    [("t", swin_t), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("s", swin_s), ("b", swin_b)))],
)
def test_keys_and_shapes_of_the_published_sizes(size, build):
    with torch.device("meta"):
        theirs, ours = build(weights=None).state_dict(), Swin(SwinConfig(size=size, strides=(32,))).state_dict()
    named = {SWIN_KEYS.published_key(f"backbone.{key}"): tuple(value.shape) for key, value in ours.items()}
    computed = "relative_position_index"
    assert named == {
        key: tuple(value.shape)
        for key, value in theirs.items()
        if not key.startswith("head.") and not key.endswith(computed)
    }


@pytest.mark.parametrize(
    ("strides", "size_hw"), [((8, 16, 32), (64, 96)), ((4, 8, 16, 32), (50, 33)), ((4, 16), (32, 64))]
)
def test_features_have_the_promised_channels_and_strides(strides, size_hw):
    backbone = build_backbone(SwinConfig(blocks_per_stage=(1, 1, 1, 1), strides=strides)).eval()
    features = backbone(torch.zeros(2, 3, *size_hw))
    assert backbone.strides == strides
    assert [tuple(level.shape) for level in features] == [
        (2, channels, -(-size_hw[0] // stride), -(-size_hw[1] // stride))
        for channels, stride in zip(backbone.channels, strides, strict=True)
    ]


def test_every_level_is_normed():
    backbone = build_backbone(SwinConfig(blocks_per_stage=(1, 1, 1, 1))).eval()
    for level in backbone(torch.rand(1, 3, 64, 64)):
        torch.testing.assert_close(level.mean(dim=1), torch.zeros_like(level[:, 0]), rtol=0, atol=1e-4)


def test_the_offset_of_a_pair_is_that_of_the_swapped_pair_turned_round():
    window = 5
    index = offset_index(window)
    assert (index + index.T).eq((2 * window - 1) ** 2 - 1).all()
    assert sorted(index.unique().tolist()) == list(range((2 * window - 1) ** 2))
    assert index.diagonal().eq(((2 * window - 1) ** 2) // 2).all()


def test_pairs_as_far_apart_share_their_bias():
    bias = WindowAttention(8, 2, window=3).bias()
    cell = {(row, column): 3 * row + column for row in range(3) for column in range(3)}
    assert bias[:, cell[0, 0], cell[1, 2]].equal(bias[:, cell[1, 0], cell[2, 2]])
    assert not bias[:, cell[0, 0], cell[1, 2]].equal(bias[:, cell[1, 2], cell[0, 0]])


def test_the_offsets_are_torchvisions():
    theirs = ShiftedWindowAttention(6, [7, 7], [0, 0], num_heads=2)
    assert offset_index(7).flatten().equal(theirs.relative_position_index)


def test_the_mask_parts_what_only_the_shift_brought_together():
    mask = shift_mask((8, 4), (2, 0), window=4)[:, 0]
    assert mask.shape == (2, 16, 16)
    assert mask[0].eq(0).all()
    upper = torch.arange(16) < 8
    apart = upper[:, None] != upper
    assert mask[1][apart].eq(OTHER_REGION).all()
    assert mask[1][~apart].eq(0).all()


def test_a_shift_joins_cells_across_the_border_of_windows_and_not_across_that_of_the_grid():
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, window=4).eval()
    tokens = torch.randn(1, 8, 8, 8, requires_grad=True)
    attention(tokens, (2, 2), shift_mask((8, 8), (2, 2), window=4))[0, 3, 3].sum().backward()
    assert tokens.grad is not None
    seen = tokens.grad[0].abs().sum(dim=-1) > 1e-20
    assert seen[2:6, 2:6].all()
    assert seen.sum() == 16
    tokens.grad = None
    attention(tokens, (2, 2), shift_mask((8, 8), (2, 2), window=4))[0, 0, 0].sum().backward()
    seen = tokens.grad[0].abs().sum(dim=-1) > 1e-20
    assert seen[:2, :2].all()
    assert seen.sum() == 4


def test_stochastic_depth_is_for_training_only_and_rises_to_its_rate():
    backbone = Swin(SwinConfig(blocks_per_stage=(1, 1, 2, 1), stochastic_depth=0.4))
    rates = [block.skip.p for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    images = torch.rand(1, 3, 32, 32)
    backbone.eval()
    assert all(first.equal(second) for first, second in zip(backbone(images), backbone(images), strict=True))


@pytest.mark.parametrize(
    "content", [{"strides": [32, 8]}, {"strides": []}, {"blocks_per_stage": [1, 1, 1]}, {"size": "xl"}]
)
def test_configurations_that_make_no_network_are_refused(content):
    with pytest.raises(ConfigError, match=next(iter(content))):
        validate_config(SwinConfig, content, origin="test")


def test_a_backbone_that_ends_early_cannot_classify():
    backbone = Swin(SwinConfig(blocks_per_stage=(1, 1, 1, 1), strides=(4, 8)))
    with pytest.raises(ValueError, match="stride 32"):
        backbone.forward_classification_features(torch.zeros(1, 3, 32, 32))


def test_merging_projects_the_concatenation_of_4_d_to_2_d():
    merge = PatchMerging(96)
    inputs = []
    merge.norm.register_forward_hook(lambda _module, args, _output: inputs.append(args[0]))
    merged = merge(torch.rand(1, 56, 56, 96))
    assert inputs[0].shape == (1, 28, 28, 4 * 96)
    assert merged.shape == (1, 28, 28, 2 * 96)


def test_the_shapes_of_the_stages():
    assert PLANS["t"].num_blocks == (2, 2, 6, 2)
    backbone = Swin(SwinConfig(blocks_per_stage=(1, 1, 1, 1), strides=(4, 8, 16, 32))).eval()
    shapes = [tuple(level.shape[1:]) for level in backbone(torch.zeros(1, 3, 224, 224))]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]

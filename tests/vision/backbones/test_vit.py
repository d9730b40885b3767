"""ViT: torchvision's numbers, positions for other sizes, windows, and worked examples."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import vit_b_16, vit_l_16
from torchvision.models.vision_transformer import VisionTransformer

from handeye.vision.backbones.build import build_backbone
from handeye.vision.backbones.vit import (
    Block,
    ViT,
    ViTConfig,
    interpolate_positions,
    padding_in_windows,
    refine_in_windows,
    windows_of_blocks,
)
from handeye.vision.checkpoints.torchvision_backbones import VIT_KEYS
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError, UserError


def lively(network: nn.Module) -> nn.Module:
    """Weights with which every part of the network changes the outcome."""
    generator = torch.Generator().manual_seed(3)
    for name, values in network.named_parameters():
        spread = (
            0.2 if values.dim() == 1 else 1.0 if name.endswith(("token", "embedding")) else values[0].numel() ** -0.5
        )
        nn.init.normal_(values, 1.0 if "ln" in name and name.endswith("weight") else 0.0, spread, generator)
    return network.eval()


def with_weights_of(theirs: nn.Module, config: ViTConfig) -> ViT:
    ours = ViT(config).eval()
    own = {f"backbone.{key}": value for key, value in ours.state_dict().items()}
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("heads.")}
    renamed = VIT_KEYS.to_ours(weights, own, origin="torchvision")
    ours.load_state_dict({key.removeprefix("backbone."): value for key, value in renamed.items()})
    return ours


@pytest.mark.parametrize(
    ("size", "dim", "num_heads"), [("b", 768, 12), pytest.param("l", 1024, 16, marks=pytest.mark.slow)]
)
def test_agrees_with_torchvision(size, dim, num_heads):
    theirs = lively(VisionTransformer(64, 16, 2, num_heads, dim, 4 * dim)).double()
    ours = with_weights_of(theirs, ViTConfig(size=size, depth=2, trained_size_px=64)).double()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs.heads = nn.Identity()
    tokens = []
    theirs.encoder.register_forward_hook(lambda _module, _inputs, output: tokens.append(output))
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_classification_features(images), theirs(images), rtol=0, atol=1e-5)
        (features,) = ours(images)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens[0][:, 1:], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "build"), [("b", vit_b_16), ("l", vit_l_16)])
def test_the_published_sizes_agree_with_torchvision(size, build):
    theirs = lively(build(weights=None))
    ours = with_weights_of(theirs, ViTConfig(size=size))
    theirs.heads = nn.Identity()
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_classification_features(images), theirs(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "build"), [("b", vit_b_16), ("l", vit_l_16)])
def test_keys_and_shapes_of_the_published_sizes(size, build):
    with torch.device("meta"):
        theirs, ours = build(weights=None).state_dict(), ViT(ViTConfig(size=size)).state_dict()
    named = VIT_KEYS.to_published({f"backbone.{key}": value for key, value in ours.items()})
    assert {key: tuple(value.shape) for key, value in named.items()} == {
        key: tuple(value.shape) for key, value in theirs.items() if not key.startswith("heads.")
    }


@pytest.mark.parametrize("window", [None, 3])
def test_one_map_of_stride_16(window):
    backbone = build_backbone(ViTConfig(depth=2, window=window, global_blocks=None if window is None else ())).eval()
    assert (backbone.channels, backbone.strides) == ((768,), (16,))
    assert [tuple(level.shape) for level in backbone(torch.zeros(2, 3, 64, 96))] == [(2, 768, 4, 6)]


def test_sizes_that_patches_do_not_divide_are_refused():
    with pytest.raises(UserError, match="multiples of 16, got 64 x 100"):
        ViT(ViTConfig(depth=1))(torch.zeros(1, 3, 64, 100))


def test_positions_stay_as_they_are_at_the_trained_size():
    positions = torch.randn(1, 1 + 14 * 14, 8)
    assert interpolate_positions(positions, (14, 14)) is positions


def test_positions_keep_their_place_when_interpolated():
    # A ramp along the rows and one along the columns: cell i of n cells has its centre at (i + 0.5) / n.
    side, (height, width) = 14, (20, 24)
    centres = (torch.arange(side) + 0.5) / side
    ramps = torch.stack((centres[:, None].expand(side, side), centres.expand(side, side)), dim=-1)
    class_position = torch.tensor([[[7.0, -7.0]]])
    resized = interpolate_positions(torch.cat((class_position, ramps.reshape(1, -1, 2)), dim=1), (height, width))
    assert resized[:, :1].equal(class_position)
    grid = resized[0, 1:].reshape(height, width, 2)
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    # Beyond the border bicubic repeats the last cell, and torch's kernel keeps ramps to a twentieth of a cell only.
    # Corner on corner, the other convention, would be off by twice the tolerance here.
    inner, tolerance = slice(3, -3), 0.05 / side
    torch.testing.assert_close(
        grid[inner, inner, 0], rows[inner, None].expand(height - 6, width - 6), rtol=0, atol=tolerance
    )
    torch.testing.assert_close(
        grid[inner, inner, 1], columns[inner].expand(height - 6, width - 6), rtol=0, atol=tolerance
    )


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return Block(16, 2).eval()


@pytest.mark.parametrize("window", [6, 8])
def test_one_window_over_everything_is_global_attention(block, window):
    tokens = torch.randn(2, 1 + 4 * 6, 16)
    refined = refine_in_windows(block, tokens, (4, 6), window)
    torch.testing.assert_close(refined[:, 1:], block(tokens[:, 1:]), rtol=0, atol=1e-5)
    assert refined[:, 0].equal(tokens[:, 0])


def test_a_window_sees_its_own_cells_and_no_padding(block):
    grid = torch.randn(1, 5, 5, 16)
    tokens = torch.cat((torch.zeros(1, 1, 16), grid.flatten(1, 2)), dim=1)
    refined = refine_in_windows(block, tokens, (5, 5), 3)[:, 1:].unflatten(1, (5, 5))
    for rows in (slice(0, 3), slice(3, 5)):
        for columns in (slice(0, 3), slice(3, 5)):
            alone = block(grid[:, rows, columns].flatten(1, 2))
            torch.testing.assert_close(refined[:, rows, columns].flatten(1, 2), alone, rtol=0, atol=1e-5)


def test_padding_lies_below_and_to_the_right():
    is_pad = padding_in_windows((2, 3), 2, torch.device("cpu"))
    assert is_pad is not None
    assert is_pad[0].tolist() == [[False] * 4, [False, True, False, True]]
    assert padding_in_windows((4, 6), 2, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("config", "everywhere"),
    [
        (ViTConfig(), range(12)),
        (ViTConfig(window=14), (2, 5, 8, 11)),
        (ViTConfig(size="l", window=14), (5, 11, 17, 23)),
        (ViTConfig(depth=2, window=14), (0, 1)),
        (ViTConfig(depth=3, window=14, global_blocks=(1,)), (1,)),
        (ViTConfig(depth=3, window=14, global_blocks=()), ()),
    ],
)
def test_which_blocks_look_everywhere(config, everywhere):
    windows = ViT(config).windows if config.depth else windows_of_blocks(config, 24 if config.size == "l" else 12)
    assert [index for index, window in enumerate(windows) if window is None] == list(everywhere)


@pytest.mark.parametrize(
    "content",
    [{"global_blocks": [1]}, {"depth": 2, "window": 7, "global_blocks": [2]}, {"trained_size_px": 200}, {"depth": 0}],
)
def test_configurations_that_make_no_network_are_refused(content):
    with pytest.raises(ConfigError, match=list(content)[-1]):
        validate_config(ViTConfig, content, origin="test")


def test_patches_of_a_224_pixel_image():
    """14 x 14 = 196 patches of 768 numbers, 197 tokens with the class token."""
    backbone = ViT(ViTConfig(depth=1)).eval()
    images = torch.rand(1, 3, 224, 224)
    patches = nn.functional.unfold(images, 16, stride=16).transpose(1, 2)
    assert patches.shape == (1, 196, 16 * 16 * 3)
    assert backbone.positions.shape == (1, 197, 768)
    # The convolution is the linear projection of flattened patches.
    projected = nn.functional.linear(patches, backbone.embed.weight.flatten(1), backbone.embed.bias)
    torch.testing.assert_close(backbone.embed(images).flatten(2).transpose(1, 2), projected, rtol=0, atol=1e-5)

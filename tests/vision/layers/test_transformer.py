"""Transformer layers against torch's own, with the position added where the paper adds it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from handeye.vision.layers.attention import MultiHeadAttention
from handeye.vision.layers.transformer import DecoderLayer, EncoderLayer, FeedForward, map_to_tokens

PAD = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    for name, part in zip(("query", "key", "value"), range(3), strict=True):
        projection = getattr(ours, f"project_{name}")
        projection.weight.data = theirs.in_proj_weight.data.chunk(3)[part].clone()
        projection.bias.data = theirs.in_proj_bias.data.chunk(3)[part].clone()
    ours.project_out.load_state_dict(theirs.out_proj.state_dict())


def copy_feed_forward(ours: FeedForward, first: nn.Linear, second: nn.Linear) -> None:
    ours.expand.load_state_dict(first.state_dict())
    ours.contract.load_state_dict(second.state_dict())


def shaken(module: nn.Module) -> nn.Module:
    """Fresh norms and biases hide mistakes of order."""
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return module.eval()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_encoder_layer_without_positions_is_torchs(activation):
    theirs = nn.TransformerEncoderLayer(16, 4, 24, activation=activation, batch_first=True)
    shaken(theirs)
    ours = EncoderLayer(16, 4, 24, activation=activation).eval()
    copy_attention(ours.attention, theirs.self_attn)
    copy_feed_forward(ours.feed_forward, theirs.linear1, theirs.linear2)
    ours.attention_norm.load_state_dict(theirs.norm1.state_dict())
    ours.feed_forward_norm.load_state_dict(theirs.norm2.state_dict())
    tokens = torch.randn(2, 6, 16)
    found = ours(tokens, torch.zeros(1, 6, 16), is_pad=PAD)
    expected = theirs(tokens, src_key_padding_mask=PAD)
    torch.testing.assert_close(found[~PAD], expected[~PAD])


def test_positions_reach_queries_and_keys_but_not_values():
    layer = EncoderLayer(16, 4, 24).eval()
    shaken(layer)
    positions = torch.randn(1, 6, 16)
    # Equal tokens have equal values: wherever attention looks, it brings the same.
    equal = torch.randn(2, 1, 16).expand(2, 6, 16)
    torch.testing.assert_close(layer(equal, positions), layer(equal, torch.zeros(1, 6, 16)))
    tokens = torch.randn(2, 6, 16)
    assert not torch.allclose(layer(tokens, positions), layer(tokens, torch.zeros(1, 6, 16)), atol=1e-3)


def test_the_decoder_layer_without_positions_is_torchs():
    theirs = nn.TransformerDecoderLayer(16, 4, 24, batch_first=True)
    shaken(theirs)
    ours = DecoderLayer(16, 4, 24).eval()
    copy_attention(ours.self_attention, theirs.self_attn)
    copy_attention(ours.cross_attention, theirs.multihead_attn)
    copy_feed_forward(ours.feed_forward, theirs.linear1, theirs.linear2)
    for norm, name in (("self_attention", "norm1"), ("cross_attention", "norm2"), ("feed_forward", "norm3")):
        getattr(ours, f"{norm}_norm").load_state_dict(getattr(theirs, name).state_dict())
    queries, memory = torch.randn(2, 3, 16), torch.randn(2, 6, 16)
    found = ours(queries, torch.zeros(1, 3, 16), memory, memory, is_pad=PAD)
    torch.testing.assert_close(found, theirs(queries, memory, memory_key_padding_mask=PAD))


def test_memory_weights_are_those_that_the_layer_uses():
    layer = DecoderLayer(16, 4, 24).eval()
    shaken(layer)
    queries, positions, memory = torch.randn(2, 3, 16), torch.randn(1, 3, 16), torch.randn(2, 6, 16)
    placed = memory + torch.randn(1, 6, 16)
    weights = layer.memory_weights(queries, positions, placed, is_pad=PAD)
    assert weights.shape == (2, 4, 3, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 3))
    assert (weights[1, ..., 4:] == 0).all()
    # A memory in which one place stands out: what arrives is the weight of that place.
    asked: list[torch.Tensor] = []
    layer.cross_attention.register_forward_hook(lambda _, __, found: asked.append(found))
    value = layer.cross_attention.project_value
    nn.init.zeros_(value.bias)
    nn.init.ones_(value.weight)
    nn.init.eye_(layer.cross_attention.project_out.weight)
    nn.init.zeros_(layer.cross_attention.project_out.bias)
    one_place = torch.zeros(2, 6, 16)
    one_place[:, 2] = 1 / 16
    layer(queries, positions, one_place, placed, is_pad=PAD)
    expected = weights[..., 2].transpose(1, 2).repeat_interleave(4, dim=-1)
    torch.testing.assert_close(asked[0], expected)


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_norm_before_the_tokens_learns_from_a_single_image_too(num_images, layout):
    """In single precision torch's own gets the gradients of one map wrong; double precision tells."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.weight)
    maps = torch.randn(num_images, 8, 4, 5).to(memory_format=layout)
    wanted = torch.randn(num_images, 20, 8)

    def gradients(norm: nn.BatchNorm2d, maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = maps.clone().requires_grad_()
        loss = (map_to_tokens(norm(maps)) * wanted.to(maps.dtype)).sum()
        return torch.autograd.grad(loss, [maps, *norm.parameters()])

    found, expected = gradients(norm, maps), gradients(copy.deepcopy(norm).double(), maps.double())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)

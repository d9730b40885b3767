"""Attention against torch's own, masks, and the weights for pictures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.layers.attention import HIDDEN, MultiHeadAttention, finite_mask

PAD = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])


def ours_and_torchs() -> tuple[MultiHeadAttention, nn.MultiheadAttention]:
    """The same weights in our module and in torch's, which packs the first three projections into one."""
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(16, 4).eval(), nn.MultiheadAttention(16, 4, batch_first=True).eval()
    projections = (ours.project_query, ours.project_key, ours.project_value)
    for projection in (*projections, ours.project_out):
        nn.init.normal_(projection.bias)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([projection.weight for projection in projections]))
        theirs.in_proj_bias.copy_(torch.cat([projection.bias for projection in projections]))
    theirs.out_proj.load_state_dict(ours.project_out.state_dict())
    return ours, theirs


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, num, 16, generator=generator) for num in (5, 7, 7))
    return query, key, value


@pytest.mark.parametrize("is_pad", [None, PAD])
@pytest.mark.parametrize("hides", [False, True])
def test_agrees_with_torch(is_pad, hides):
    is_hidden = torch.ones(5, 7, dtype=torch.bool).triu(2) if hides else None
    ours, theirs = ours_and_torchs()
    query, key, value = tokens()
    expected, weights = theirs(
        query, key, value, key_padding_mask=is_pad, attn_mask=is_hidden, average_attn_weights=False
    )
    torch.testing.assert_close(ours(query, key, value, is_pad=is_pad, is_hidden=is_hidden), expected)
    torch.testing.assert_close(ours.weights(query, key, is_pad=is_pad, is_hidden=is_hidden), weights)


def test_what_is_padding_has_no_influence_at_all():
    ours, _ = ours_and_torchs()
    query, key, value = tokens()
    first = ours(query, key, value, is_pad=PAD)
    key[1, 4:], value[1, 4:] = 50.0, -50.0
    torch.testing.assert_close(ours(query, key, value, is_pad=PAD), first, rtol=0, atol=0)


def test_a_row_that_is_hidden_altogether_stays_finite():
    ours, _ = ours_and_torchs()
    query, key, value = tokens()
    attended = ours(query, key, value, is_hidden=torch.ones(5, 7, dtype=torch.bool))
    assert attended.isfinite().all()
    attended.sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in ours.parameters())


def test_half_precision_can_hold_the_mask():
    mask = finite_mask(PAD, None, torch.float16)
    assert mask is not None
    assert mask.isfinite().all()
    assert float(mask.min()) == HIDDEN


def test_without_anything_to_hide_there_is_no_mask():
    assert finite_mask(None, None, torch.float32) is None


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 4, dropout=0.5)
    query, key, value = tokens()
    torch.testing.assert_close(attention.eval()(query, key, value), attention(query, key, value))
    assert not torch.equal(attention.train()(query, key, value), attention(query, key, value))


def test_fresh_projections_are_as_wide_as_in_one_packed_matrix():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(256, 8), nn.MultiheadAttention(256, 8)
    torch.testing.assert_close(ours.project_key.weight.std(), theirs.in_proj_weight.std(), rtol=0.02, atol=0)


def test_slopes_are_those_of_finite_differences():
    torch.manual_seed(2)
    attention = MultiHeadAttention(4, 2).double()
    query, key, value = (torch.randn(1, num, 4, dtype=torch.float64, requires_grad=True) for num in (2, 3, 3))
    is_pad = torch.tensor([[False, False, True]])
    torch.autograd.gradcheck(lambda *tokens: attention(*tokens, is_pad=is_pad), (query, key, value))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads divide, got 16"):
        MultiHeadAttention(16, 3)


def test_the_scale_is_the_width_of_a_head():
    """With 8 heads and width 256 the scale is that of sqrt(32), the width of one head."""
    attention = MultiHeadAttention(256, 8)
    for projection in (attention.project_query, attention.project_key):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    query = torch.ones(1, 1, 256)
    key = torch.stack((torch.ones(256), torch.zeros(256)))[None]
    odds = attention.weights(query, key)[0, :, 0]
    printed, right = 32 / 256**0.5, 32 / 32**0.5
    torch.testing.assert_close((odds[:, 0] / odds[:, 1]).log(), torch.full((8,), right))
    assert printed != right


def test_a_folded_scale_changes_nothing_else():
    torch.manual_seed(0)
    attention = MultiHeadAttention(24, 3)
    query, key, value = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    found, weights = attention(query, key, value), attention.weights(query, key)
    attention.fold_scale()
    assert attention.scale == 1.0
    torch.testing.assert_close(attention(query, key, value), found)
    torch.testing.assert_close(attention.weights(query, key), weights)
    once = attention.project_query.weight.clone()
    attention.fold_scale()
    assert torch.equal(attention.project_query.weight, once)

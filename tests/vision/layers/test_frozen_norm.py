"""The frozen batch norm: torchvision's numbers, those of a live one in eval mode, and its state from either."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import ops

from handeye.vision.layers.frozen_norm import FrozenBatchNorm2d


def live_norm() -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(5, eps=1e-3)
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 2.0)
    return norm.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_computes_what_torchvision_and_a_live_norm_in_eval_mode_do(dtype: torch.dtype) -> None:
    live = live_norm().to(dtype)
    ours, theirs = FrozenBatchNorm2d(5, eps=1e-3).to(dtype), ops.FrozenBatchNorm2d(5, eps=1e-3).to(dtype)
    for norm in (ours, theirs):
        norm.load_state_dict(live.state_dict())
    features = torch.randn(2, 5, 4, 3, dtype=dtype)
    assert torch.equal(ours(features), theirs(features))
    torch.testing.assert_close(ours.train()(features), live(features))


def test_nothing_of_it_is_learnt_and_its_state_has_torchvisions_names() -> None:
    norm = FrozenBatchNorm2d(5)
    assert not list(norm.parameters())
    assert norm.state_dict().keys() == ops.FrozenBatchNorm2d(5).state_dict().keys()
    norm(torch.randn(2, 5, 4, 3))
    assert all(
        torch.equal(values, fresh) for values, fresh in zip(norm.buffers(), FrozenBatchNorm2d(5).buffers(), strict=True)
    )


def test_a_state_that_lacks_something_is_refused() -> None:
    state = live_norm().state_dict()
    del state["running_var"]
    with pytest.raises(RuntimeError, match="running_var"):
        FrozenBatchNorm2d(5).load_state_dict(state)

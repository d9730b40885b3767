"""Residual branches left out at random: torchvision's draws, whole examples, and the branch itself in expectation."""

from __future__ import annotations

import pytest
import torch
from torchvision import ops

from handeye.vision.layers.stochastic_depth import StochasticDepth


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2, 4)])
def test_the_same_examples_go_as_with_torchvision(shape: tuple[int, ...]) -> None:
    branch = torch.randn(shape)
    results = []
    for layer in (StochasticDepth(0.4), ops.StochasticDepth(0.4, "row")):
        torch.manual_seed(1)
        results.append(layer.train()(branch))
    assert torch.equal(*results)


def test_examples_go_whole_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    out = StochasticDepth(0.25).train()(torch.ones(20_000, 3))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert torch.equal(out[:, 0], out[:, 1])
    assert float(out[:, 0].mean()) == pytest.approx(1, abs=4 * (0.25 / 0.75 / 20_000) ** 0.5)


def test_in_eval_mode_or_without_a_probability_the_branch_passes() -> None:
    branch = torch.randn(4, 3)
    assert StochasticDepth(0.5).eval()(branch) is branch
    assert StochasticDepth(0.0).train()(branch) is branch


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        StochasticDepth(p)

"""The loss by hand, against torch's own divergence, at its limits, and what learning with it makes of the style."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from handeye.robot.learning.act import (
    Act,
    ActInputs,
    ActLossConfig,
    ActOutput,
    Demonstration,
    Posterior,
    act_loss,
    action_error,
    prior_distance,
)
from tests.robot.learning.small_policy import small_network, small_signature


def test_padding_does_not_count() -> None:
    actions, wanted = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [100.0, 100.0], [math.nan, math.inf]]])
    is_pad = torch.tensor([[False, True, True]])
    assert action_error(actions, wanted, is_pad) == 2.0


def test_the_divisor_is_what_is_data() -> None:
    actions, wanted, is_pad = torch.zeros(2, 2, 1), torch.ones(2, 2, 1), torch.tensor([[False, False], [False, True]])
    assert action_error(actions, wanted, is_pad) == 1.0


def test_padding_gets_no_gradient_even_where_it_is_no_number() -> None:
    actions = torch.zeros(1, 2, 1, requires_grad=True)
    wanted = torch.tensor([[[1.0], [math.nan]]])
    action_error(actions, wanted, torch.tensor([[False, True]])).backward()
    assert actions.grad is not None
    assert actions.grad.flatten().tolist() == [-1.0, 0.0]


def test_nothing_but_padding_is_zero() -> None:
    actions = torch.ones(1, 2, 1, requires_grad=True)
    error = action_error(actions, torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool))
    error.backward()
    assert error == 0
    assert actions.grad is not None
    assert not actions.grad.any()


def test_divergence_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 4), torch.randn(5, 4)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(prior_distance(Posterior(mean, log_variance)), wanted)


def test_divergence_of_the_prior_is_zero_and_every_other_is_more() -> None:
    zero = torch.zeros(2, 3)
    assert prior_distance(Posterior(zero, zero)) == 0
    assert prior_distance(Posterior(zero + 0.1, zero)) > 0
    assert prior_distance(Posterior(zero, zero - 0.1)) > 0


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_parts_add_up(weight: float) -> None:
    torch.manual_seed(0)
    posterior = Posterior(torch.randn(2, 3), torch.randn(2, 3))
    shown = Demonstration(torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool))
    losses = act_loss(ActOutput(torch.randn(2, 4, 3), None, posterior), shown, ActLossConfig(kl_weight=weight))
    torch.testing.assert_close(losses["total"], losses["l1"] + weight * losses["kl"])


def test_without_a_posterior_there_is_no_divergence() -> None:
    shown = Demonstration(torch.zeros(1, 4, 3), torch.zeros(1, 4, dtype=torch.bool))
    losses = act_loss(ActOutput(torch.ones(1, 4, 3), None, None), shown, ActLossConfig())
    assert {name: float(value) for name, value in losses.items()} == {"l1": 1.0, "total": 1.0}


NUM_DRAWS = 64
"""Styles drawn for each demonstration when what was learnt is measured; one draw for each is a matter of luck."""


def learn_two_ways(kl_weight: float) -> dict[str, float]:
    """The losses after learning demonstrations that do one of two things where the robot sees the same."""
    torch.manual_seed(0)
    act = Act(small_network(), small_signature(environment=0))
    optimizer = torch.optim.Adam(act.parameters(), lr=3e-3)
    shown = Demonstration(torch.tensor([1.0, -1.0]).repeat(8)[:, None, None].expand(16, 4, 3), torch.zeros(16, 4) > 0)

    def losses() -> dict[str, torch.Tensor]:
        return act_loss(act(ActInputs(torch.zeros(16, 3)), shown), shown, ActLossConfig(kl_weight=kl_weight))

    for _ in range(150):
        optimizer.zero_grad()
        losses()["total"].backward()
        optimizer.step()
    with torch.no_grad():
        draws = [losses() for _ in range(NUM_DRAWS)]
    return {name: float(np.mean([float(draw[name]) for draw in draws])) for name in draws[0]}


def test_the_style_tells_apart_what_the_observation_cannot() -> None:
    losses = learn_two_ways(kl_weight=1e-3)
    assert losses["l1"] < 0.2
    assert losses["kl"] > math.log(2), "one of two ways is one bit"


def test_a_style_that_costs_more_than_it_spares_is_given_up() -> None:
    losses = learn_two_ways(kl_weight=10.0)
    assert losses["kl"] < 0.05
    # Without a style the best guess is between the two, at an error of 1. A style of a divergence D tells the two apart
    # by at most sqrt(2 D) (Pinsker); the mean of all draws, each between 0 and 2, errs by 1 / sqrt(draws) at most.
    assert losses["l1"] > 1 - math.sqrt(2 * losses["kl"]) - 4 / math.sqrt(16 * NUM_DRAWS)

"""What ACT learns from: the absolute error of its actions, and how far styles stray from the prior.

Published code divides the error by all elements of the chunk, padding included, so that the ends of episodes count
less the longer the chunk; here the divisor is the number of elements that are data.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from robot.learning.act import ActOutput
from robot.policy.act_latent import Demonstration, Posterior
from vision.config import Config


class ActLossConfig(Config):
    """Weight of the second part; the default is the published one."""

    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """What one nat of style costs, in deviations of error. Where demonstrations of one expert always do the same, no
    style can spare as much: it is given up, and `kl` goes to zero."""


def act_loss(output: ActOutput, demonstration: Demonstration, config: ActLossConfig) -> dict[str, Tensor]:
    """total = l1 + kl_weight kl (equation 2 of the paper, with the absolute for the squared error); each a scalar.

    Without a posterior there is no `kl`.
    """
    l1 = action_error(output.actions, demonstration.actions, demonstration.is_pad)
    if output.posterior is None:
        return {"l1": l1, "total": l1}
    kl = prior_distance(output.posterior)
    return {"l1": l1, "kl": kl, "total": l1 + config.kl_weight * kl}


def action_error(
    actions: Float[Tensor, "B T A"], wanted: Float[Tensor, "B T A"], is_pad: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean absolute difference over what is data; zero, with zero gradients, where nothing is."""
    # What stands in the padding is no data, and may even be no number.
    errors = torch.where(is_pad[..., None], 0.0, (actions - wanted).abs())
    return errors.sum() / ((~is_pad).sum() * actions.shape[-1]).clamp(min=1)


def prior_distance(posterior: Posterior) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, 1)): summed over the style's numbers, averaged over the batch."""
    mean, log_variance = posterior.mean, posterior.log_variance
    return (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(dim=-1).mean()

"""The style of a demonstration as a few numbers: the encoder of ACT's conditional autoencoder.

It sees what was done after an observation and says how it differs from what else might have been done there. Only
training has it; a policy that runs takes the middle of the prior, zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vision.layers.transformer import EncoderLayer

WAVELENGTH_RATIO = 10_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    """What was done next, normalised, and which of it lies beyond the end of the episode and is no data."""

    actions: Float[Tensor, "B T A"]
    is_pad: Bool[Tensor, "B T"]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """A normal distribution of the style for each demonstration: mean and logarithm of the variance."""

    mean: Float[Tensor, "B Z"]
    log_variance: Float[Tensor, "B Z"]

    def sample(self) -> Float[Tensor, "B Z"]:
        """One style each, in a form that gradients pass through (Kingma and Welling 2013, arXiv:1312.6114)."""
        return self.mean + (self.log_variance / 2).exp() * torch.randn_like(self.mean)


class LatentEncoder(nn.Module):
    """A summary token, the state and the actions look at each other; the summary becomes the distribution."""

    positions: Tensor

    def __init__(
        self,
        *,
        state_dim: int,
        action_dim: int,
        chunk_size: int,
        latent_dim: int,
        num_layers: int,
        layer: tuple[int, int, int],
        dropout: float,
    ) -> None:
        """`layer` is width, heads and feed-forward width of a layer."""
        super().__init__()
        dim = layer[0]
        self.summary = nn.Embedding(1, dim)
        self.embed_state = nn.Linear(state_dim, dim)
        self.embed_action = nn.Linear(action_dim, dim)
        self.layers = nn.ModuleList(EncoderLayer(*layer, dropout=dropout) for _ in range(num_layers))
        self.predict_posterior = nn.Linear(dim, 2 * latent_dim)
        self.register_buffer("positions", sequence_positions(2 + chunk_size, dim), persistent=False)

    def forward(self, state: Float[Tensor, "B S"], demonstration: Demonstration) -> Posterior:
        """The distribution of the styles; actions that are no data change nothing."""
        summary = self.summary.weight.expand(len(state), 1, -1)
        actions = self.embed_action(demonstration.actions)
        tokens = torch.cat((summary, self.embed_state(state)[:, None], actions), dim=1)
        is_pad = torch.cat((torch.zeros_like(demonstration.is_pad[:, :2]), demonstration.is_pad), dim=1)
        for layer in self.layers:
            tokens = layer(tokens, self.positions[None], is_pad=is_pad)
        mean, log_variance = self.predict_posterior(tokens[:, 0]).chunk(2, dim=-1)
        return Posterior(mean, log_variance)


def sequence_positions(num: int, dim: int) -> Float[Tensor, "num dim"]:
    """sin(n / 10000^(2 i / dim)) in column 2 i and its cosine in 2 i + 1 (Vaswani et al. 2017, section 3.5)."""
    frequencies = WAVELENGTH_RATIO ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(num, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(torch.float32)

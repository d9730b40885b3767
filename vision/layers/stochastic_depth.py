"""Residual branches left out at random in training (Huang et al. 2016, arXiv:1603.09382).

torchvision has the same class; importing it brings torch's compiler along, which takes two seconds.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """In training, each example of the batch becomes zero with probability p, and 1 / (1 - p) of itself otherwise.

    In expectation that is the branch itself, which it is unchanged in eval mode. 0 <= p < 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected a probability in [0, 1), got {p}")
        self.p = p

    def forward(self, branch: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        """The branch, of which some examples are zero in training."""
        if not self.training or self.p == 0:
            return branch
        kept = 1 - self.p
        size = [branch.shape[0]] + [1] * (branch.ndim - 1)
        return branch * torch.empty(size, dtype=branch.dtype, device=branch.device).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        """The probability, in the printed network."""
        return f"p={self.p}"

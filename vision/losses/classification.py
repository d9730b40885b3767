"""Losses of yes-or-no answers, one for each class. All take logits and leave the reduction to the caller."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(logit), element by element; targets may lie between 0 and 1."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def focal_loss(
    logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, "*shape"]:
    """Cross entropy with easy answers turned down (Lin et al. 2017, arXiv:1708.02002, equation 5).

    alpha weighs positives against negatives; gamma = 0 and alpha = 0.5 give half the cross entropy.
    """
    probabilities = logits.sigmoid()
    miss = probabilities * (1 - targets) + (1 - probabilities) * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * miss**gamma * binary_cross_entropy(logits, targets)

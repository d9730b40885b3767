"""Losses of yes-or-no answers, one for each class. All take logits and leave the reduction to the caller."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-t log p - (1 - t) log(1 - p) with p = sigmoid(logit), element by element; targets may lie between 0 and 1."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def smooth_labels(targets: Float[Tensor, "*shape"], amount: float) -> Float[Tensor, "*shape"]:
    """Targets that are a little unsure: the share `amount` of each is "perhaps", one half.

    Szegedy et al. 2016 (arXiv:1512.00567, section 7) spread it over all classes; a yes-or-no question has two answers.
    """
    return targets * (1 - amount) + amount / 2


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


def varifocal_loss(
    logits: Float[Tensor, "*shape"],
    overlaps: Float[Tensor, "*shape"],
    is_positive: Bool[Tensor, "*shape"],
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Float[Tensor, "*shape"]:
    """Cross entropy against how good the box is (Zhang et al. 2020, arXiv:2008.13367, equation 2), as RT-DETR has it.

    overlaps: with the object for its class, 0 elsewhere. A positive weighs as much as it overlaps, a negative
    alpha * p^gamma; no slope flows through the weights. In the paper a positive that does not touch its object is a
    negative; here, as in the published RT-DETR, it weighs nothing.
    """
    weight = torch.where(is_positive, overlaps, alpha * logits.detach().sigmoid() ** gamma)
    return weight * binary_cross_entropy(logits, overlaps)

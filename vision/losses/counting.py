"""Normalization of losses over all processes of a distributed training and over accumulated parts of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Count = Callable[[int, torch.device], Float[Tensor, ""]]
"""Number of things in one call of a loss -> what its sums are divided by."""


def average_count(count: int, device: torch.device) -> Float[Tensor, ""]:
    """A number of things in this process's batch, averaged over all processes of a training, at least 1.

    Distributed training averages the gradients of the processes: with this divisor they are those of one process
    with the whole batch.
    """
    return mean_over_processes(torch.tensor(float(count), device=device)).clamp(min=1)


def mean_over_processes(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of what all processes hold; every process must call it, and with the same shape."""
    if num_processes() == 1:
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / num_processes()


def num_processes() -> int:
    """World size of the training, 1 without torch.distributed."""
    is_several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if is_several else 1


class PartCounts:
    """A Count that waits: the sums of a batch's parts stay undivided until all of them have been counted.

    Only the whole batch's count makes gradients of parts add up to those of the batch, and it is known last, because
    matching needs predictions.
    """

    def __init__(self) -> None:
        self._total = 0.0

    def __call__(self, count: int, device: torch.device) -> Float[Tensor, ""]:
        """Remember the count; the loss divides by 1."""
        self._total += float(mean_over_processes(torch.tensor(float(count), device=device)))
        return torch.ones((), device=device)

    def take(self) -> float:
        """What the gradients of all parts since the last call are to be divided by."""
        total, self._total = self._total, 0.0
        return max(total, 1.0)

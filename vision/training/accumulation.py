"""A batch worked off in parts, for memory that holds no whole one: gradients add up to those of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from handeye.vision.data.batches import Batch


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Parts of as many images each; the batch divides by their number."""
    size, rest = divmod(len(batch.images), num_parts)
    assert rest == 0
    return [batch[first : first + size] for first in range(0, len(batch.images), size)]


def divide_gradients(parameters: Iterable[nn.Parameter], divisor: float) -> None:
    """Divide every gradient there is."""
    if divisor == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.div_(divisor)


def add_losses(parts: Sequence[dict[str, float]], divisor: float) -> dict[str, float]:
    """The losses of the whole batch by name: the sums over its parts, divided."""
    return {name: sum(part[name] for part in parts) / divisor for name in parts[0]}

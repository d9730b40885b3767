"""Mean and standard deviation of what a policy sees and does: networks learn numbers around zero of size one.

They are measured on the training demonstrations and travel inside the checkpoint: a policy with the statistics of
another data set acts confidently and wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vision.errors import DatasetError, UserError

STD_FLOOR = 0.01
"""Published: a joint that hardly moves is not blown up to size one, nor is its noise. In the unit of the number."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """Of each number of a feature over all frames, in float64; the names are those of the numbers."""

    names: tuple[str, ...]
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]

    @staticmethod
    def measure(key: str, values: Float[np.ndarray, "N D"], names: Sequence[str]) -> Statistics:
        """Raises DatasetError, naming the number, where values are missing or not finite."""
        if not len(values):
            raise DatasetError(f"{key}: there are no frames to measure")
        bad = ~np.isfinite(values)
        if bad.any():
            frame, number = np.argwhere(bad)[0]
            raise DatasetError(
                f"{key}: {bad.sum()} values are not finite, first {names[number]} = {values[frame, number]} in frame "
                f"{frame} of the set; leave such episodes out"
            )
        return Statistics(tuple(names), values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64))


class Normalizer(nn.Module):
    """(x - mean) / std for each number of one feature, and back. Without statistics it changes nothing."""

    mean: Tensor
    std: Tensor

    def __init__(self, key: str, names: Sequence[str]) -> None:
        super().__init__()
        self.key, self.names = key, tuple(names)
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def take(self, statistics: Statistics, std_floor: float = STD_FLOOR) -> None:
        """Normalise with these from now on. Raises DatasetError where the names differ or a number never changes.

        Deviations below std_floor are raised to it; with a floor of zero a number that never changes is refused.
        """
        if statistics.names != self.names:
            raise DatasetError(
                f"{self.key}: the statistics are those of {', '.join(statistics.names)}, "
                f"expected {', '.join(self.names)}"
            )
        std = np.maximum(statistics.std, std_floor)
        self._require_usable(statistics.mean, std)
        self.mean.copy_(torch.from_numpy(statistics.mean))
        self.std.copy_(torch.from_numpy(std))

    def check(self) -> None:
        """Raise DatasetError where the statistics, read from a file, cannot be those of any data."""
        self._require_usable(self.mean.double().cpu().numpy(), self.std.double().cpu().numpy())

    def require_same(self, other: Normalizer) -> None:
        """Raise UserError, naming the first number at fault, where `other` has the statistics of other data."""
        for name, mine, theirs in zip(self.names, self._rows(), other._rows(), strict=True):
            if not torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6):
                raise UserError(
                    f"{self.key}: the statistics are those of another data set: {name} has mean and deviation "
                    f"{theirs[0]:.5g}, {theirs[1]:.5g} there and {mine[0]:.5g}, {mine[1]:.5g} here"
                )

    def forward(self, values: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """To numbers around zero of size one."""
        return (values - self.mean) / self.std

    def invert(self, values: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Back to units."""
        return values * self.std + self.mean

    def _rows(self) -> Float[Tensor, "D 2"]:
        return torch.stack((self.mean, self.std), dim=1).cpu()

    def _require_usable(self, mean: np.ndarray, std: np.ndarray) -> None:
        for name, middle, deviation in zip(self.names, mean, std, strict=True):
            if not (np.isfinite(middle) and np.isfinite(deviation)):
                raise DatasetError(f"{self.key}: the statistics of {name} are not finite ({middle}, {deviation})")
            if deviation <= 0:
                raise DatasetError(
                    f"{self.key}: {name} never changes (deviation {deviation}): leave it out, "
                    "or give a std_floor above 0"
                )

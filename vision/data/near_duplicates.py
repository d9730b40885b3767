"""Pictures that are nearly the same: perceptual hashes of 64 bits, compared by the number of bits that differ.

Two hashes must agree, for each has its blind spots: signs of brightness steps (dHash) and signs of low frequencies
around their median (pHash, a cosine transform of 32 x 32). Featureless pictures have no hash worth comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

BITS = 64
MAX_STEPS, MAX_FREQUENCIES = 8, 8
"""Bits that may differ, of 64, in pictures taken for the same: a new compression or size changes fewer."""
MIN_CONTRAST = 4.0
"""Standard deviation of the grey levels below which a picture is featureless."""
ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What one picture looks like: both hashes, each bit as -1 or 1."""

    steps: Float32[np.ndarray, "64"]
    frequencies: Float32[np.ndarray, "64"]


@dataclass(frozen=True, slots=True, order=True)
class DuplicatePair:
    """Two pictures taken for the same, with the number of bits in which the hashes differ together."""

    distance: int
    one: str
    other: str


def likeness_of(image_rgb: UInt8[np.ndarray, "h w 3"]) -> Likeness | None:
    """The hashes of a picture; None for one without features."""
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    if small.std() < MIN_CONTRAST:
        return None
    steps = cv2.resize(small, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    frequencies[0] = np.median(frequencies[1:])  # the mean brightness says nothing
    return Likeness(_signs(np.diff(steps, axis=1).ravel()), _signs(frequencies - np.median(frequencies)))


def like_pairs(ones: Mapping[str, Likeness], others: Mapping[str, Likeness]) -> list[DuplicatePair]:
    """Pairs of a picture of `ones` and one of `others` that look the same, the likest first."""
    if not ones or not others:
        return []
    one_names, other_names = list(ones), list(others)
    steps, frequencies = (_stacked(others, name) for name in ("steps", "frequencies"))
    found = []
    for first in range(0, len(one_names), ROWS_AT_ONCE):
        names = one_names[first : first + ROWS_AT_ONCE]
        part = {name: ones[name] for name in names}
        # Of vectors of -1 and 1 the product counts equal bits minus different ones.
        by_steps = (BITS - _stacked(part, "steps") @ steps.T) / 2
        by_frequencies = (BITS - _stacked(part, "frequencies") @ frequencies.T) / 2
        for row, column in np.argwhere((by_steps <= MAX_STEPS) & (by_frequencies <= MAX_FREQUENCIES)):
            distance = int(by_steps[row, column] + by_frequencies[row, column])
            found.append(DuplicatePair(distance, names[row], other_names[column]))
    return sorted(found)


def _signs(values: np.ndarray) -> Float32[np.ndarray, "64"]:
    return np.where(values > 0, np.float32(1), np.float32(-1))


def _stacked(hashes: Mapping[str, Likeness], name: str) -> Float32[np.ndarray, "N 64"]:
    return np.stack([getattr(likeness, name) for likeness in hashes.values()])

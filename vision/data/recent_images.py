"""Decoded images kept for a while: mosaics ask for each image several times, and decoding costs most of a sample."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "h w 3"]


class RecentImages:
    """`image_rgb = recent(index)`: decodes unless the image is among those used last; no picture depends on it.

    Threads may share it; two that ask for an image at the same moment may both decode it.
    """

    def __init__(self, decode: Callable[[int], Image], budget_bytes: int) -> None:
        self._decode = decode
        self._budget_bytes = budget_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._images: OrderedDict[int, Image] = OrderedDict()

    def __call__(self, index: int) -> Image:
        """Image number `index`; the caller must not write into it."""
        with self._lock:
            image_rgb = self._images.get(index)
            if image_rgb is not None:
                self._images.move_to_end(index)
                return image_rgb
        image_rgb = self._decode(index)
        with self._lock:
            self._keep(index, image_rgb)
        return image_rgb

    def __len__(self) -> int:
        return len(self._images)

    def __reduce__(self) -> tuple[type[RecentImages], tuple[Callable[[int], Image], int]]:
        """Another process starts with nothing kept."""
        return RecentImages, (self._decode, self._budget_bytes)

    def _keep(self, index: int, image_rgb: Image) -> None:
        if index in self._images:
            return
        self._images[index] = image_rgb
        self._held_bytes += image_rgb.nbytes
        while self._held_bytes > self._budget_bytes:
            _, oldest = self._images.popitem(last=False)
            self._held_bytes -= oldest.nbytes

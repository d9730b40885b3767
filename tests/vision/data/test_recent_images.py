"""The memory of decoded images holds what was used last and no more than its budget."""

from __future__ import annotations

import numpy as np

from handeye.vision.data.image_files import RecentImages


def test_images_used_last_are_not_decoded_again():
    decoded: list[int] = []

    def decode(index: int) -> np.ndarray:
        decoded.append(index)
        return np.full((10, 10, 3), index, np.uint8)

    recent = RecentImages(decode, budget_bytes=900)
    for index in (0, 1, 2, 0, 3, 0, 1):
        assert (recent(index) == index).all()
    assert decoded == [0, 1, 2, 3, 1]
    assert len(recent) == 3


def test_an_image_larger_than_the_budget_is_not_held():
    recent = RecentImages(lambda _: np.zeros((10, 10, 3), np.uint8), budget_bytes=100)
    assert recent(0).shape == (10, 10, 3)
    assert len(recent) == 0

"""Windows: the round trip, which cells are together, padding where it belongs."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.layers.attention import join_windows, pad_to_windows, partition_windows


@pytest.mark.parametrize(("size_hw", "window"), [((6, 9), 3), ((4, 4), 4), ((2, 10), 2), ((5, 3), 1)])
def test_what_is_partitioned_comes_back(size_hw, window):
    tokens = torch.arange(2 * size_hw[0] * size_hw[1] * 3).reshape(2, *size_hw, 3)
    windows = partition_windows(tokens, window)
    assert windows.shape == (2, size_hw[0] * size_hw[1] // window**2, window**2, 3)
    assert join_windows(windows, size_hw, window).equal(tokens)


def test_windows_and_their_cells_run_row_by_row():
    numbers = torch.arange(24).reshape(1, 4, 6, 1)
    windows = partition_windows(numbers, 2)[0, ..., 0].tolist()
    assert windows[:4] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11], [12, 13, 18, 19]]


@pytest.mark.parametrize(("size_hw", "padded_hw"), [((7, 14), (7, 14)), ((8, 13), (14, 14)), ((1, 1), (7, 7))])
def test_zeros_fill_the_last_windows_below_and_to_the_right(size_hw, padded_hw):
    padded = pad_to_windows(torch.ones(1, *size_hw, 2), 7)
    assert padded.shape == (1, *padded_hw, 2)
    assert padded[:, : size_hw[0], : size_hw[1]].eq(1).all()
    assert padded.sum() == 2 * size_hw[0] * size_hw[1]

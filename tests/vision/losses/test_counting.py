"""What sums of losses are divided by, when parts of a batch make up one step."""

from __future__ import annotations

import torch

from handeye.vision.losses.counting import PartCounts, average_count, mean_over_processes

CPU = torch.device("cpu")


def test_one_process_counts_for_itself():
    assert [average_count(count, CPU).item() for count in (0, 1, 7)] == [1, 1, 7]
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(mean_over_processes(values), values)


def test_parts_are_divided_once_by_all_that_was_counted():
    counts = PartCounts()
    assert [counts(count, CPU).item() for count in (3, 0, 4)] == [1, 1, 1]
    assert counts.take() == 7
    counts(0, CPU)
    assert counts.take() == 1

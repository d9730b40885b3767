"""Hungarian matching: the optimum by brute force, batches with gaps, and where greedy picking fails."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from handeye.vision.assignment.hungarian import Matches, match_hungarian
from handeye.vision.errors import UserError


def match_one(cost: list[list[float]] | Tensor) -> list[tuple[int, int]]:
    """(query, object) of one image in the order of the queries."""
    matrix = torch.as_tensor(cost)
    [matches] = match_hungarian(matrix[None, None], [matrix.shape[1]])
    return sorted(zip(matches.query_index.tolist(), matches.target_index.tolist(), strict=True))


def greedy(cost: Tensor) -> list[tuple[int, int]]:
    """Greedy matching: the cheapest pair first, its row and column removed."""
    rest, pairs = cost.clone(), []
    while len(pairs) < min(cost.shape):
        query, target = divmod(int(rest.argmin()), cost.shape[1])
        pairs.append((query, target))
        rest[query], rest[:, target] = torch.inf, torch.inf
    return sorted(pairs)


def total(cost: Tensor, pairs: list[tuple[int, int]]) -> float:
    return sum(cost[pair].item() for pair in pairs)


def least_total(cost: Tensor) -> float:
    values = cost.numpy() if cost.shape[0] >= cost.shape[1] else cost.numpy().T
    columns = np.arange(values.shape[1])
    return min(values[list(rows), columns].sum() for rows in permutations(range(len(values)), values.shape[1]))


@pytest.mark.parametrize(("num_queries", "num_objects"), [(1, 1), (5, 3), (6, 4), (3, 5), (5, 5)])
def test_the_sum_is_the_least_of_all(num_queries, num_objects):
    for seed in range(20):
        cost = torch.randn(num_queries, num_objects, generator=torch.Generator().manual_seed(seed))
        pairs = match_one(cost)
        assert len({query for query, _ in pairs}) == len({target for _, target in pairs}) == min(cost.shape)
        assert total(cost, pairs) == pytest.approx(least_total(cost), abs=1e-5)


def test_a_worked_example():
    """25.3.4: prediction 2 takes object 1, prediction 1 object 0 (counted from 1 there); greedy happens to be right."""
    cost = torch.tensor([[0.5, 1.2], [0.8, 0.3], [1.0, 0.6]])
    assert match_one(cost) == greedy(cost) == [(0, 0), (1, 1)]


def test_the_optimum_where_greedy_fails():
    """25.3.3 prints a greedy pick as the Hungarian algorithm: the cheapest pair first costs 10, the optimum 3."""
    cost = torch.tensor([[0.0, 1.0], [2.0, 10.0]])
    assert greedy(cost) == [(0, 0), (1, 1)]
    assert total(cost, greedy(cost)) == 10
    assert match_one(cost) == [(0, 1), (1, 0)]
    assert total(cost, match_one(cost)) == 3


def test_images_and_layers_are_matched_each_by_itself():
    counts = (2, 0, 3)
    cost = torch.randn(4, 3, 6, 3, generator=torch.Generator().manual_seed(0))
    starts = (0, 2, 2)
    layers = match_hungarian(cost, counts)
    assert len(layers) == 4
    for layer, matches in enumerate(layers):
        assert len(matches) == 5
        for image, count in enumerate(counts):
            mine = matches.image_index == image
            found = zip(matches.query_index[mine].tolist(), matches.target_index[mine].tolist(), strict=True)
            expected = match_one(cost[layer, image, :, :count]) if count else []
            assert sorted((query, target - starts[image]) for query, target in found) == expected


def test_columns_beyond_the_objects_are_not_looked_at():
    cost = torch.randn(1, 2, 5, 3)
    first = match_hungarian(cost, (1, 3))[0]
    cost[0, 0, :, 1:] = torch.nan
    second = match_hungarian(cost, (1, 3))[0]
    for name in ("image_index", "query_index", "target_index"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


@pytest.mark.parametrize("shape", [(2, 2, 5, 0), (1, 0, 5, 0)])
def test_without_objects_nothing_is_matched(shape):
    for matches in match_hungarian(torch.zeros(shape), [0] * shape[1]):
        assert isinstance(matches, Matches)
        assert len(matches) == 0
        assert matches.query_index.dtype == torch.int64


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_costs_that_are_no_numbers_are_refused_in_words(value):
    cost = torch.zeros(1, 2, 4, 2)
    cost[0, 1, 2, 0] = value
    with pytest.raises(UserError, match="image 1 of the batch .* not finite"):
        match_hungarian(cost, (2, 2))

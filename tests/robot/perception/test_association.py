"""Assignment against brute force, the specification's example, and what a gate must and must not do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handeye.robot.perception.association import Pairs, assign, assign_pairs, chi_square_gate


def test_example_30_4_3_of_the_specification():
    costs = np.array([[0.2, 1.0], [0.8, 0.3], [1.5, 0.7]]).T  # tracks in rows
    assignment = assign(costs, max_cost=10.0)
    assert list(zip(assignment.track_index, assignment.detection_index, strict=True)) == [(0, 0), (1, 1)]
    assert assignment.unmatched_detections.tolist() == [2]
    assert assignment.unmatched_tracks.tolist() == []


def test_the_optimum_is_not_the_greedy_choice():
    # Greedy takes (0, 0) for 1 and is left with (1, 1) for 9; the optimum is 2 + 3.
    assignment = assign(np.array([[1.0, 2.0], [3.0, 9.0]]), max_cost=100.0)
    assert assignment.detection_index.tolist() == [1, 0]


def test_a_poor_match_does_not_displace_a_good_one():
    # Joining both pairs would cost 0.5 + 13.5 * 2; leaving track 1 alone is cheaper with a gate of 14.
    assignment = assign(np.array([[0.5, 13.5], [13.8, np.inf]]), max_cost=14.0)
    assert list(zip(assignment.track_index, assignment.detection_index, strict=True)) == [(0, 0)]
    assert assignment.unmatched_tracks.tolist() == [1]
    assert assignment.unmatched_detections.tolist() == [1]


def brute_force(costs: np.ndarray, max_cost: float) -> float:
    """Least total cost over all partial assignments, each missing pair at max_cost relative to none at all."""
    num_tracks, num_detections = costs.shape
    best = 0.0
    for size in range(1, min(costs.shape) + 1):
        for tracks in itertools.combinations(range(num_tracks), size):
            for detections in itertools.permutations(range(num_detections), size):
                chosen = costs[list(tracks), list(detections)]
                if (chosen <= max_cost).all():
                    best = min(best, float(np.sum(chosen - max_cost)))
    return best


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    seed=st.integers(0, 10_000),
    max_cost=st.sampled_from([0.5, 5.0, 20.0]),
)
def test_assignment_equals_brute_force(shape: tuple[int, int], seed: int, max_cost: float):
    rng = np.random.default_rng(seed)
    costs = rng.uniform(0.0, 10.0, shape)
    costs[rng.random(shape) < 0.3] = np.inf
    assignment = assign(costs, max_cost)
    chosen = costs[assignment.track_index, assignment.detection_index]
    assert (chosen <= max_cost).all()
    assert np.sum(chosen - max_cost) == pytest.approx(brute_force(costs, max_cost))
    everyone = sorted([*assignment.track_index, *assignment.unmatched_tracks])
    assert everyone == list(range(shape[0]))
    everyone = sorted([*assignment.detection_index, *assignment.unmatched_detections])
    assert everyone == list(range(shape[1]))


def test_sparse_and_dense_lists_give_the_same():
    rng = np.random.default_rng(5)
    costs = rng.uniform(0.0, 30.0, (40, 50))
    dense = assign(costs, 6.0)
    rows, columns = np.nonzero(costs < 20.0)
    sparse = assign_pairs(Pairs(rows, columns, costs[rows, columns]), 40, 50, 6.0)
    np.testing.assert_array_equal(dense.track_index, sparse.track_index)
    np.testing.assert_array_equal(dense.detection_index, sparse.detection_index)
    assert len(dense.track_index) > 20


def test_nan_forbids_a_pair():
    assert assign(np.array([[np.nan, 1.0]]), 5.0).detection_index.tolist() == [1]
    assert assign(np.array([[np.nan]]), 5.0).unmatched_tracks.tolist() == [0]


def test_gate_lets_the_stated_part_of_true_matches_through():
    # Textbook values of the chi-square distribution.
    assert chi_square_gate(0.95, 2) == pytest.approx(5.991, abs=1e-3)
    assert chi_square_gate(0.99, 3) == pytest.approx(11.345, abs=1e-3)
    offsets = np.random.default_rng(6).standard_normal((20_000, 3))
    assert np.mean((offsets**2).sum(axis=1) <= chi_square_gate(0.9, 3)) == pytest.approx(0.9, abs=0.01)

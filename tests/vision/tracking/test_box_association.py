"""Pairs and assignments: against every pair, against every assignment, and where greed would go wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.tracking import box_association
from handeye.vision.tracking.box_association import is_one_to_one, most_gain, overlapping_pairs, split_matched

seeds = st.integers(0, 2**32 - 1)


def random_boxes(rng: np.random.Generator, num: int, side: float) -> np.ndarray:
    corner, size = rng.uniform(0, side, (num, 2)), rng.uniform(1, 60, (num, 2))
    return np.concatenate([corner, corner + size], axis=1)


@given(seed=seeds, num_tracks=st.integers(0, 30), num_detections=st.integers(0, 30))
def test_the_sweep_finds_every_overlap_and_its_iou(seed: int, num_tracks: int, num_detections: int):
    rng = np.random.default_rng(seed)
    tracks, detections = random_boxes(rng, num_tracks, 300.0), random_boxes(rng, num_detections, 300.0)
    pairs = overlapping_pairs(tracks, detections)
    dense = np.zeros((num_tracks, num_detections))
    dense[pairs.tracks, pairs.detections] = pairs.ious
    assert len(set(zip(pairs.tracks.tolist(), pairs.detections.tolist(), strict=True))) == len(pairs.ious)
    np.testing.assert_allclose(dense, pairwise_iou(tracks, detections), atol=1e-12)


def test_boxes_that_begin_at_the_same_x_are_listed_in_their_order():
    """numpy's default sort orders equal numbers as the processor's vector instructions happen to leave them."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, 5, 300).astype(float)
    detections = np.column_stack([left, np.zeros(300), left + 50.0, np.full(300, 10.0)])
    pairs = overlapping_pairs(detections[:1], detections)
    assert pairs.detections.tolist() == np.lexsort([np.arange(300), left]).tolist()


def test_boxes_that_only_touch_do_not_overlap():
    boxes = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert not len(overlapping_pairs(boxes, boxes + [10.0, 0.0, 10.0, 0.0]).ious)
    assert not len(overlapping_pairs(boxes, boxes + [0.0, 10.0, 0.0, 10.0]).ious)
    assert overlapping_pairs(boxes, boxes).ious.tolist() == [1.0]


def all_pairs(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tracks, detections = np.nonzero(np.ones_like(gains))
    return tracks, detections, gains.ravel()


def brute_force(gains: np.ndarray) -> float:
    """The best sum over all ways to join some rows with different columns."""
    num_rows, num_columns = gains.shape
    padded = np.concatenate([np.maximum(gains, 0.0), np.zeros((num_rows, num_rows))], axis=1)
    choices = itertools.permutations(range(num_columns + num_rows), num_rows)
    return max(padded[np.arange(num_rows), list(choice)].sum() for choice in choices)


@given(seed=seeds, num_rows=st.integers(1, 3), num_columns=st.integers(1, 4))
def test_the_assignment_is_the_best_of_all(seed: int, num_rows: int, num_columns: int):
    gains = np.random.default_rng(seed).uniform(-1.0, 1.0, (num_rows, num_columns))
    chosen = most_gain(*all_pairs(gains))
    tracks, detections, values = (column[chosen] for column in all_pairs(gains))
    assert len(set(tracks.tolist())) == len(set(detections.tolist())) == len(chosen)
    assert (values > 0).all()
    assert values.sum() == pytest.approx(brute_force(gains))


@given(seed=seeds)
def test_the_sparse_and_the_dense_way_reach_the_same_sum(seed: int):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 90, 250.0)
    pairs = overlapping_pairs(boxes, boxes + rng.normal(0.0, 8.0, (90, 1)))
    columns = (pairs.tracks, pairs.detections, pairs.ious - 0.2)
    with pytest.MonkeyPatch.context() as patch:
        sums = []
        for limit in (0, 1000):
            patch.setattr(box_association, "_DENSE_UP_TO", limit)
            sums.append(columns[2][most_gain(*columns)].sum())
    gains = np.zeros((90, 90))
    gains[columns[0], columns[1]] = np.maximum(columns[2], 0.0)
    assert sums == pytest.approx([gains[linear_sum_assignment(gains, maximize=True)].sum()] * 2)


def test_greed_is_not_best():
    gains = np.array([[0.9, 0.8], [0.8, 0.1]])
    chosen = most_gain(*all_pairs(gains))
    assert sorted(zip(*(column[chosen].tolist() for column in all_pairs(gains)[:2]), strict=True)) == [(0, 1), (1, 0)]


def test_the_example_of_the_specification():
    """30.4.3: costs of three detections and two tracks; the third detection stays alone and begins a track."""
    costs = np.array([[0.2, 1.0], [0.8, 0.3], [1.5, 0.7]])
    # What a pair is worth has to exceed every cost, so that joining always beats leaving alone.
    detections, tracks, gains = all_pairs(2.0 - costs)
    chosen = most_gain(tracks, detections, gains)
    matches = split_matched(tracks[chosen], detections[chosen], num_tracks=2, num_detections=3)
    assert sorted(zip(matches.tracks.tolist(), matches.detections.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert matches.unmatched_detections.tolist() == [2]
    assert not len(matches.unmatched_tracks)
    assert (2.0 - gains[chosen]).sum() == pytest.approx(0.5)


def test_the_cost_of_the_specification():
    """(30.25) with lambda 0 is the negative IoU: the least cost is the most overlap."""
    tracks = np.array([[0.0, 0.0, 10.0, 10.0], [8.0, 0.0, 18.0, 10.0]])
    detections = np.array([[7.0, 0.0, 17.0, 10.0], [1.0, 0.0, 11.0, 10.0]])
    pairs = overlapping_pairs(tracks, detections)
    chosen = pairs[most_gain(pairs.tracks, pairs.detections, pairs.ious)]
    rows, columns = linear_sum_assignment(-pairwise_iou(detections, tracks))
    assert dict(zip(chosen.detections.tolist(), chosen.tracks.tolist(), strict=True)) == dict(
        zip(rows.tolist(), columns.tolist(), strict=True)
    )


def test_nothing_to_assign():
    nothing = np.zeros(0, np.int64)
    assert not len(most_gain(nothing, nothing, np.zeros(0)))
    assert not is_one_to_one(nothing, nothing)
    matches = split_matched(nothing, nothing, 2, 3)
    assert (matches.unmatched_tracks.tolist(), matches.unmatched_detections.tolist()) == ([0, 1], [0, 1, 2])
    assert is_one_to_one(np.array([0, 1]), np.array([1, 0]))
    assert not is_one_to_one(np.array([0, 0]), np.array([1, 0]))

"""CLEAR MOT: small cases by hand, and random sequences against motmetrics."""

from __future__ import annotations

import numpy as np
import pytest

from tests.vision.tracking.clear_mot import ClearMot


def test_misses_false_positives_and_a_switch_are_counted():
    counts = ClearMot(1.0)
    counts.add([1, 2], [10, 20], np.array([[0.2, 9.0], [9.0, 0.4]]))
    counts.add([1, 2], [10], np.array([[0.3], [9.0]]))
    match = counts.add([1, 2], [10, 21, 30], np.array([[0.1, 9, 9], [9, 0.5, 9.0]]))
    assert match.switched == (2,)
    assert (counts.num_truths, counts.num_misses, counts.num_false_positives, counts.num_switches) == (6, 1, 1, 1)
    assert counts.mota == pytest.approx(1 - 3 / 6)
    assert counts.mean_distance == pytest.approx((0.2 + 0.4 + 0.3 + 0.1 + 0.5) / 5)


def test_a_pair_stays_together_although_another_track_has_come_nearer():
    counts = ClearMot(1.0)
    counts.add([1], [10], np.array([[0.2]]))
    assert counts.add([1], [10, 11], np.array([[0.9, 0.1]])).pairs == ((1, 10),)
    assert counts.num_switches == 0


def test_as_many_pairs_as_possible_are_made_before_near_ones():
    counts = ClearMot(1.0)
    match = counts.add([1, 2], [10, 11], np.array([[0.0, 0.9], [0.9, np.inf]]))
    assert set(match.pairs) == {(1, 11), (2, 10)}


def test_what_is_ignored_counts_neither_way():
    counts = ClearMot(1.0)
    truth, track = np.array([True, False]), np.array([False, False, True])
    counts.add([1, 2], [10, 20, 30], np.array([[0.1, 9, 9], [9, 0.1, 9]]), ignored_truths=truth, ignored_tracks=track)
    assert (counts.num_truths, counts.num_matches, counts.num_false_positives, counts.num_misses) == (1, 1, 0, 0)


def test_nothing_at_all_has_no_score():
    counts = ClearMot(1.0)
    counts.add([], [], np.zeros((0, 0)))
    assert np.isnan(counts.mota)
    assert np.isnan(counts.mean_distance)


def test_random_sequences_agree_with_motmetrics():
    mm = pytest.importorskip("motmetrics", reason="the second opinion on CLEAR MOT is not installed")
    rng = np.random.default_rng(0)
    for _ in range(10):
        counts, accumulator = ClearMot(1.0), mm.MOTAccumulator(auto_id=True)
        places, owners = rng.uniform(0, 4, (6, 2)), np.arange(6)
        for _ in range(40):
            places += rng.normal(0, 0.2, places.shape)
            if rng.random() < 0.2:
                i, j = rng.choice(6, 2, replace=False)
                owners[[i, j]] = owners[[j, i]]
            truths, tracks = np.flatnonzero(rng.random(6) < 0.9), np.flatnonzero(rng.random(6) < 0.8)
            seen = places[tracks] + rng.normal(0, 0.3, (len(tracks), 2))
            distances = np.linalg.norm(places[truths][:, None] - seen, axis=-1)
            counts.add(truths.tolist(), owners[tracks].tolist(), distances)
            accumulator.update(truths, owners[tracks], np.where(distances <= 1.0, distances, np.nan))
        names = ["num_misses", "num_false_positives", "num_switches", "num_objects", "mota", "motp"]
        theirs = mm.metrics.create().compute(accumulator, metrics=names).iloc[0]
        ours = [counts.num_misses, counts.num_false_positives, counts.num_switches, counts.num_truths]
        assert ours == [int(theirs[name]) for name in names[:4]]
        assert counts.mota == pytest.approx(theirs["mota"])
        assert counts.mean_distance == pytest.approx(theirs["motp"])

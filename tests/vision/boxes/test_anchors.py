"""Anchors: anchor grids, shape IoU, and k-means that finds known clusters and beats plain k-means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from handeye.vision.boxes.anchors import grid_anchors, kmeans_anchors, shape_iou, within_ratio
from handeye.vision.boxes.iou import pairwise_iou

SIDES = st.floats(0.5, 500)


def random_sizes(num: int, seed: int) -> np.ndarray:
    """Sizes as data sets have them: many small objects, few large ones."""
    return np.exp(np.random.default_rng(seed).normal([3.2, 3.0], [0.9, 0.7], (num, 2)))


def test_the_centre_of_a_cell_by_hand():
    anchors = grid_anchors((13, 13), 32, np.array([[10.0, 20.0]]))
    np.testing.assert_allclose(anchors.reshape(13, 13, 4)[5, 7], [240, 176, 10, 20])


def test_nine_anchors_a_cell_of_a_13_by_13_grid_are_1521():
    ratios, scales = (0.5, 1, 2), (1, 2 ** (1 / 3), 2 ** (2 / 3))
    sizes = np.array([(32 * scale / ratio**0.5, 32 * scale * ratio**0.5) for ratio in ratios for scale in scales])
    anchors = grid_anchors((13, 13), 32, sizes)
    assert anchors.shape == (1521, 4)
    np.testing.assert_allclose(anchors[9 * 20 : 9 * 21, 2:], sizes)
    assert len(np.unique(anchors[:, :2], axis=0)) == 169


def test_grids_of_numpy_and_torch_agree_and_need_not_be_square():
    sizes = np.array([[4.0, 6.0], [7.0, 2.0]])
    ours = grid_anchors((2, 3), 16, sizes)
    assert ours[:, 0].tolist() == [8, 8, 24, 24, 40, 40] * 2
    assert ours[:, 1].tolist() == [8] * 6 + [24] * 6
    torch.testing.assert_close(grid_anchors((2, 3), 16, torch.tensor(sizes)), torch.tensor(ours))


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=6), st.lists(st.tuples(SIDES, SIDES), min_size=1))
def test_shape_iou_is_the_iou_of_boxes_at_one_place(sizes, others):
    first, second = np.array(sizes), np.array(others)
    boxes, rivals = (np.concatenate((-part / 2, part / 2), axis=1) for part in (first, second))
    np.testing.assert_allclose(shape_iou(first, second), pairwise_iou(boxes, rivals), rtol=1e-9)


def test_within_ratio_by_hand():
    sizes, anchors = np.array([[10.0, 40.0]]), np.array([[10.0, 10.5], [10, 10], [39, 40], [41, 40], [2, 40]])
    assert within_ratio(sizes, anchors, 4.0).tolist() == [[True, False, True, False, False]]


def test_known_clusters_are_found_and_sorted_by_area():
    rng = np.random.default_rng(0)
    centres = np.array([[12.0, 10.0], [30, 90], [90, 30], [200, 180]])
    sizes = np.repeat(centres, 50, axis=0) * rng.uniform(0.93, 1.07, (200, 2))
    fit = kmeans_anchors(sizes, 4)
    np.testing.assert_allclose(fit.sizes_wh[np.argsort(fit.sizes_wh[:, 0])], centres, rtol=0.03)
    assert (np.diff(fit.sizes_wh.prod(axis=1)) > 0).all()
    assert fit.mean_iou > 0.9
    assert fit.best_possible_recall == 1


def test_the_figures_are_those_of_the_sizes():
    sizes = random_sizes(200, 1)
    fit = kmeans_anchors(sizes, 3, most_ratio=2.0)
    overlaps = [
        max(min(w, a) * min(h, b) / (w * h + a * b - min(w, a) * min(h, b)) for a, b in fit.sizes_wh) for w, h in sizes
    ]
    assert fit.mean_iou == pytest.approx(np.mean(overlaps))
    reached = [any(max(w / a, a / w, h / b, b / h) < 2 for a, b in fit.sizes_wh) for w, h in sizes]
    assert fit.best_possible_recall == pytest.approx(np.mean(reached))
    assert 0 < fit.best_possible_recall < 1


@pytest.mark.parametrize("seed", range(4))
def test_it_overlaps_better_than_k_means_of_euclid(seed):
    sizes = random_sizes(400, seed)
    euclid, _ = kmeans2(sizes, 5, minit="++", seed=seed)
    assert kmeans_anchors(sizes, 5, seed=seed).mean_iou > shape_iou(sizes, euclid).max(axis=1).mean()


def test_more_anchors_overlap_better_up_to_all():
    sizes = random_sizes(12, 3)
    ious = [kmeans_anchors(sizes, num).mean_iou for num in (1, 4, 12)]
    assert ious[0] < ious[1] < ious[2] == pytest.approx(1)


def test_it_is_repeatable_from_its_seed():
    sizes = random_sizes(60, 5)
    first, again = (kmeans_anchors(sizes, 4, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.sizes_wh, again.sizes_wh)


def test_sizes_are_dealt_out_to_levels_smallest_first():
    fit = kmeans_anchors(random_sizes(100, 6), 6)
    levels = fit.by_level(3)
    assert [len(level) for level in levels] == [2, 2, 2]
    flat = [size for level in levels for size in level]
    np.testing.assert_allclose(flat, fit.sizes_wh, atol=0.051)
    with pytest.raises(ValueError, match="6 anchors cannot be split evenly over 4 levels"):
        fit.by_level(4)


@pytest.mark.parametrize(
    ("sizes", "num_anchors", "complaint"),
    [
        ([(10, 10), (10, 10), (20, 20)], 3, "1 to 2 anchors"),
        ([(10, 10)], 0, "1 to 1 anchors"),
        ([], 1, "1 to 0 anchors"),
        ([(10, 0)], 1, "above 0"),
        ([(10, float("nan"))], 1, "above 0"),
    ],
)
def test_sizes_that_make_no_anchors_are_refused(sizes, num_anchors, complaint):
    with pytest.raises(ValueError, match=complaint):
        kmeans_anchors(np.array(sizes, np.float64).reshape(-1, 2), num_anchors)

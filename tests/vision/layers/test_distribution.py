"""Bins and the distances they stand for: the mathematics of D-FINE's boxes, by hand, by round trip and as recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handeye.vision.layers.distribution import EdgeBins, WeightingFunction

SHAPES = [(33, 0.5, 4.0), (33, 0.5, 8.0), (9, 0.3, 2.0), (7, 1.0, 1.0)]


@pytest.fixture(scope="module")
def bins() -> EdgeBins:
    return WeightingFunction(33, 0.5, 4.0)()


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_are_symmetric_and_ascend_in_growing_steps(shape):
    values = WeightingFunction(*shape)().values
    assert len(values) == shape[0]
    torch.testing.assert_close(values, -values.flip(0), rtol=0, atol=0)
    steps = values.diff()
    assert (steps > 0).all()
    assert (steps[len(steps) // 2 :].diff() > 0).all()


@pytest.mark.parametrize(("num_bins", "bound", "scale"), SHAPES)
def test_the_last_bins_are_the_bound_and_twice_the_bound(num_bins, bound, scale):
    values = WeightingFunction(num_bins, bound, scale)().values / scale
    torch.testing.assert_close(values[-2:], torch.tensor([bound, 2 * bound]))
    assert values[num_bins // 2] == 0


def test_bins_are_the_papers_formula():
    """W(n) with a = 1/2 and c = 1/4 as section 4.1 prints it, in units of c."""
    a, c, last = 0.5, 0.25, 32
    left = [c - c * (a / c + 1) ** ((last - 2 * n) / (last - 2)) for n in range(1, last // 2)]
    right = [-c + c * (a / c + 1) ** ((-last + 2 * n) / (last - 2)) for n in range(last // 2, last)]
    expected = torch.tensor([-2 * a, *left, *right, 2 * a]) / c
    torch.testing.assert_close(WeightingFunction(33, a, 1 / c)().values, expected, rtol=1e-6, atol=1e-6)


def test_bins_are_the_recorded_ones(reference, bins):
    recorded = np.load(reference("dfine_n_g.npz"))["project"]
    np.testing.assert_allclose(bins.values, recorded.reshape(-1), rtol=0, atol=1e-6)


def test_an_edge_that_is_sure_of_one_bin_lies_there(bins):
    for index in (0, 7, 16, 32):
        logits = torch.full((4, 33), -1e4)
        logits[:, index] = 0
        expected = bins.values[index].expand(1, 4)
        torch.testing.assert_close(bins.expected_distances(logits.reshape(1, -1)), expected)


def test_edges_without_an_opinion_stay_where_the_reference_has_them(bins):
    reference = torch.rand(3, 5, 4)
    distances = bins.expected_distances(torch.zeros(3, 5, 132))
    torch.testing.assert_close(distances, torch.zeros(3, 5, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(bins.decode(distances, reference), reference)


def test_each_edge_moves_outwards_by_its_share_of_the_box(bins):
    reference = torch.tensor([0.5, 0.4, 0.2, 0.1])
    moved = bins.decode(torch.tensor([1.0, 0.0, 2.0, -1.0]), reference)
    # Left edge 0.4 - 0.2 / 4, right edge 0.6 + 2 * 0.2 / 4, top edge 0.35, bottom edge 0.45 - 0.1 / 4.
    torch.testing.assert_close(moved, torch.tensor([0.525, 0.3875, 0.35, 0.075]))


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_survive_a_round_trip_through_distances(shape):
    torch.manual_seed(0)
    bins = WeightingFunction(*shape).double()()
    reference, boxes = torch.rand(2, 50, 4, dtype=torch.float64) + 0.05
    torch.testing.assert_close(bins.decode(bins.encode(boxes, reference), reference), boxes)


def test_a_reference_without_area_gives_finite_distances(bins):
    distances = bins.encode(torch.tensor([0.5, 0.5, 0.2, 0.2]), torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert distances.isfinite().all()
    assert (distances > 4).all()


@given(distance=st.floats(-4, 4, width=32))
def test_soft_labels_reproduce_a_distance_between_the_outer_bins(distance):
    bins = WeightingFunction(33, 0.5, 4.0)()
    below, share = bins.soft_labels(torch.tensor([distance]))
    assert 0 <= share <= 1
    assert bins.values[below] <= distance <= bins.values[below + 1]
    mean = (1 - share) * bins.values[below] + share * bins.values[below + 1]
    torch.testing.assert_close(mean, torch.tensor([distance]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("distance", "below", "share"), [(-9.0, 0, 0.0), (9.0, 31, 1.0), (4.0, 31, 1.0), (0.0, 16, 0.0)]
)
def test_what_lies_outside_belongs_to_the_outermost_bin(bins, distance, below, share):
    found, weight = bins.soft_labels(torch.tensor([[distance]]))
    assert (found.item(), weight.item()) == (below, share)

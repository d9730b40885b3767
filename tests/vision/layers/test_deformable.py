"""Deformable attention: read by hand, against grid_sample, far outside of the image, and its pictures."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.layers.deformable import DeformableAttention, SamplingPoints, attention_maps, read_points

SIZES_HW = ((6, 9), (3, 5), (2, 2))
NUM_CELLS = sum(height * width for height, width in SIZES_HW)


def random_points(points_per_level, *, spread=0.7, num_heads=2, dtype=torch.float64):
    num_points = sum(points_per_level)
    locations = 0.5 + spread * torch.randn(2, 7, num_heads, num_points, 2, dtype=dtype)
    return SamplingPoints(locations, torch.rand(2, 7, num_heads, num_points, dtype=dtype).softmax(dim=-1))


@pytest.mark.parametrize("points_per_level", [(4, 4, 4), (3, 6, 3), (1, 2, 5)])
@pytest.mark.parametrize("spread", [0.3, 2.0, 1e6])
def test_looking_up_rows_and_grid_sample_agree_in_values_and_gradients(points_per_level, spread):
    torch.manual_seed(0)
    values = torch.randn(2, NUM_CELLS, 2, 3, dtype=torch.float64, requires_grad=True)
    points = random_points(points_per_level, spread=spread)
    leaves = (values, points.locations.requires_grad_(), points.weights.requires_grad_())
    found = [read_points(values, SIZES_HW, points, points_per_level, way) for way in ("gather", "grid_sample")]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    direction = torch.randn_like(found[0])
    for ours, theirs in zip(*(torch.autograd.grad((way * direction).sum(), leaves) for way in found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_point_at_infinity_reads_nothing():
    locations = torch.tensor([float("inf"), -float("inf")]).view(1, 1, 1, 1, 2)
    found = read_points(torch.ones(1, 4, 1, 1), [(2, 2)], SamplingPoints(locations, torch.ones(1, 1, 1, 1)), [1])
    torch.testing.assert_close(found, torch.zeros(1, 1, 1))


@pytest.mark.parametrize("sampling", ["gather", "grid_sample"])
@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ((0.25, 0.25), 1.0),  # the centre of the first of 2 x 2 cells
        ((0.75, 0.25), 2.0),
        ((0.25, 0.75), 3.0),
        ((0.5, 0.5), 2.5),  # the corner that all four share
        ((0.0, 0.25), 0.5),  # on the edge half of what is read lies outside
        ((0.0, 0.0), 0.25),
        ((1.0, 1.0), 1.0),
        ((1.3, 0.5), 0.0),
    ],
)
def test_reading_by_hand(sampling, location, expected):
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    points = SamplingPoints(torch.tensor(location).view(1, 1, 1, 1, 2), torch.ones(1, 1, 1, 1))
    found = read_points(values, [(2, 2)], points, [1], sampling)
    torch.testing.assert_close(found, torch.full((1, 1, 1), expected))


def test_the_points_of_a_level_read_that_level_only():
    torch.manual_seed(0)
    points = random_points((1, 2, 1), spread=0.1)
    weights = torch.zeros_like(points.weights)
    weights[..., 1:3] = 0.5
    values = torch.zeros(2, NUM_CELLS, 2, 1, dtype=torch.float64)
    values[:, 54:69] = 1  # the middle level
    inside = SamplingPoints(points.locations.clamp(0.25, 0.75), weights)
    found = read_points(values, SIZES_HW, inside, (1, 2, 1))
    torch.testing.assert_close(found, torch.ones_like(found))


def test_offsets_are_measured_in_halves_of_the_box():
    attention = DeformableAttention(8, 2, (4, 2))
    torch.nn.init.zeros_(attention.predict_offsets.bias)
    # Head 1, last point of the first level and first of the second, by x = 4 and y = -2 "points".
    bias = attention.predict_offsets.bias.data.view(2, 6, 2)
    bias[1, 3, 0], bias[1, 4, 1] = 4.0, -2.0
    locations = attention.sampling_points(torch.randn(1, 1, 8), torch.tensor([[[0.5, 0.4, 0.2, 0.1]]])).locations[0, 0]
    torch.testing.assert_close(locations[0], torch.tensor([0.5, 0.4]).expand(6, 2))
    torch.testing.assert_close(locations[1, 3], torch.tensor([0.6, 0.4]))  # the right edge
    torch.testing.assert_close(locations[1, 4], torch.tensor([0.5, 0.35]))  # the upper edge


def test_weights_sum_to_one_over_all_levels():
    attention = DeformableAttention(8, 2, (4, 2))
    torch.nn.init.normal_(attention.predict_weights.weight)
    weights = attention.sampling_points(torch.randn(2, 3, 8), torch.rand(2, 3, 4)).weights
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 3, 2))


def test_a_fresh_head_looks_in_a_direction_of_its_own():
    attention = DeformableAttention(8, 4, (2,))
    locations = attention.sampling_points(torch.randn(1, 1, 8), torch.tensor([[[0.0, 0.0, 4.0, 4.0]]])).locations[0, 0]
    expected = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(locations[:, 0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(locations[:, 1], 2 * expected, rtol=0, atol=1e-6)


def test_without_projections_a_query_reads_the_memory_itself():
    attention = DeformableAttention(4, 2, (1,), with_projections=False)
    for parameter in attention.parameters():
        torch.nn.init.zeros_(parameter)
    memory = torch.randn(1, 9, 4)
    found = attention(torch.randn(1, 1, 4), torch.tensor([[[0.5, 0.5, 0.1, 0.1]]]), memory, [(3, 3)])
    torch.testing.assert_close(found[0, 0], memory[0, 4])
    assert {key.split(".")[0] for key in attention.state_dict()} == {"predict_offsets", "predict_weights"}


def test_images_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, (2, 2, 2))
    queries, boxes, memory = torch.randn(3, 5, 8), torch.rand(3, 5, 4), torch.randn(3, NUM_CELLS, 8)
    together = attention(queries, boxes, memory, SIZES_HW)
    alone = attention(queries[1:2], boxes[1:2], memory[1:2], SIZES_HW)
    torch.testing.assert_close(together[1:2], alone)


def test_half_precision_reads_at_the_places_of_single_precision():
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, (4, 4, 4)).to(torch.bfloat16)
    points = attention.sampling_points(torch.randn(1, 3, 8).bfloat16(), torch.full((1, 3, 4), 0.3).bfloat16())
    assert points.locations.dtype == torch.float32
    memory = torch.randn(1, NUM_CELLS, 8).bfloat16()
    assert attention(torch.randn(1, 3, 8).bfloat16(), torch.rand(1, 3, 4), memory, SIZES_HW).dtype == torch.bfloat16


def test_other_levels_and_a_width_that_does_not_divide_are_refused():
    attention = DeformableAttention(8, 2, (2, 2))
    with pytest.raises(ValueError, match="expected 2 levels, got 1"):
        attention(torch.zeros(1, 1, 8), torch.zeros(1, 1, 4), torch.zeros(1, 4, 8), [(2, 2)])
    with pytest.raises(ValueError, match="3 heads divide, got 8"):
        DeformableAttention(8, 3, (2,))


def test_a_picture_of_attention_sums_to_what_lies_inside():
    locations = torch.tensor([[0.25, 0.25], [0.5, 0.5], [9.0, 0.5]]).view(1, 1, 1, 3, 2)
    maps = attention_maps(SamplingPoints(locations, torch.tensor([0.5, 0.25, 0.25]).view(1, 1, 1, 3)), (2, 2))
    torch.testing.assert_close(maps[0, 0], torch.tensor([[0.5625, 0.0625], [0.0625, 0.0625]]))


def test_a_picture_of_attention_averages_the_heads():
    torch.manual_seed(0)
    points = random_points((4, 4), spread=0.02, num_heads=3)
    maps = attention_maps(points, (8, 12))
    assert maps.shape == (2, 7, 8, 12)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, 7, dtype=torch.float64))
    assert (maps >= 0).all()

"""Overlaps: axioms, agreement with torchvision, slopes, boxes without area, worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.ops as second_opinion

from handeye.vision.boxes import iou as overlap

FAMILY = {
    "iou": second_opinion.box_iou,
    "giou": second_opinion.generalized_box_iou,
    "diou": second_opinion.distance_box_iou,
    "ciou": second_opinion.complete_box_iou,
}
PAIRWISE = {name: getattr(overlap, f"pairwise_{name}") for name in FAMILY}
ALIGNED = {name: getattr(overlap, f"aligned_{name}") for name in FAMILY}


def random_boxes(num: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num, 2, generator=generator, dtype=torch.float64) * 60
    sizes = torch.rand(num, 2, generator=generator, dtype=torch.float64) * 40 + 1
    return torch.cat((corners, corners + sizes), dim=1)


@pytest.mark.parametrize("name", FAMILY)
def test_pairwise_agrees_with_torchvision(name):
    boxes, others = random_boxes(13, 0), random_boxes(9, 1)
    torch.testing.assert_close(PAIRWISE[name](boxes, others), FAMILY[name](boxes, others), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_aligned_is_the_diagonal_of_pairwise(name):
    boxes, others = random_boxes(11, 2), random_boxes(11, 3)
    torch.testing.assert_close(ALIGNED[name](boxes, others), PAIRWISE[name](boxes, others).diagonal())


@pytest.mark.parametrize("name", FAMILY)
def test_numpy_and_torch_agree(name):
    boxes, others = random_boxes(6, 4), random_boxes(8, 5)
    np.testing.assert_allclose(PAIRWISE[name](boxes.numpy(), others.numpy()), PAIRWISE[name](boxes, others), atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_overlap_is_symmetric_and_never_above_iou(name):
    first, second = random_boxes(300, 10), random_boxes(300, 11)
    values = ALIGNED[name](first, second)
    torch.testing.assert_close(values, ALIGNED[name](second, first))
    assert (values <= ALIGNED["iou"](first, second) + 1e-12).all()


@pytest.mark.parametrize("name", FAMILY)
def test_a_box_overlaps_itself_wholly(name):
    boxes = random_boxes(300, 12)
    torch.testing.assert_close(ALIGNED[name](boxes, boxes), torch.ones(300, dtype=torch.float64))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (7.5, -300.0), (1000.0, 12.0)])
def test_overlap_does_not_depend_on_place_and_unit(name, scale, shift):
    first, second = random_boxes(100, 13), random_boxes(100, 14)
    moved = ALIGNED[name](first * scale + shift, second * scale + shift)
    torch.testing.assert_close(moved, ALIGNED[name](first, second), rtol=0, atol=1e-8)


def test_an_iou_of_a_third_by_hand():
    first, second = np.array([[100.0, 100, 200, 200]]), np.array([[150.0, 100, 250, 200]])
    assert overlap.aligned_iou(first, second)[0] == 5000 / 15000


def test_an_iou_of_0_8223_by_hand():
    boxes = np.array([[100.0, 100, 200, 200], [105, 105, 205, 205], [400, 400, 500, 500], [405, 405, 505, 505]])
    right, printed = 95**2 / (20000 - 95**2), 0.815
    ious = overlap.pairwise_iou(boxes, boxes)
    assert ious[0, 1] == pytest.approx(right)
    assert ious[2, 3] == pytest.approx(right)
    assert abs(right - printed) > 0.007


def test_far_boxes_have_iou_0_and_giou_near_minus_1():
    near, far = np.array([[0.0, 0, 1, 1]]), np.array([[1e4, 1e4, 1e4 + 1, 1e4 + 1]])
    assert overlap.aligned_iou(near, far)[0] == 0
    assert overlap.aligned_giou(near, far)[0] == pytest.approx(-1, abs=1e-6)


def test_diou_of_separate_unit_squares_by_hand():
    # Centres 3 apart, box around both 4 x 1: 0 - 9 / 17.
    value = overlap.aligned_diou(np.array([[0.0, 0, 1, 1]]), np.array([[3.0, 0, 4, 1]]))
    assert value[0] == pytest.approx(-9 / 17)


def test_touching_boxes_do_not_overlap():
    assert overlap.aligned_iou(np.array([[0.0, 0, 1, 1]]), np.array([[1.0, 0, 2, 1]]))[0] == 0


def test_no_boxes_give_an_empty_matrix():
    assert overlap.pairwise_iou(np.zeros((0, 4)), np.ones((3, 4))).shape == (0, 3)
    assert overlap.pairwise_giou(torch.ones(2, 4), torch.zeros(0, 4)).shape == (2, 0)


DEGENERATE = torch.tensor(
    [[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 0, 0], [9, 9, 1, 1], [1, 1, 9, 9]], dtype=torch.float64
)


@pytest.mark.parametrize("name", FAMILY)
def test_boxes_without_area_give_finite_values_and_slopes(name):
    boxes, others = DEGENERATE.clone().requires_grad_(), DEGENERATE.clone().requires_grad_()
    values = PAIRWISE[name](boxes, others)
    values.sum().backward()
    assert values.isfinite().all()
    assert boxes.grad is not None
    assert others.grad is not None
    assert boxes.grad.isfinite().all()
    assert others.grad.isfinite().all()


def test_boxes_without_area_overlap_nothing_not_even_themselves():
    ious = overlap.pairwise_iou(DEGENERATE, DEGENERATE)
    assert ious[:5].eq(0).all()
    assert ious[5, 5] == 1


@pytest.mark.parametrize("name", ["iou", "giou", "diou"])
def test_slopes_agree_with_finite_differences(name):
    boxes, others = random_boxes(5, 6).requires_grad_(), random_boxes(5, 7).requires_grad_()
    assert torch.autograd.gradcheck(ALIGNED[name], (boxes, others))


def test_ciou_slope_treats_its_weight_as_a_constant():
    # Zheng et al. take alpha as given; torchvision does so too, and is the second opinion here.
    boxes, others = random_boxes(5, 8).requires_grad_(), random_boxes(5, 9)
    (ours,) = torch.autograd.grad(overlap.aligned_ciou(boxes, others).sum(), boxes)
    (theirs,) = torch.autograd.grad(second_opinion.complete_box_iou(boxes, others).diagonal().sum(), boxes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_separate_boxes_are_pulled_together(name):
    box = torch.tensor([[0.0, 0, 1, 1]], requires_grad=True)
    ALIGNED[name](box, torch.tensor([[5.0, 0, 6, 1]])).sum().backward()
    assert box.grad is not None
    assert box.grad[0, [0, 2]].sum() > 0

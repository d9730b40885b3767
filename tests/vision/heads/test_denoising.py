"""Denoising queries: who is disturbed how much, who may see whom, and batches with few or no objects."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.heads.denoising import ContrastiveDenoising, add_box_noise, add_class_noise

INPUT_HW = (64, 128)


def targets_of(*counts: int) -> list[BoxTargets]:
    corners = [torch.rand(count, 2) * 30 for count in counts]
    return [
        BoxTargets(torch.cat((corner, corner + 4 + 20 * torch.rand_like(corner)), dim=1), torch.randint(3, (count,)))
        for corner, count in zip(corners, counts, strict=True)
    ]


def test_every_group_has_the_positives_of_all_objects_then_their_negatives():
    torch.manual_seed(0)
    queries = ContrastiveDenoising(8, 3, num_denoising=11)(targets_of(3, 1), INPUT_HW)
    assert queries.num_groups == 3
    assert queries.content.shape == (2, 18, 8)
    assert queries.target_index[0].tolist() == [0, 1, 2, -1, -1, -1] * 3
    assert queries.target_index[1].tolist() == [0, -1, -1, -1, -1, -1] * 3


@pytest.mark.parametrize(("num_objects", "num_groups"), [(1, 100), (7, 14), (100, 1), (130, 1)])
def test_about_as_many_positives_as_asked_for(num_objects, num_groups):
    queries = ContrastiveDenoising(4, 3, num_denoising=100)(targets_of(num_objects), INPUT_HW)
    assert queries.num_groups == num_groups
    assert int((queries.target_index >= 0).sum()) == num_groups * num_objects


def test_noise_stays_within_its_bounds():
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.1]).expand(1, 4000, 4)
    is_negative = torch.arange(4000) >= 2000
    disturbed = add_box_noise(boxes, is_negative, 1.0)
    moved = (cxcywh_to_xyxy(disturbed) - cxcywh_to_xyxy(boxes)).abs()
    shares = moved[0] / (boxes[0, :, 2:] / 2).repeat(1, 2)
    assert (shares[:2000] <= 1 + 1e-5).all()
    assert shares[:2000].max() > 0.99
    assert shares[:2000].min() < 0.01
    # Of the negatives those that grew to both sides have not exchanged any: a box twice as wide is one of them.
    grown = shares[2000:][disturbed[0, 2000:, 2] >= 0.4]
    assert len(grown) > 400
    assert (grown[:, [0, 2]] >= 1 - 1e-5).all()
    assert (grown[:, [0, 2]] <= 2 + 1e-5).all()


@pytest.mark.parametrize("box_noise", [0.0, 0.4])
def test_box_noise_scales_with_its_strength(box_noise):
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.1]).expand(1, 2000, 4)
    moved = (cxcywh_to_xyxy(add_box_noise(boxes, torch.zeros(2000) > 0, box_noise)) - cxcywh_to_xyxy(boxes)).abs()
    assert moved.max() <= box_noise * 0.1 + 1e-6
    assert moved.max() >= 0.99 * box_noise * 0.1


def test_disturbed_boxes_are_boxes_inside_of_the_image():
    torch.manual_seed(0)
    boxes = torch.rand(2, 500, 4)
    sides = cxcywh_to_xyxy(add_box_noise(boxes, torch.arange(500) % 2 == 0, 1.0))
    assert sides.min() >= -1e-6
    assert sides.max() <= 1 + 1e-6
    assert (sides[..., 2:] >= sides[..., :2] - 1e-6).all()


@pytest.mark.parametrize(("label_noise", "expected"), [(0.0, 0.0), (0.5, 0.25 * 9 / 10), (1.0, 0.5 * 9 / 10)])
def test_half_of_the_label_noise_is_the_share_of_random_classes(label_noise, expected):
    torch.manual_seed(0)
    class_ids = torch.full((4, 5000), 7)
    disturbed = add_class_noise(class_ids, 10, label_noise)
    assert (disturbed != 7).float().mean().item() == pytest.approx(expected, abs=0.01)
    assert disturbed.min() >= 0
    assert disturbed.max() <= 9


def test_without_noise_positives_are_the_objects_themselves():
    targets = [BoxTargets(torch.tensor([[32.0, 16.0, 96.0, 48.0]]), torch.tensor([2]))]
    module = ContrastiveDenoising(8, 3, 1, label_noise=0.0, box_noise=0.0)
    queries = module(targets, INPUT_HW)
    torch.testing.assert_close(queries.box_logits.sigmoid()[0, 0], torch.tensor([0.5, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(queries.content[0, 0], module.class_embedding.weight[2])


def test_the_mask_hides_the_answers_and_the_other_groups():
    queries = ContrastiveDenoising(8, 3, num_denoising=4)(targets_of(2, 1), INPUT_HW)
    assert queries.num_groups == 2
    is_hidden = queries.is_hidden(3)
    first, second, searching = range(4), range(4, 8), range(8, 11)
    for looking in range(11):
        for seen in range(11):
            if seen in searching:
                expected = False  # what searches may be seen by all
            else:
                expected = not any(looking in group and seen in group for group in (first, second))
            assert bool(is_hidden[looking, seen]) is expected


def test_the_same_seed_gives_the_same_noise():
    module, targets = ContrastiveDenoising(8, 3), targets_of(4, 2)
    torch.manual_seed(5)
    first = module(targets, INPUT_HW)
    second = module(targets, INPUT_HW)
    torch.manual_seed(5)
    again = module(targets, INPUT_HW)
    torch.testing.assert_close(first.box_logits, again.box_logits, rtol=0, atol=0)
    assert not torch.equal(first.box_logits, second.box_logits)


def test_a_batch_without_objects_still_uses_every_weight():
    module = ContrastiveDenoising(8, 3)
    queries = module(targets_of(0, 0), INPUT_HW)
    assert queries.target_index.tolist() == [[-1, -1], [-1, -1]]
    queries.content.sum().backward()
    assert module.class_embedding.weight.grad is not None
    assert queries.box_logits.isfinite().all()


def test_padding_has_the_embedding_of_no_class():
    module = ContrastiveDenoising(8, 3, num_denoising=2, label_noise=1.0)
    queries = module(targets_of(2, 0), INPUT_HW)
    torch.testing.assert_close(queries.content[1], module.class_embedding.weight[3].expand(4, 8))

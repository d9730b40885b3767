"""The loss of YOLOX: its sum written out, empty images, slopes, and that descending it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from handeye.vision.assignment.simota import assign_simota
from handeye.vision.assignment.task_aligned import TaskAlignedConfig, assign_task_aligned
from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import aligned_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.heads.outputs import GridOutput
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.losses.yolox_loss import YoloxLoss, YoloxLossConfig
from handeye.vision.necks.path_aggregation import PathAggregationConfig

BOXES = BoxTargets(torch.tensor([[8.0, 8.0, 40.0, 36.0], [30.0, 26.0, 62.0, 60.0]]), torch.tensor([2, 0]))
NOTHING = BoxTargets.empty()


def random_output(num_images: int, seed: int = 0, num_classes: int = 3) -> GridOutput:
    """Predictions of a 64 x 64 input, as leaves that collect slopes."""
    generator = torch.Generator().manual_seed(seed)
    cells = [(x, y, s) for s in (8, 16, 32) for y in range(64 // s) for x in range(64 // s)]

    def leaf(width: int) -> torch.Tensor:
        return (torch.randn(num_images, len(cells), width, generator=generator) * 0.3).requires_grad_()

    grid = torch.tensor(cells, dtype=torch.float32)
    return GridOutput(leaf(4), leaf(1), leaf(num_classes), grid[:, :2], grid[:, 2:])


def written_out(output: GridOutput, targets: list[BoxTargets]) -> dict[str, float]:
    """The published sum, one matched cell at a time."""
    sums, count, wanted_objectness = {"box": 0.0, "class": 0.0, "l1": 0.0}, 0, torch.zeros(output.raw.shape[:2])
    for image, target in enumerate(targets):
        centres = (output.cell_xy + 0.5) * output.strides
        boxes = output.boxes_cxcywh[image]
        match = assign_simota(
            centres, output.strides, boxes, output.objectness_logits[image], output.class_logits[image], target
        )
        for cell, box, iou in zip(match.cell_index, match.box_index, match.ious, strict=True):
            count += 1
            wanted_objectness[image, cell] = 1
            x1, y1, x2, y2 = target.boxes_xyxy[box]
            sums["box"] += 5 * (1 - iou.item() ** 2)
            wanted = torch.zeros(output.class_logits.shape[-1])
            wanted[target.class_ids[box]] = iou
            sums["class"] += functional.binary_cross_entropy_with_logits(
                output.class_logits[image, cell], wanted, reduction="sum"
            ).item()
            stride, (column, row) = output.strides[cell, 0], output.cell_xy[cell]
            encoded = torch.stack(
                (
                    (x1 + x2) / 2 / stride - column,
                    (y1 + y2) / 2 / stride - row,
                    ((x2 - x1) / stride).log(),
                    ((y2 - y1) / stride).log(),
                )
            )
            sums["l1"] += (output.box_predictions[image, cell] - encoded).abs().sum().item()
    sums["objectness"] = functional.binary_cross_entropy_with_logits(
        output.objectness_logits[..., 0], wanted_objectness, reduction="sum"
    ).item()
    return {name: value / max(count, 1) for name, value in sums.items()}


@pytest.mark.parametrize("targets", [[BOXES], [BOXES, NOTHING], [NOTHING, BOXES, BOXES]])
def test_it_is_the_published_sum(targets):
    output = random_output(len(targets))
    losses = YoloxLoss()(output, targets, with_l1=True)
    expected = written_out(output, targets)
    assert set(losses) == {"total", *expected}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4)
    assert losses["total"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


def test_without_l1_there_is_no_l1():
    assert set(YoloxLoss()(random_output(1), [BOXES])) == {"total", "box", "objectness", "class"}


def test_weights_weigh():
    plain = YoloxLoss()(random_output(1), [BOXES])
    doubled = YoloxLoss(YoloxLossConfig(box_weight=10.0, class_weight=0.0))(random_output(1), [BOXES])
    assert doubled["box"].item() == pytest.approx(2 * plain["box"].item())
    assert doubled["class"].item() == 0
    assert doubled["objectness"].item() == pytest.approx(plain["objectness"].item())


def test_a_batch_without_objects_teaches_objectness_only():
    output = random_output(2)
    losses = YoloxLoss()(output, [NOTHING, NOTHING], with_l1=True)
    losses["total"].backward()
    assert losses["box"].item() == losses["class"].item() == losses["l1"].item() == 0
    assert losses["objectness"].item() > 0
    for predictions in (output.box_predictions, output.class_logits):
        assert predictions.grad is not None
        assert predictions.grad.eq(0).all()
    assert output.objectness_logits.grad is not None
    assert output.objectness_logits.grad.gt(0).all()


def test_the_order_of_the_boxes_does_not_matter():
    reverse = BoxTargets(BOXES.boxes_xyxy.flip(0), BOXES.class_ids.flip(0))
    losses, reversed_losses = (YoloxLoss()(random_output(1), [targets]) for targets in (BOXES, reverse))
    torch.testing.assert_close(losses, reversed_losses)


def test_a_perfect_answer_costs_next_to_nothing():
    output = random_output(1)
    fine = int(((output.cell_xy + 0.5) * output.strides - torch.tensor([24.0, 22.0])).norm(dim=1).argmin())
    predictions, objectness, classes = (
        torch.zeros(1, 84, 4),
        torch.full((1, 84, 1), -20.0),
        torch.full((1, 84, 3), -20.0),
    )
    stride, (column, row) = output.strides[fine, 0], output.cell_xy[fine]
    predictions[0, fine] = torch.stack(
        (24 / stride - column, 22 / stride - row, (32 / stride).log(), (28 / stride).log())
    )
    # Every other cell predicts a box far away, so that only this one overlaps and one match is wanted.
    predictions[0, torch.arange(84) != fine] = torch.tensor([50.0, 50.0, 0.0, 0.0])
    objectness[0, fine], classes[0, fine, 2] = 20.0, 20.0
    perfect = GridOutput(predictions, objectness, classes, output.cell_xy, output.strides)
    only_first = BoxTargets(BOXES.boxes_xyxy[:1], BOXES.class_ids[:1])
    assert YoloxLoss()(perfect, [only_first], with_l1=True)["total"].item() < 1e-3


def test_half_precision_output_gives_single_precision_losses_near_the_full_ones():
    output = random_output(1)
    half = GridOutput(
        *(part.to(torch.bfloat16) for part in (output.box_predictions, output.objectness_logits, output.class_logits)),
        output.cell_xy,
        output.strides,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = YoloxLoss()(half, [BOXES])
    assert losses["total"].dtype == torch.float32
    assert losses["total"].item() == pytest.approx(YoloxLoss()(output, [BOXES])["total"].item(), rel=0.05)


def test_slopes_agree_with_finite_differences():
    output = random_output(1, seed=4)
    loss = YoloxLoss()
    parts = (output.box_predictions, output.objectness_logits, output.class_logits)
    slopes = torch.autograd.grad(loss(output, [BOXES], with_l1=True)["total"], parts)
    # The target of the class is the overlap, a constant to the slope: differences may only move the other parts.
    for part, slope in zip(parts[1:], slopes[1:], strict=True):
        flat = part.detach().view(-1)
        for index in (0, len(flat) // 2, len(flat) - 1):
            before, step = flat[index].item(), 0.05
            ends = []
            for sign in (1, -1):
                flat[index] = before + sign * step
                ends.append(loss(output, [BOXES], with_l1=True)["total"].item())
            flat[index] = before
            assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope.view(-1)[index].item(), abs=2e-3)


def test_as_many_targets_as_images():
    with pytest.raises(ValueError, match="targets for 2 images, got 1"):
        YoloxLoss()(random_output(2), [BOXES])


def test_descending_the_loss_learns_two_images():
    torch.manual_seed(0)
    detector = Detector(
        DetectorConfig(
            backbone=CSPDarknetConfig(depth=0.1, width=0.125),
            neck=PathAggregationConfig(depth=0.1),
            head=YoloxHeadConfig(hidden_dim=24),
            num_classes=3,
            class_names=("a", "b", "c"),
        )
    ).train()
    images = torch.rand(2, 3, 64, 64) * 60
    images[0, :, 8:36, 8:40] += 150
    images[0, 0, 26:60, 30:62] += 180
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    loss, history = YoloxLoss(), []
    for _ in range(120):
        losses = loss(detector(images), [BOXES, NOTHING])
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
        history.append(losses["total"].item())
    assert sum(history[-10:]) < 0.5 * sum(history[:10])
    output = detector(images)
    scores = output.class_logits.sigmoid() * output.objectness_logits.sigmoid()
    best = cxcywh_to_xyxy(output.boxes_cxcywh[0])[scores[0].argmax(dim=0)]
    assert aligned_iou(best[BOXES.class_ids], BOXES.boxes_xyxy).min() > 0.5
    assert scores[1].max() < scores[0].max()


def test_unmatched_cells_in_an_ignored_region_have_no_loss_and_no_slope():
    output = random_output(1)
    output.objectness_logits.requires_grad_()
    region = torch.tensor([[0.0, 0.0, 33.0, 33.0]])
    x, y = ((output.cell_xy + 0.5) * output.strides).unbind(dim=1)
    inside = (x < 33) & (y < 33)
    YoloxLoss()(output, [BoxTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), region)])["total"].backward()
    slopes = output.objectness_logits.grad
    assert slopes is not None
    assert inside.any()
    assert (slopes[0, inside] == 0).all()
    assert (slopes[0, ~inside] > 0).all()


def test_an_object_inside_an_ignored_region_is_learnt_all_the_same():
    output = random_output(1)
    everywhere = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    ignoring = YoloxLoss()(output, [BoxTargets(BOXES.boxes_xyxy, BOXES.class_ids, everywhere)])
    plain = YoloxLoss()(output, [BOXES])
    for part in ("box", "class"):
        assert ignoring[part].item() == pytest.approx(plain[part].item())
    assert 0 < ignoring["objectness"].item() < plain["objectness"].item()


def test_with_the_task_aligned_assignment_its_cells_are_to_score_their_quality():
    output, config = random_output(1), TaskAlignedConfig(top_k=5)
    scores = output.objectness_logits[0].sigmoid() * output.class_logits[0].sigmoid()
    predicted = cxcywh_to_xyxy(output.boxes_cxcywh[0])
    match = assign_task_aligned((output.cell_xy + 0.5) * output.strides, predicted, scores, BOXES, config)
    wanted = torch.zeros(len(match.cell_index), 3)
    wanted[torch.arange(len(wanted)), BOXES.class_ids[match.box_index]] = match.quality
    expected = {
        "box": 5 * (1 - aligned_iou(predicted[match.cell_index], BOXES.boxes_xyxy[match.box_index]) ** 2).sum(),
        "class": functional.binary_cross_entropy_with_logits(
            output.class_logits[0, match.cell_index], wanted, reduction="sum"
        ),
    }
    losses = YoloxLoss(YoloxLossConfig(assignment=config))(output, [BOXES])
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item() / len(wanted), rel=1e-4)


def test_label_smoothing_moves_the_classes_and_nothing_else():
    """Cross entropy is linear in its target: the part that is "perhaps" costs what a half costs everywhere."""
    output, amount = random_output(2), 0.3
    plain, smooth, perhaps = (
        YoloxLoss(YoloxLossConfig(label_smoothing=share))(output, [BOXES, BOXES]) for share in (0.0, amount, 0.999999)
    )
    expected = (1 - amount) * plain["class"].item() + amount * perhaps["class"].item()
    assert smooth["class"].item() == pytest.approx(expected, rel=1e-4)
    assert smooth["class"].item() != pytest.approx(plain["class"].item(), rel=1e-3)
    assert (smooth["box"], smooth["objectness"]) == (plain["box"], plain["objectness"])


def test_all_parts_are_divided_by_the_count_that_it_is_given():
    output = random_output(2)
    counted = []

    def count(number, device):
        counted.append(number)
        return torch.tensor(10.0, device=device)

    usual = YoloxLoss()(output, [BOXES, NOTHING], with_l1=True)
    losses = YoloxLoss(count=count)(output, [BOXES, NOTHING], with_l1=True)
    (number,) = counted
    for name, loss in losses.items():
        assert loss.item() * 10 == pytest.approx(usual[name].item() * number, rel=1e-5)

"""The losses of YOLO v1 to v5: sums written out, corners, slopes, the numbers of section 28.1, and that they learn."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from handeye.vision.assignment.best_anchor import assign_best_anchor, assign_by_ratio, assign_responsible
from handeye.vision.boxes.formats import cxcywh_to_xyxy, xyxy_to_cxcywh
from handeye.vision.boxes.iou import aligned_ciou, aligned_iou, pairwise_iou
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import build_head
from handeye.vision.heads.yolo_grid import YoloGridHeadConfig, YoloGridOutput, encode_centres, encode_sizes
from handeye.vision.losses.build import build_loss
from handeye.vision.losses.yolo_loss import (
    YoloLoss,
    YoloV1LossConfig,
    YoloV2LossConfig,
    YoloV3LossConfig,
    YoloV5LossConfig,
    published_yolo_loss,
)
from handeye.vision.losses.yolox_loss import YoloxLossConfig

VERSIONS = ["v1", "v2", "v3", "v4", "v5"]
ANCHORS = {
    "v1": None,
    "v2": [[[16, 12], [30, 30]]],
    **dict.fromkeys(("v3", "v4", "v5"), [[[8, 8], [12, 20]], [[24, 16], [20, 34]], [[40, 32], [32, 50]]]),
}
BOXES = BoxTargets(torch.tensor([[8.0, 8.0, 40.0, 36.0], [30.0, 26.0, 62.0, 60.0]]), torch.tensor([2, 0]))
NOTHING = BoxTargets.empty()
INPUT = 64.0


def random_output(version, num_images: int, seed: int = 0, num_classes: int = 3) -> YoloGridOutput:
    """Predictions of a 64 x 64 input, as leaves that collect slopes."""
    strides = (8, 16, 32) if version in ("v3", "v4", "v5") else (32,)
    head = build_head(
        YoloGridHeadConfig.model_validate({"version": version, "anchors": ANCHORS[version]}),
        [4] * len(strides),
        strides,
        num_classes,
    ).eval()
    fresh = head([torch.zeros(num_images, 4, 64 // stride, 64 // stride) for stride in strides])
    generator = torch.Generator().manual_seed(seed)
    start = 0.6 if version == "v1" else 0.0

    def leaf(like: torch.Tensor, middle: float = 0.0) -> torch.Tensor:
        return (torch.randn(like.shape, generator=generator) * 0.3 + middle).requires_grad_()

    return dataclasses.replace(
        fresh,
        box_predictions=leaf(fresh.box_predictions, start),
        objectness_logits=leaf(fresh.objectness_logits),
        class_logits=leaf(fresh.class_logits),
    )


def pairs_of(output: YoloGridOutput, image: int, boxes: torch.Tensor) -> list[tuple[int, int]]:
    places = (output.cell_xy, output.strides)
    match output.version:
        case "v1":
            pairs = assign_responsible(*places, cxcywh_to_xyxy(output.boxes_cxcywh[image]), boxes)
        case "v2" | "v3":
            pairs = assign_best_anchor(*places, output.prior_wh, boxes)
        case "v4":
            pairs = assign_best_anchor(*places, output.prior_wh, boxes, also_above=0.213)
        case "v5":
            pairs = assign_by_ratio(*places, output.prior_wh, boxes)
    return list(zip(pairs.row_index.tolist(), pairs.box_index.tolist(), strict=True))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def cross_entropy(logit: float, wanted: float) -> float:
    return -wanted * math.log(sigmoid(logit)) - (1 - wanted) * math.log(1 - sigmoid(logit))


def entropy(share: float) -> float:
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


def terms_of(output: YoloGridOutput, image: int, row: int, box: torch.Tensor, class_id: int) -> dict[str, float]:
    """What a row of v1 to v3 that answers for an object adds to each part, before the weights of the version."""
    raw = output.box_predictions[image, row].tolist()
    stride, (column, line) = output.strides[row].item(), output.cell_xy[row].tolist()
    cx, cy, width, height = xyxy_to_cxcywh(box).tolist()
    prior = output.prior_wh[row].tolist()
    offsets, factors = (cx / stride - column, cy / stride - line), (width / prior[0], height / prior[1])
    logits = output.class_logits[image, row]
    wanted = [float(index == class_id) for index in range(len(logits))]
    probabilities = logits.softmax(dim=0).tolist()
    overlap = aligned_iou(cxcywh_to_xyxy(output.boxes_cxcywh[image, row]), box).item()
    confidence = output.objectness_logits[image, row, 0].item()
    small = 2 - width * height / INPUT**2
    match output.version:
        case "v1":
            return {
                "box": sum((r - o) ** 2 for r, o in zip(raw[:2], offsets, strict=True))
                + sum((r - math.sqrt(f)) ** 2 for r, f in zip(raw[2:], factors, strict=True)),
                "objectness": (confidence - overlap) ** 2,
                "class": sum((p - w) ** 2 for p, w in zip(probabilities, wanted, strict=True)),
            }
        case "v2":
            squares = sum((sigmoid(r) - o) ** 2 for r, o in zip(raw[:2], offsets, strict=True))
            squares += sum((r - math.log(f)) ** 2 for r, f in zip(raw[2:], factors, strict=True))
            return {
                "box": small * squares / 2,
                "objectness": (sigmoid(confidence) - overlap) ** 2 / 2,
                "class": -math.log(probabilities[class_id]),
            }
        case _:
            centres = sum(cross_entropy(r, o) - entropy(o) for r, o in zip(raw[:2], offsets, strict=True))
            sizes = sum((r - math.log(f)) ** 2 for r, f in zip(raw[2:], factors, strict=True))
            return {
                "box": small * (centres + sizes / 2),
                "objectness": cross_entropy(confidence, 1),
                "class": sum(cross_entropy(c, w) for c, w in zip(logits.tolist(), wanted, strict=True)),
            }


def background_term(output: YoloGridOutput, image: int, row: int) -> float:
    confidence = output.objectness_logits[image, row, 0].item()
    match output.version:
        case "v1":
            return 0.5 * confidence**2
        case "v2":
            return sigmoid(confidence) ** 2 / 2
        case _:
            return cross_entropy(confidence, 0)


def written_out(output: YoloGridOutput, targets: list[BoxTargets]) -> dict[str, float]:
    """v1 to v3, one row at a time."""
    sums = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    threshold = {"v1": 2.0, "v2": 0.6, "v3": 0.5}[output.version]
    for image, target in enumerate(targets):
        pairs = pairs_of(output, image, target.boxes_xyxy)
        for row, box in pairs:
            terms = terms_of(output, image, row, target.boxes_xyxy[box], int(target.class_ids[box]))
            for name, value in terms.items():
                weight = {("v1", "box"): 5, ("v2", "objectness"): 5}.get((output.version, name), 1)
                sums[name] += weight * value
        overlaps = pairwise_iou(cxcywh_to_xyxy(output.boxes_cxcywh[image]), target.boxes_xyxy)
        for row in range(len(output.cell_xy)):
            is_good = len(target) > 0 and overlaps[row].max() > threshold
            if row not in dict(pairs) and not is_good:
                sums["objectness"] += background_term(output, image, row)
    return {name: value / len(targets) for name, value in sums.items()}


def v5_written_out(output: YoloGridOutput, targets: list[BoxTargets]) -> dict[str, float]:
    """v4 and v5, level by level and one row at a time."""
    sums = {"box": 0.0, "objectness": 0.0, "class": 0.0}
    for stride, balance in ((8, 4.0), (16, 1.0), (32, 0.4)):
        boxes, classes, objectness, wanted = [], [], [], {}
        for image, target in enumerate(targets):
            for row, box in pairs_of(output, image, target.boxes_xyxy):
                if output.strides[row] != stride:
                    continue
                predicted = cxcywh_to_xyxy(output.boxes_cxcywh[image, row])
                overlap = aligned_ciou(predicted, target.boxes_xyxy[box]).item()
                boxes.append(1 - overlap)
                wanted[image, row] = max(wanted.get((image, row), 0.0), overlap)
                for index, logit in enumerate(output.class_logits[image, row].tolist()):
                    classes.append(cross_entropy(logit, float(index == target.class_ids[box])))
            for row in range(len(output.cell_xy)):
                if output.strides[row] == stride:
                    logit = output.objectness_logits[image, row, 0].item()
                    objectness.append(cross_entropy(logit, wanted.get((image, row), 0.0)))
        sums["box"] += 0.05 * sum(boxes) / max(len(boxes), 1)
        sums["class"] += 0.5 * sum(classes) / max(len(classes), 1)
        sums["objectness"] += balance * sum(objectness) / len(objectness)
    return {name: value * len(targets) for name, value in sums.items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("targets", [[BOXES], [NOTHING, BOXES, BOXES]], ids=["one image", "three images"])
def test_it_is_the_published_sum(version, targets):
    output = random_output(version, len(targets), seed=2)
    assert pairs_of(output, len(targets) - 1, BOXES.boxes_xyxy)
    losses = YoloLoss(published_yolo_loss(version))(output, targets)
    expected = v5_written_out(output, targets) if version in ("v4", "v5") else written_out(output, targets)
    assert set(losses) == {"total", *expected}
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    assert losses["total"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_what_overlaps_an_object_by_chance_is_not_called_background(version):
    output = random_output(version, 1, seed=2)
    config = {"v2": YoloV2LossConfig, "v3": YoloV3LossConfig}[version]
    strict, lenient = (YoloLoss(config(ignore_threshold=t))(output, [BOXES])["objectness"] for t in (1.0, 0.2))
    assert lenient.item() < strict.item()
    lenient.backward()
    slopes = output.objectness_logits.grad
    assert slopes is not None
    overlaps = pairwise_iou(cxcywh_to_xyxy(output.boxes_cxcywh[0]), BOXES.boxes_xyxy).amax(dim=1)
    matched = torch.zeros(len(overlaps), dtype=torch.bool)
    matched[[row for row, _ in pairs_of(output, 0, BOXES.boxes_xyxy)]] = True
    assert (slopes[0, :, 0] == 0).tolist() == ((overlaps > 0.2) & ~matched).tolist()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_right_answer_costs_nothing_and_any_other_something(version):
    output = random_output(version, 1)
    target = BoxTargets(BOXES.boxes_xyxy[:1], BOXES.class_ids[:1])
    rows = [row for row, _ in pairs_of(output, 0, target.boxes_xyxy)]
    big = 1.0 if version == "v1" else 30.0
    boxes, classes = torch.zeros_like(output.box_predictions), torch.full_like(output.class_logits, -30.0)
    objectness = torch.full_like(output.objectness_logits, 0.0 if version == "v1" else -30.0)
    offsets, factors = output.relative_to_rows(
        xyxy_to_cxcywh(target.boxes_xyxy).expand(len(rows), 4), torch.tensor(rows)
    )
    boxes[0, rows, :2] = encode_centres(version, offsets, output.centre_scales[rows])
    boxes[0, rows, 2:] = encode_sizes(version, factors)
    objectness[0, rows], classes[0, rows, 2] = big, 30.0
    loss = YoloLoss(published_yolo_loss(version))
    right = dataclasses.replace(output, box_predictions=boxes, objectness_logits=objectness, class_logits=classes)
    assert loss(right, [target])["total"].item() == pytest.approx(0, abs=1e-4)
    for part in (boxes, objectness, classes):
        part[0, rows[0]] += 0.5 if part is boxes else -32.0 * (part[0, rows[0]] > 0)
        assert loss(right, [target])["total"].item() > 1e-3
        part[0, rows[0]] -= 0.5 if part is boxes else 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_without_objects_teaches_objectness_only(version):
    output = random_output(version, 2)
    losses = YoloLoss(published_yolo_loss(version))(output, [NOTHING, NOTHING])
    losses["total"].backward()
    assert losses["box"].item() == losses["class"].item() == 0
    assert losses["objectness"].item() > 0
    for predictions in (output.box_predictions, output.class_logits):
        assert predictions.grad is None or predictions.grad.eq(0).all()
    assert output.objectness_logits.grad is not None
    assert output.objectness_logits.grad.ne(0).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_slopes_are_finite_even_at_boxes_without_extent_and_huge_predictions(version):
    output = random_output(version, 1)
    with torch.no_grad():
        output.box_predictions.mul_(40)
        output.objectness_logits.mul_(200)
    flat = BoxTargets(torch.tensor([[20.0, 20, 20, 20], [10, 10, 50, 10], [0, 0, 64, 64]]), torch.tensor([0, 1, 2]))
    losses = YoloLoss(published_yolo_loss(version))(output, [flat])
    losses["total"].backward()
    assert losses["total"].isfinite()
    for predictions in (output.box_predictions, output.objectness_logits, output.class_logits):
        assert predictions.grad is not None
        assert predictions.grad.isfinite().all()


@pytest.mark.parametrize("version", VERSIONS)
def test_slopes_agree_with_finite_differences(version):
    output = random_output(version, 1, seed=4)
    loss = YoloLoss(published_yolo_loss(version))
    # Objectness is to be the overlap in some versions, a constant to the slope: boxes may only move the other parts.
    moves = {"box": output.box_predictions, "objectness": output.objectness_logits, "class": output.class_logits}
    row = pairs_of(output, 0, BOXES.boxes_xyxy)[0][0]
    for name, leaf in moves.items():
        if name == "box" and version in ("v4", "v5"):
            continue  # the weight inside CIoU is a constant to its slope; tests of overlaps hold it
        (slopes,) = torch.autograd.grad(loss(output, [BOXES])[name], leaf)
        flat, index, step = leaf.detach(), (0, row, 0), 1e-2
        before, ends = flat[index].item(), []
        for sign in (1, -1):
            flat[index] = before + sign * step
            ends.append(loss(output, [BOXES])[name].item())
        flat[index] = before
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slopes[index].item(), abs=3e-3, rel=1e-2)


def test_the_slope_of_v3_is_the_difference_that_its_paper_gives():
    output = random_output("v3", 1)
    ((row, box), *_) = pairs_of(output, 0, BOXES.boxes_xyxy)
    YoloLoss(YoloV3LossConfig())(output, [BOXES])["box"].backward()
    offsets, factors = output.relative_to_rows(xyxy_to_cxcywh(BOXES.boxes_xyxy[[box]]), torch.tensor([row]))
    raw = output.box_predictions.detach()[0, row]
    share = (BOXES.boxes_xyxy[box, 2:] - BOXES.boxes_xyxy[box, :2]).prod() / INPUT**2
    expected = (2 - share) * torch.cat((raw[:2].sigmoid() - offsets[0], raw[2:] - factors[0].log()))
    assert output.box_predictions.grad is not None
    torch.testing.assert_close(output.box_predictions.grad[0, row], expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_regions_without_annotations_have_no_loss_and_objects_there_are_learnt_all_the_same(version):
    output, loss = random_output(version, 1), YoloLoss(published_yolo_loss(version))
    region = torch.tensor([[0.0, 0.0, 33.0, 33.0]])
    x, y = ((output.cell_xy + 0.5) * output.strides).unbind(dim=1)
    inside = (x < 33) & (y < 33)
    losses = loss(output, [BoxTargets(NOTHING.boxes_xyxy, NOTHING.class_ids, region)])
    (slopes,) = torch.autograd.grad(losses["total"], output.objectness_logits)
    assert inside.any()
    assert (slopes[0, :, 0] == 0).tolist() == inside.tolist()
    everywhere = BoxTargets(BOXES.boxes_xyxy, BOXES.class_ids, torch.tensor([[0.0, 0, 64, 64]]))
    plain, ignoring = loss(output, [BOXES]), loss(output, [everywhere])
    for name in ("box", "class"):
        assert ignoring[name].item() == pytest.approx(plain[name].item())
    assert 0 < ignoring["objectness"].item() < plain["objectness"].item()


@pytest.mark.parametrize("version", VERSIONS)
def test_half_precision_output_gives_single_precision_losses_near_the_full_ones(version):
    output, loss = random_output(version, 1), YoloLoss(published_yolo_loss(version))
    parts = ("box_predictions", "objectness_logits", "class_logits")
    half = dataclasses.replace(output, **{name: getattr(output, name).to(torch.bfloat16) for name in parts})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss(half, [BOXES])
    assert losses["total"].dtype == torch.float32
    assert losses["total"].item() == pytest.approx(loss(output, [BOXES])["total"].item(), rel=0.05)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="targets for 2 images, got 1"):
        YoloLoss(YoloV3LossConfig())(random_output("v3", 2), [BOXES])
    with pytest.raises(ConfigError, match="head is v3 and takes yolo_v3, got yolo_v1"):
        YoloLoss(YoloV1LossConfig())(random_output("v3", 1), [BOXES])
    with pytest.raises(ConfigError, match=r"level_balance: expected 3 numbers, got 2"):
        YoloLoss(YoloV5LossConfig(level_balance=(1.0, 1.0)))(random_output("v5", 1), [BOXES])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_the_head_gets_its_loss(version):
    head = YoloGridHeadConfig(version=version)
    loss = build_loss(None, head)
    assert isinstance(loss, YoloLoss)
    assert loss.config == published_yolo_loss(version)
    with pytest.raises(ConfigError, match="loss.kind"):
        build_loss(YoloxLossConfig(), head)


def one_predicted_box(class_probabilities: tuple[float, ...], width: float, height: float, confidence: float):
    """v1 on 416 x 416 with 13 x 13 cells: one box in the middle of the person's cell, nothing else."""
    head = build_head(YoloGridHeadConfig(version="v1", boxes_per_cell=1), [4], [32], len(class_probabilities)).eval()
    fresh = head([torch.zeros(1, 4, 13, 13)])
    row = 6 * 13 + 6
    boxes, objectness = torch.zeros(1, 169, 4), torch.zeros(1, 169, 1)
    boxes[0, row] = torch.tensor([0.5, 0.5, math.sqrt(width / 416), math.sqrt(height / 416)])
    objectness[0, row] = confidence
    classes = torch.tensor(class_probabilities).log().expand(1, 169, -1)
    return dataclasses.replace(fresh, box_predictions=boxes, objectness_logits=objectness, class_logits=classes)


PERSON = BoxTargets(torch.tensor([[168.0, 168.0, 248.0, 248.0]]), torch.tensor([0]))
"""80 x 80 around (208, 208), the middle of cell [6, 6] and of the image."""


def test_the_localisation_loss_of_28_1_4_is_27_1_and_not_the_printed_2_8():
    output = one_predicted_box((0.8, 0.1, 0.1), 26.38, 29.15, confidence=0.9)
    losses = YoloLoss(YoloV1LossConfig())(output, [PERSON])
    # Our sizes are shares of the 416 pixels, the book's are pixels; both weigh the sum by 5.
    localisation, printed = losses["box"].item() / 5 * 416, 2.8
    assert localisation == pytest.approx((26.38**0.5 - 80**0.5) ** 2 + (29.15**0.5 - 80**0.5) ** 2, rel=1e-4)
    assert localisation == pytest.approx(27.1, abs=0.05)
    assert localisation - printed > 24
    rounded = YoloLoss(YoloV1LossConfig())(one_predicted_box((0.8, 0.1, 0.1), 26, 29, 0.9), [PERSON])
    assert rounded["box"].item() / 5 * 416 == pytest.approx(27.5, abs=0.05)


def test_the_other_terms_of_28_1_4_and_the_total_of_28_1_5_which_is_135_and_not_14_06():
    right_box = one_predicted_box((0.8, 0.1, 0.1), 80, 80, confidence=0.9)
    losses = YoloLoss(YoloV1LossConfig())(right_box, [PERSON])
    # Confidence is to be the overlap, 1 for this box: (0.9 - 1)^2.
    assert losses["objectness"].item() == pytest.approx(0.01, rel=1e-3)
    # The printed 0.05 has two classes whose scores leave a tenth over; a softmax gives it to a third one.
    assert losses["class"].item() - 0.1**2 == pytest.approx(0.05, rel=1e-3)
    wrong_box = YoloLoss(YoloV1LossConfig())(one_predicted_box((0.8, 0.1, 0.1), 26.38, 29.15, 0.9), [PERSON])
    right = wrong_box["box"].item() * 416 + losses["objectness"].item() + losses["class"].item() - 0.1**2
    assert right == pytest.approx(5 * 27.08 + 0.06, abs=0.3)
    printed = 14.06
    assert right > 9 * printed


def four_scenes() -> tuple[torch.Tensor, list[BoxTargets]]:
    """Four 64 x 64 images of bright rectangles, the last one empty."""
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.rand(4, 3, 64, 64, generator=generator) * 60, []
    for image, boxes in enumerate(([(4, 6, 26, 40), (34, 20, 62, 44)], [(8, 30, 36, 60)], [(36, 4, 58, 30)], [])):
        class_ids = [(image + index) % 3 for index in range(len(boxes))]
        for (left, top, right, bottom), class_id in zip(boxes, class_ids, strict=True):
            images[image, class_id, top:bottom, left:right] += 180
        targets.append(BoxTargets(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(class_ids).long()))
    return images, targets


@pytest.mark.slow
@pytest.mark.parametrize(
    "version", [version if version == "v3" else pytest.param(version, marks=pytest.mark.long) for version in VERSIONS]
)
def test_four_images_are_learnt_by_heart(version):
    torch.manual_seed(0)
    coarse_only = version in ("v1", "v2")
    detector = Detector(
        DetectorConfig.model_validate(
            {
                "backbone": {"kind": "cspdarknet", "width": 0.125},
                "neck": {"kind": "levels"} if coarse_only else {"kind": "path_aggregation"},
                "head": {"kind": "yolo_grid", "version": version, "anchors": ANCHORS[version], "hidden_dim": 16},
                "num_classes": 3,
            }
        )
    ).train()
    images, targets = four_scenes()
    loss, history = YoloLoss(published_yolo_loss(version)), []
    optimizer = torch.optim.AdamW(detector.parameters(), lr=8e-3, weight_decay=0)
    for _ in range(250):
        losses = loss(detector(images), targets)
        optimizer.zero_grad()
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        history.append(losses["total"].item())
    assert sum(history[-5:]) / 5 < 0.1 * history[0]
    rows = detector(images).rows
    for image, target in enumerate(targets[:3]):
        scores = rows[image, :, 4:5] * rows[image, :, 5:]
        best = cxcywh_to_xyxy(rows[image, :, :4])[scores.argmax(dim=0)]
        assert aligned_iou(best[target.class_ids], target.boxes_xyxy).min() > 0.6
        assert scores[:, target.class_ids].amax(dim=0).min() > (rows[3, :, 4:5] * rows[3, :, 5:]).max()

"""The loss of queries against its formulas in plain loops, against the transformers library, and by its slopes."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, generalized_box_iou

from handeye.vision.boxes.formats import cxcywh_to_xyxy, pixels_to_norm, xyxy_to_cxcywh
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.losses.counting import average_count
from handeye.vision.losses.set_loss import DETR_LOSS, SetLoss, SetLossConfig, denoising_matches

INPUT_HW = (64, 128)
NUM_CLASSES = 4


def some_targets(*counts: int) -> list[BoxTargets]:
    generator = torch.Generator().manual_seed(3)
    targets = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([64.0, 32.0])
        sizes = 4 + torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 28.0])
        class_ids = torch.randint(NUM_CLASSES, (count,), generator=generator)
        targets.append(BoxTargets(torch.cat((corners, corners + sizes), dim=1), class_ids))
    return targets


def some_predictions(seed: int, scoring: str, num_images: int = 3, num_queries: int = 5) -> QueryPredictions:
    generator = torch.Generator().manual_seed(seed)
    num_logits = NUM_CLASSES + (scoring == "softmax")
    logits = 2 * torch.randn(num_images, num_queries, num_logits, generator=generator)
    boxes = 0.1 + 0.8 * torch.rand(num_images, num_queries, 4, generator=generator)
    return QueryPredictions(logits.requires_grad_(), boxes.requires_grad_())


def some_output(scoring: str, num_auxiliary: int = 0, denoising: DenoisingPredictions | None = None) -> QueryOutput:
    last, *before = (some_predictions(seed, scoring) for seed in range(1 + num_auxiliary))
    return QueryOutput(last.logits, last.boxes_cxcywh_norm, scoring, INPUT_HW, tuple(before), denoising)


def norm_boxes(target: BoxTargets) -> Tensor:
    return xyxy_to_cxcywh(pixels_to_norm(target.boxes_xyxy, INPUT_HW))


def best_pairs(logits: Tensor, boxes: Tensor, target: BoxTargets, scoring: str) -> list[tuple[int, int]]:
    """(query, object) by trying every matching, with the published costs."""
    wanted = norm_boxes(target)
    if scoring == "softmax":
        class_cost = -logits.softmax(-1)[:, target.class_ids]
    else:
        p = logits.sigmoid()[:, target.class_ids]
        class_cost = 2 * (0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log())
    overlap = generalized_box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
    cost = class_cost + 5 * (boxes[:, None] - wanted).abs().sum(-1) - 2 * overlap
    num = len(target)
    tries = permutations(range(len(logits)), num)
    best = min(tries, key=lambda queries: sum(cost[query, row].item() for row, query in enumerate(queries)))
    return [(query, row) for row, query in enumerate(best)]


def loss_by_hand(layer: QueryPredictions, targets: list[BoxTargets], scoring: str) -> dict[str, float]:
    """The published formulas, one image, one query and one object at a time."""
    num_boxes = max(sum(len(target) for target in targets), 1)
    parts = {"class": 0.0, "l1": 0.0, "giou": 0.0}
    weight_sum = 0.0
    for logits, boxes, target in zip(layer.logits, layer.boxes_cxcywh_norm, targets, strict=True):
        pairs = dict(best_pairs(logits, boxes, target, scoring))
        for query in range(len(logits)):
            row = pairs.get(query)
            class_id, overlap = NUM_CLASSES, 0.0
            if row is not None:
                class_id, wanted = int(target.class_ids[row]), norm_boxes(target)[row]
                corners = cxcywh_to_xyxy(boxes[query])[None], cxcywh_to_xyxy(wanted)[None]
                overlap = box_iou(*corners).item()
                parts["l1"] += 5 * (boxes[query] - wanted).abs().sum().item() / num_boxes
                parts["giou"] += 2 * (1 - generalized_box_iou(*corners).item()) / num_boxes
            if scoring == "softmax":
                weight = 1.0 if row is not None else 0.1
                weight_sum += weight
                parts["class"] -= weight * logits[query].log_softmax(-1)[class_id].item()
            else:
                for index, p in enumerate(logits[query].sigmoid().tolist()):
                    t = overlap if index == class_id else 0.0
                    weight = overlap if index == class_id else 0.75 * p**2
                    entropy = functional.binary_cross_entropy(torch.tensor(p), torch.tensor(t)).item()
                    parts["class"] += weight * entropy / num_boxes
    if scoring == "softmax":
        parts["class"] /= weight_sum
    return parts


CONFIGS = {"softmax": DETR_LOSS, "sigmoid": SetLossConfig()}


@pytest.mark.parametrize("scoring", CONFIGS)
@pytest.mark.parametrize("counts", [(2, 0, 3), (0, 0, 0), (1, 1, 1)])
def test_one_layer_by_hand(scoring, counts):
    output, targets = some_output(scoring), some_targets(*counts)
    losses = SetLoss(CONFIGS[scoring])(output, targets)
    expected = loss_by_hand(QueryPredictions(output.logits, output.boxes_cxcywh_norm), targets, scoring)
    assert {name: loss.item() for name, loss in losses.items() if name != "total"} == pytest.approx(expected, rel=1e-4)
    assert losses["total"].item() == pytest.approx(sum(expected.values()), rel=1e-4)


@pytest.mark.parametrize("scoring", CONFIGS)
def test_auxiliary_layers_are_matched_each_by_itself(scoring):
    output, targets = some_output(scoring, num_auxiliary=2), some_targets(2, 0, 3)
    losses = SetLoss(CONFIGS[scoring])(output, targets)
    expected = sum(sum(loss_by_hand(layer, targets, scoring).values()) for layer in output.auxiliary)
    assert losses["auxiliary"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["total"].item() == pytest.approx(sum(losses[name].item() for name in losses if name != "total"))


def peer_targets(targets: list[BoxTargets]) -> list[dict[str, Tensor]]:
    return [{"class_labels": target.class_ids, "boxes": norm_boxes(target)} for target in targets]


def test_the_loss_of_detr_is_that_of_the_transformers_library():
    peer = pytest.importorskip("transformers.loss.loss_for_object_detection")
    output, targets = some_output("softmax", num_auxiliary=1), some_targets(2, 0, 3)
    losses = SetLoss(DETR_LOSS)(output, targets)
    criterion = peer.ImageLoss(peer.HungarianMatcher(1, 5, 2), NUM_CLASSES, 0.1, ["labels", "boxes"])
    layers = [{"logits": layer.logits, "pred_boxes": layer.boxes_cxcywh_norm} for layer in (output, *output.auxiliary)]
    theirs = criterion({**layers[0], "auxiliary_outputs": layers[1:]}, peer_targets(targets))
    weights = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}
    expected = sum(weights[name.removesuffix("_0")] * loss.item() for name, loss in theirs.items())
    assert losses["class"].item() == pytest.approx(theirs["loss_ce"].item(), rel=1e-5)
    assert losses["total"].item() == pytest.approx(expected, rel=1e-5)


def test_smooth_labels_of_detr_are_spread_over_all_classes():
    output, targets = some_output("softmax"), some_targets(2, 0, 3)
    plain, smooth = (
        SetLoss(DETR_LOSS.model_copy(update={"label_smoothing": amount})).match(output, targets) for amount in (0, 0.3)
    )
    assert torch.equal(plain.matches[0].query_index, smooth.matches[0].query_index)
    losses = [SetLoss(DETR_LOSS.model_copy(update={"label_smoothing": a}))(output, targets) for a in (0.0, 0.15, 0.3)]
    values = [loss["class"].item() for loss in losses]
    assert values[1] == pytest.approx((values[0] + values[2]) / 2, rel=1e-5)  # linear in the amount
    assert values[0] != pytest.approx(values[2], rel=1e-3)
    assert losses[0]["giou"] == losses[2]["giou"]


def denoising(num_groups: int = 2) -> DenoisingPredictions:
    """Two layers; images of 2, 0 and 3 objects, each object once right and once wrong in each group of 6 queries."""
    index = torch.full((3, 6 * num_groups), -1)
    for group in range(num_groups):
        index[0, 6 * group : 6 * group + 2] = torch.arange(2)
        index[2, 6 * group : 6 * group + 3] = torch.arange(3)
    layers = tuple(some_predictions(seed, "sigmoid", num_queries=6 * num_groups) for seed in (10, 11))
    return DenoisingPredictions(layers, index, num_groups)


def test_the_loss_of_rt_detr_is_that_of_the_transformers_library():
    peer = pytest.importorskip("transformers.loss.loss_rt_detr")
    output, targets = some_output("sigmoid", 2, denoising()), some_targets(2, 0, 3)
    losses = SetLoss()(output, targets)
    config = SimpleNamespace(
        matcher_class_cost=2, matcher_bbox_cost=5, matcher_giou_cost=2, use_focal_loss=True, matcher_alpha=0.25,
        matcher_gamma=2, num_labels=NUM_CLASSES, weight_loss_vfl=1, weight_loss_bbox=5, weight_loss_giou=2,
        eos_coefficient=1e-4, focal_loss_alpha=0.75, focal_loss_gamma=2,
    )  # fmt: skip
    assert output.denoising is not None
    layers, disturbed = (
        [{"logits": layer.logits, "pred_boxes": layer.boxes_cxcywh_norm} for layer in each]
        for each in ((output, *output.auxiliary), output.denoising.layers)
    )
    positives = tuple((row >= 0).nonzero()[:, 0] for row in output.denoising.target_index)
    theirs = peer.RTDetrLoss(config)(
        {
            **layers[0],
            "auxiliary_outputs": layers[1:],
            "dn_auxiliary_outputs": disturbed,
            "denoising_meta_values": {"dn_positive_idx": positives, "dn_num_group": output.denoising.num_groups},
        },
        peer_targets(targets),
    )
    assert losses["denoising"].item() == pytest.approx(
        sum(theirs[key].item() for key in theirs if "_dn" in key), rel=1e-5
    )
    assert losses["total"].item() == pytest.approx(sum(loss.item() for loss in theirs.values()), rel=1e-5)


def test_denoising_queries_know_their_objects():
    targets = some_targets(2, 0, 3)
    matched = SetLoss().match(some_output("sigmoid"), targets)
    matches = denoising_matches(denoising(), matched.targets)
    assert matches.image_index.tolist() == [0] * 4 + [2] * 6
    assert matches.query_index.tolist() == [0, 1, 6, 7, 0, 1, 2, 6, 7, 8]
    assert matches.target_index.tolist() == [0, 1, 0, 1, 2, 3, 4, 2, 3, 4]


def test_perfect_predictions_cost_nothing_but_no_object():
    targets = some_targets(2, 1)
    logits = torch.full((2, 4, NUM_CLASSES), -20.0)
    boxes = torch.full((2, 4, 4), 0.5)
    for image, target in enumerate(targets):
        boxes[image, : len(target)] = norm_boxes(target)
        logits[image, range(len(target)), target.class_ids] = 20.0
    losses = SetLoss()(QueryOutput(logits, boxes, "sigmoid", INPUT_HW), targets)
    assert losses["total"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("scoring", CONFIGS)
def test_half_precision_predictions_give_a_loss_in_single(scoring):
    single, targets = some_output(scoring, 1), some_targets(2, 0, 3)
    auxiliary = tuple(
        QueryPredictions(layer.logits.bfloat16(), layer.boxes_cxcywh_norm.bfloat16()) for layer in single.auxiliary
    )
    half = QueryOutput(single.logits.bfloat16(), single.boxes_cxcywh_norm.bfloat16(), scoring, INPUT_HW, auxiliary)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = SetLoss(CONFIGS[scoring])(half, targets)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["total"].item() == pytest.approx(SetLoss(CONFIGS[scoring])(single, targets)["total"].item(), rel=0.05)


@pytest.mark.parametrize("scoring", CONFIGS)
def test_slopes_are_those_of_finite_differences(scoring):
    """With the matching held: it is piecewise constant, and varifocal weights are constants by definition."""
    output, targets = some_output(scoring), some_targets(1, 0, 2)
    loss = SetLoss(CONFIGS[scoring])
    matched = loss.match(output, targets)
    [matches] = matched.matches
    wanted = replace(matched.targets, boxes_cxcywh_norm=matched.targets.boxes_cxcywh_norm.double())
    one = torch.ones((), dtype=torch.float64)
    boxes = output.boxes_cxcywh_norm.detach().double()

    def box_loss(boxes: Tensor) -> Tensor:
        return sum(loss.box_losses(QueryPredictions(output.logits, boxes), matches, wanted, one).values(), one)

    assert torch.autograd.gradcheck(box_loss, boxes.requires_grad_())
    if scoring == "softmax":
        logits = output.logits.detach().double().requires_grad_()
        layer = lambda logits: QueryPredictions(logits, output.boxes_cxcywh_norm)  # noqa: E731
        matched = replace(matched, targets=wanted)
        assert torch.autograd.gradcheck(lambda logits: loss.class_loss(layer(logits), matches, matched, one), logits)


@pytest.mark.parametrize("scoring", CONFIGS)
@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 0, 3), (9, 0, 1)])
def test_every_query_learns_its_class_whatever_the_images_hold(scoring, counts):
    output = some_output(scoring, 1)
    SetLoss(CONFIGS[scoring])(output, some_targets(*counts))["total"].backward()
    for layer in (output, *output.auxiliary):
        assert layer.logits.grad is not None
        assert layer.logits.grad.isfinite().all()
        assert (layer.logits.grad != 0).any(dim=-1).all()
        assert layer.boxes_cxcywh_norm.grad is not None
        assert layer.boxes_cxcywh_norm.grad.isfinite().all()


@pytest.mark.parametrize("scoring", CONFIGS)
def test_unmatched_queries_in_ignored_regions_have_no_loss(scoring):
    num_logits = NUM_CLASSES + (scoring == "softmax")
    logits = torch.zeros(1, 4, num_logits, requires_grad=True)
    region = torch.tensor([[0.0, 0.0, 32.0, 64.0]])  # the left quarter of the input
    boxes = torch.tensor([
        [0.10, 0.5, 0.1, 0.5],  # inside, matched
        [0.15, 0.5, 0.1, 0.5],  # inside
        [0.24, 0.5, 0.1, 0.5],  # 60 % inside
        [0.26, 0.5, 0.1, 0.5],  # 40 % inside
    ])[None]  # fmt: skip
    wanted = cxcywh_to_xyxy(boxes[0, :1]) * torch.tensor([128.0, 64, 128, 64])
    targets = [BoxTargets(wanted, torch.tensor([1]), region)]
    SetLoss(CONFIGS[scoring])(QueryOutput(logits, boxes, scoring, INPUT_HW), targets)["total"].backward()
    assert logits.grad is not None
    assert (logits.grad[0] != 0).any(dim=-1).tolist() == [True, False, False, True]


def test_cross_entropy_with_every_query_ignored_is_zero():
    logits = torch.zeros(1, 2, NUM_CLASSES + 1, requires_grad=True)
    boxes = torch.tensor([0.5, 0.5, 0.1, 0.1]).expand(1, 2, 4)
    everywhere = torch.tensor([[0.0, 0.0, 128.0, 64.0]])
    targets = [BoxTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), everywhere)]
    losses = SetLoss(DETR_LOSS)(QueryOutput(logits, boxes, "softmax", INPUT_HW), targets)
    assert losses["class"].item() == 0


def test_the_order_of_the_objects_does_not_matter():
    output, targets = some_output("sigmoid"), some_targets(2, 0, 3)
    turned = [BoxTargets(target.boxes_xyxy.flip(0), target.class_ids.flip(0)) for target in targets]
    torch.testing.assert_close(SetLoss()(output, targets)["total"], SetLoss()(output, turned)["total"])


def test_the_number_of_objects_is_at_least_one():
    assert [average_count(count, torch.device("cpu")).item() for count in (0, 1, 7)] == [1, 1, 7]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="targets for 3 images, got 1"):
        SetLoss()(some_output("sigmoid"), some_targets(2))
    with pytest.raises(ValueError, match="varifocal needs a head that scores by sigmoid, got softmax"):
        SetLoss()(some_output("softmax"), some_targets(2, 0, 3))


def test_a_worked_example():
    """28.2.7: focal loss 0.009 for p = 0.8, and 5 x 0.2 + 2 x 0.009 = 1.018. DETR itself has cross entropy, 0.223."""
    focal = -((1 - 0.8) ** 2) * torch.tensor(0.8).log().item()
    assert focal == pytest.approx(0.009, abs=1e-4)
    assert 5 * 0.2 + 2 * focal == pytest.approx(1.018, abs=1e-3)
    box = torch.tensor([0.4, 0.4, 0.3, 0.3])
    wanted = cxcywh_to_xyxy(box * torch.tensor([1, 1, 1, 0.8])) * torch.tensor([128.0, 64, 128, 64])
    config = SetLossConfig(classification="cross_entropy", giou_weight=5, l1_weight=0, matching=DETR_LOSS.matching)
    output = QueryOutput(torch.tensor([[[0.1, 0.8, 0.1]]]).log(), box.view(1, 1, 4), "softmax", INPUT_HW)
    losses = SetLoss(config)(output, [BoxTargets(wanted[None], torch.tensor([1]))])
    assert losses["giou"].item() == pytest.approx(5 * 0.2, rel=1e-4)
    assert losses["class"].item() == pytest.approx(0.223, abs=1e-3)

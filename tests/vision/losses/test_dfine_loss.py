"""The two parts that D-FINE adds to the loss: by hand, by their minima, and against the transformers library."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from handeye.vision.assignment.hungarian import BatchTargets, Matches
from handeye.vision.boxes.formats import cxcywh_to_xyxy, norm_to_pixels
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.dfine import DfineHeadConfig, DfineOutput, EdgePredictions
from handeye.vision.heads.outputs import DenoisingPredictions, QueryOutput, QueryPredictions
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.layers.distribution import EdgeBins, WeightingFunction
from handeye.vision.losses.build import build_loss
from handeye.vision.losses.dfine_loss import (
    DfineLoss,
    DfineLossConfig,
    distillation_loss,
    localisation_loss,
    union_of_matches,
)
from handeye.vision.losses.set_loss import SetLossConfig

INPUT_HW, NUM_CLASSES, NUM_QUERIES = (64, 128), 3, 7
ONLY_EDGES = DfineLossConfig(set_loss=SetLossConfig(class_weight=0, l1_weight=0, giou_weight=0))


@pytest.fixture(scope="module")
def bins() -> EdgeBins:
    return WeightingFunction(33, 0.5, 4.0)()


def edge_predictions(seed: int, bins: EdgeBins, references: Tensor) -> EdgePredictions:
    generator = torch.Generator().manual_seed(seed)
    edge_logits = torch.randn(*references.shape[:2], 132, generator=generator).requires_grad_()
    logits = torch.randn(*references.shape[:2], NUM_CLASSES, generator=generator).requires_grad_()
    boxes = bins.decode(bins.expected_distances(edge_logits), references)
    return EdgePredictions(logits, boxes, edge_logits, references)


def targets_of(boxes_norm: Tensor) -> list[BoxTargets]:
    """One object of class 1 in the first image, none in the second."""
    boxes = norm_to_pixels(cxcywh_to_xyxy(boxes_norm), INPUT_HW)
    return [BoxTargets(boxes, torch.ones(len(boxes), dtype=torch.int64)), BoxTargets.empty()]


def some_output(bins: EdgeBins, num_layers: int = 3, denoising: DenoisingPredictions | None = None) -> DfineOutput:
    generator = torch.Generator().manual_seed(9)
    references = 0.2 + 0.3 * torch.rand(2, NUM_QUERIES, 4, generator=generator)
    *before, last = (edge_predictions(seed, bins, references) for seed in range(num_layers))
    initial = QueryPredictions(last.logits.detach(), references)
    return DfineOutput(
        last.logits,
        last.boxes_cxcywh_norm,
        "sigmoid",
        INPUT_HW,
        layers=tuple(before),
        denoising=denoising,
        initial=initial,
        final=last,
        bins=bins,
    )


def test_localisation_is_the_cross_entropy_of_the_two_bins_around_the_distance(bins):
    torch.manual_seed(0)
    logits, distances = torch.randn(5, 132), 6 * torch.rand(5, 4) - 3
    below, share = bins.soft_labels(distances)
    soft = functional.one_hot(below, 33) * (1 - share[..., None]) + functional.one_hot(below + 1, 33) * share[..., None]
    torch.testing.assert_close(soft.sum(dim=-1), torch.ones(5, 4))
    torch.testing.assert_close(soft @ bins.values, distances)
    expected = functional.cross_entropy(logits.view(20, 33), soft.view(20, 33), reduction="none").view(5, 4)
    torch.testing.assert_close(localisation_loss(logits, distances, bins), expected)


def test_localisation_pulls_the_expected_distance_to_the_true_one(bins):
    logits = torch.zeros(1, 132, requires_grad=True)
    distances = torch.tensor([[-3.2, -0.05, 0.7, 2.9]])
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        localisation_loss(logits, distances, bins).sum().backward()
        optimizer.step()
    torch.testing.assert_close(bins.expected_distances(logits.detach()), distances, rtol=0, atol=0.02)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    torch.manual_seed(0)
    logits = torch.randn(3, 132)
    assert distillation_loss(logits, logits, 5.0).abs().max() < 1e-5
    assert distillation_loss(logits, logits + 3.0, 5.0).abs().max() < 1e-4, "a constant changes no distribution"
    assert (distillation_loss(logits, torch.randn(3, 132), 5.0) > 0.01).all()


def test_distillation_is_torchs_divergence_and_the_teacher_does_not_learn():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 132, requires_grad=True), torch.randn(2, 3, 132, requires_grad=True)
    losses = distillation_loss(student, teacher, 2.0)
    log_student = (student.view(2, 3, 4, 33) / 2).log_softmax(-1)
    expected = 4 * functional.kl_div(log_student, (teacher.view(2, 3, 4, 33) / 2).softmax(-1), reduction="none")
    torch.testing.assert_close(losses, expected.sum(dim=-1))
    losses.sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_the_union_gives_each_query_the_object_that_most_layers_gave_it():
    torch.manual_seed(0)
    targets = [BoxTargets(torch.rand(count, 4), torch.zeros(count, dtype=torch.int64)) for count in (3, 0, 4)]
    batch = BatchTargets.of(targets, INPUT_HW)
    starts, layers = (0, 3, 3), []
    for _ in range(5):
        pairs = [
            (image, query, starts[image] + place)
            for image, count in enumerate((3, 0, 4))
            for place, query in enumerate(torch.randperm(6)[:count].tolist())
        ]
        layers.append(Matches(*torch.tensor(pairs).unbind(dim=1)))
    union = union_of_matches(layers, batch, 6)
    votes: dict[tuple[int, int], Counter] = {}
    for layer in layers:
        for image, query, target in zip(layer.image_index, layer.query_index, layer.target_index, strict=True):
            votes.setdefault((int(image), int(query)), Counter())[int(target)] += 1
    found = {
        (int(i), int(q)): int(t)
        for i, q, t in zip(union.image_index, union.query_index, union.target_index, strict=True)
    }
    assert found.keys() == votes.keys()
    assert len(found) == len(union) > 7, "some queries must have been matched in some layers only"
    for place, target in found.items():
        assert votes[place][target] == max(votes[place].values())
        assert target == min(each for each, count in votes[place].items() if count == votes[place][target])


def test_the_parts_are_what_is_added_up(bins):
    output = some_output(bins)
    losses = DfineLoss()(output, targets_of(torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.5, 0.2, 0.4]])))
    assert set(losses) == {"total", "class", "l1", "giou", "edges", "auxiliary", "distillation"}
    torch.testing.assert_close(losses["total"], sum(value for name, value in losses.items() if name != "total"))
    losses["total"].backward()
    assert output.final is not None
    for layer in (output.final, *output.layers):
        assert isinstance(layer, EdgePredictions)
        assert layer.edge_logits.grad is not None
        assert layer.edge_logits.grad.isfinite().all()


def test_edges_and_distillation_by_a_plain_loop(bins):
    output = some_output(bins, num_layers=2)
    wanted = torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.5, 0.2, 0.4]])
    loss = DfineLoss(ONLY_EDGES)
    losses = loss(output, targets_of(wanted))
    matches = union_of_matches(
        loss.match(output, targets_of(wanted)).matches, BatchTargets.of(targets_of(wanted), INPUT_HW), NUM_QUERIES
    )
    pairs = {int(query): int(target) for query, target in zip(matches.query_index, matches.target_index, strict=True)}
    edges = output.final
    student = output.layers[0]
    assert isinstance(edges, EdgePredictions)
    assert isinstance(student, EdgePredictions)
    located, taught, others = 0.0, [], []
    for image in range(2):
        for query in range(NUM_QUERIES):
            kl = distillation_loss(student.edge_logits[image, query], edges.edge_logits[image, query], 5.0)
            if image == 0 and query in pairs:
                target = wanted[pairs[query]]
                distances = bins.encode(target, edges.references_cxcywh_norm[image, query])
                fgl = localisation_loss(edges.edge_logits[image, query][None], distances[None], bins)
                located += float(fgl.sum() * iou(edges.boxes_cxcywh_norm[image, query], target)) / len(pairs)
                taught.append(kl * iou(student.boxes_cxcywh_norm[image, query], target))
            else:
                others.append(kl * edges.logits[image, query].sigmoid().max())
    assert float(losses["edges"]) == pytest.approx(0.15 * located, rel=1e-4)
    roots = math.sqrt(len(taught)), math.sqrt(len(others))
    means = [float(torch.stack(values).mean()) for values in (taught, others)]
    expected = (means[0] * roots[0] + means[1] * roots[1]) / sum(roots)
    assert float(losses["distillation"]) == pytest.approx(1.5 * expected, rel=1e-4)


def iou(first: Tensor, second: Tensor) -> Tensor:
    a, b = cxcywh_to_xyxy(first.detach()), cxcywh_to_xyxy(second)
    shared = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    return shared / (first.detach()[2:].prod() + second[2:].prod() - shared)


def test_transformers_computes_the_same_of_one_layer(bins):
    """Its class for this loss, given the same matching: FGL and DDF of one layer that learns from another."""
    transformers = pytest.importorskip("transformers", reason="the second opinion, transformers, is not installed")
    from transformers.loss.loss_d_fine import DFineLoss

    wanted = torch.tensor([[0.4, 0.4, 0.3, 0.3], [0.6, 0.5, 0.2, 0.4]])
    output, targets = some_output(bins, num_layers=2), targets_of(wanted)
    loss = DfineLoss(ONLY_EDGES)
    matched = loss.match(output, targets)
    union = union_of_matches(matched.matches, matched.targets, NUM_QUERIES)
    student, teacher = output.layers[0], output.final
    assert isinstance(student, EdgePredictions)
    assert teacher is not None
    theirs = DFineLoss(transformers.DFineConfig(num_labels=NUM_CLASSES)).loss_local(
        {
            "pred_corners": student.edge_logits,
            "ref_points": student.references_cxcywh_norm,
            "pred_boxes": student.boxes_cxcywh_norm,
            "teacher_corners": teacher.edge_logits,
            "teacher_logits": teacher.logits.detach().clone(),
        },
        [{"boxes": wanted}, {"boxes": wanted[:0]}],
        [(union.query_index, union.target_index), (union.query_index[:0], union.target_index[:0])],
        len(union),
    )
    ours = loss(output, targets)
    torch.testing.assert_close(ours["auxiliary"], 0.15 * theirs["loss_fgl"])
    torch.testing.assert_close(ours["distillation"], 1.5 * theirs["loss_ddf"])


def test_denoising_layers_learn_from_the_last_of_them(bins):
    references = torch.full((2, 2, 4), 0.4)
    *_, last = layers = [edge_predictions(seed, bins, references) for seed in (20, 21)]
    index = torch.tensor([[0, -1], [-1, -1]])
    targets = targets_of(torch.tensor([[0.4, 0.4, 0.3, 0.3]]))

    def losses_of(*said: QueryPredictions) -> dict[str, Tensor]:
        return DfineLoss()(some_output(bins, 1, DenoisingPredictions(said, index, 1)), targets)

    alone, same, both = losses_of(last), losses_of(last, last), losses_of(*layers)
    assert alone["distillation"] == 0
    assert same["distillation"].abs() < 1e-5
    assert both["distillation"] > 0.01
    torch.testing.assert_close(same["denoising"], 2 * alone["denoising"])


def test_images_without_objects_give_finite_losses_and_slopes(bins):
    output = some_output(bins)
    losses = DfineLoss()(output, [BoxTargets.empty()] * 2)
    losses["total"].backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["edges"] == losses["l1"] == 0
    assert losses["distillation"] > 0


def test_an_output_without_distributions_is_refused(bins):
    output = some_output(bins)
    plain = QueryOutput(output.logits, output.boxes_cxcywh_norm, "sigmoid", INPUT_HW)
    with pytest.raises(ValueError, match="call the detector with targets"):
        DfineLoss()(plain, [BoxTargets.empty()] * 2)


def test_it_is_the_loss_of_its_head_and_of_no_other():
    assert isinstance(build_loss(None, DfineHeadConfig()), DfineLoss)
    with pytest.raises(ConfigError, match="takes the loss"):
        build_loss(DfineLossConfig(), YoloxHeadConfig())
    config = validate_config(DfineLossConfig, {"edge_weight": 0.3}, origin="test")
    assert (config.edge_weight, config.distillation_weight) == (0.3, 1.5)

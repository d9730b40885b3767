"""D-FINE's head: what its parts compute, what targets add, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.boxes.formats import pixels_to_norm, xyxy_to_cxcywh
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.heads.dfine import DfineHead, DfineHeadConfig, DfineOutput, EdgePredictions
from handeye.vision.images import Preprocessing
from handeye.vision.layers.distribution import LocalisationQuality
from handeye.vision.layers.transformer import Gateway
from handeye.vision.losses.dfine_loss import DfineLoss
from handeye.vision.necks.hybrid_encoder import HybridEncoderConfig

SMALL = DfineHeadConfig(
    num_queries=12, hidden_dim=16, num_heads=2, num_decoder_layers=3, feed_forward_dim=24, num_denoising=6
)
TARGETS = [
    BoxTargets(torch.tensor([[4.0, 4.0, 20.0, 30.0], [30.0, 10.0, 60.0, 40.0]]), torch.tensor([0, 2])),
    BoxTargets.empty(),
]


def lively_head(config: DfineHeadConfig, channels: tuple[int, ...]) -> DfineHead:
    """In eval mode, with predictors that say something."""
    torch.manual_seed(0)
    strides = tuple(8 << level for level in range(len(channels)))
    head = DfineHead(config, channels, strides, num_classes=3).eval()
    for name, weight in head.named_parameters():
        if "predict" in name or "quality" in name or "gate." in name:
            nn.init.normal_(weight, std=0.3)
    return head


def pyramid_of(channels: tuple[int, ...], size_hw: tuple[int, int] = (8, 12)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, width, size_hw[0] >> level, size_hw[1] >> level, generator=generator)
        for level, width in enumerate(channels)
    ]


@pytest.mark.parametrize("channels", [(5,), (16, 7), (4, 16, 6), (3, 4, 5, 6)])
def test_any_pyramid_will_do(channels):
    head = lively_head(SMALL, channels)
    output = head(pyramid_of(channels))
    assert output.logits.shape == (2, 12, 3)
    assert output.boxes_cxcywh_norm.shape == (2, 12, 4)
    assert output.input_hw == (64, 96)
    assert (output.scoring, output.auxiliary, output.denoising) == ("sigmoid", (), None)
    # A level that has the width already is taken as it is.
    assert [isinstance(project, nn.Identity) for project in head.project] == [width == 16 for width in channels]


def test_points_of_other_levels_are_refused():
    with pytest.raises(ConfigError, match=r"head\.points_per_level has 2 numbers for the 3 levels"):
        DfineHead(SMALL.model_copy(update={"points_per_level": (3, 3)}), (4, 4, 4), (8, 16, 32), 3)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        DfineHeadConfig(hidden_dim=20, num_heads=8)


@pytest.mark.parametrize("num_denoising", [0, 6])
def test_targets_add_what_is_learnt_from_and_change_nothing_else(num_denoising):
    head = lively_head(SMALL.model_copy(update={"num_denoising": num_denoising}), (4, 6))
    pyramid = pyramid_of((4, 6))
    plain, taught = head(pyramid), head(pyramid, TARGETS)
    torch.testing.assert_close(taught.logits, plain.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(taught.boxes_cxcywh_norm, plain.boxes_cxcywh_norm, rtol=0, atol=1e-5)
    assert [isinstance(layer, EdgePredictions) for layer in taught.layers] == [True, True]
    assert taught.auxiliary == (*taught.layers, taught.initial, taught.encoder)
    assert {tuple(layer.logits.shape) for layer in taught.auxiliary} == {(2, 12, 3)}
    assert (taught.denoising is None) == (num_denoising == 0)
    if taught.denoising is not None:
        assert [isinstance(layer, EdgePredictions) for layer in taught.denoising.layers] == [True, True, True]
        assert taught.denoising.supervised == (taught.denoising.initial, *taught.denoising.layers)
        num = taught.denoising.target_index.shape[1]
        assert all(each.boxes_cxcywh_norm.shape == (2, num, 4) for each in taught.denoising.supervised)


def test_the_noise_of_the_denoising_queries_is_that_of_the_configuration():
    noise = {"label_noise": 0.0, "box_noise": 0.0}
    head = lively_head(SMALL.model_copy(update=noise), (4, 6))
    assert head.denoising is not None
    queries = head.denoising(TARGETS[:1], (64, 96))
    restored = queries.target_index[0] >= 0
    boxes = pixels_to_norm(xyxy_to_cxcywh(TARGETS[0].boxes_xyxy), (64, 96))
    expected = boxes[queries.target_index[0, restored]]
    torch.testing.assert_close(queries.box_logits[0, restored].sigmoid(), expected, rtol=0, atol=1e-5)


def test_every_layer_corrects_the_first_box_by_all_it_has_learnt_so_far():
    output = lively_head(SMALL, (4, 6))(pyramid_of((4, 6)), TARGETS)
    assert isinstance(output, DfineOutput)
    assert output.final is not None
    assert output.initial is not None
    assert output.bins is not None
    initial = output.initial.boxes_cxcywh_norm
    previous = torch.zeros(())
    for layer in (*output.layers, output.final):
        assert isinstance(layer, EdgePredictions)
        torch.testing.assert_close(layer.references_cxcywh_norm, initial)
        distances = output.bins.expected_distances(layer.edge_logits)
        torch.testing.assert_close(layer.boxes_cxcywh_norm, output.bins.decode(distances, initial))
        assert not torch.equal(layer.edge_logits, previous)
        previous = layer.edge_logits


def test_no_slope_goes_through_boxes_from_one_layer_to_the_next():
    head = lively_head(SMALL, (4, 6))
    head(pyramid_of((4, 6)), TARGETS).boxes_cxcywh_norm.sum().backward()
    assert all(weight.grad is None for weight in head.predict_first_box.parameters())
    assert all(weight.grad is not None for weight in head.predict_edges.parameters()), "their logits add up"
    assert not head.weighting.bound.requires_grad


def test_a_fresh_head_leaves_the_boxes_of_the_cells_as_they_are():
    torch.manual_seed(0)
    output = DfineHead(SMALL, (4, 6), (8, 16), 3).eval()(pyramid_of((4, 6)), TARGETS)
    for each in (*output.layers, output.initial):
        torch.testing.assert_close(each.boxes_cxcywh_norm, output.encoder.boxes_cxcywh_norm, rtol=0, atol=1e-4)


def test_a_fresh_gate_lets_half_of_both_through():
    queries, found = torch.randn(2, 2, 3, 8)
    gateway = Gateway(8)
    torch.testing.assert_close(gateway(queries, found), functional.layer_norm((queries + found) / 2, (8,)))
    nn.init.constant_(gateway.gate.bias[:8], 50.0)
    nn.init.constant_(gateway.gate.bias[8:], -50.0)
    torch.testing.assert_close(gateway(queries, found), functional.layer_norm(queries, (8,)))


def test_quality_knows_sharp_edges_from_blurred_ones_and_not_where_they_lie():
    torch.manual_seed(0)
    quality = LocalisationQuality()
    logits = torch.randn(2, 3, 4, 33)
    assert quality(logits.flatten(2)).abs().max() == 0, "nothing is known at first"
    nn.init.normal_(quality.judge[2].weight)
    shuffled = logits[..., torch.randperm(33)]
    torch.testing.assert_close(quality(shuffled.flatten(2)), quality(logits.flatten(2)))
    assert (quality(5 * logits.flatten(2)) - quality(logits.flatten(2))).abs().min() > 1e-3


def test_attention_is_shown_on_the_finest_cells():
    head = lively_head(SMALL, (4, 6))
    maps = head.attention_maps(pyramid_of((4, 6)))
    assert maps.shape == (2, 12, 8, 12)
    assert maps.min() >= 0
    assert maps.sum(dim=(2, 3)).max() <= 1 + 1e-5
    assert maps.sum(dim=(2, 3)).mean() > 0.3


@pytest.mark.slow
def test_a_small_network_learns_four_images_by_heart():
    torch.manual_seed(0)
    config = DetectorConfig(
        backbone=CSPDarknetConfig(width=0.125),
        neck=HybridEncoderConfig(
            blocks="dfine", hidden_dim=32, num_heads=4, feed_forward_dim=48, expansion=0.5, depth=0.34
        ),
        head=SMALL.model_copy(update={"hidden_dim": 32, "num_queries": 20, "num_heads": 4, "feed_forward_dim": 48}),
        num_classes=2,
        class_names=("dark", "bright"),
        preprocessing=Preprocessing(size_hw=(96, 96)),
    )
    detector, loss = Detector(config).train(), DfineLoss()
    images, targets = squares()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for _ in range(150):
        losses = loss(detector(images, targets), targets)
        optimizer.zero_grad()
        losses["total"].backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        history.append((float(losses["total"].detach()), float((losses["l1"] + losses["giou"]).detach())))
    (total, boxes), (last_total, last_boxes) = (torch.tensor(part).mean(dim=0) for part in (history[:5], history[-5:]))
    # What remains is what soft labels leave open, and what the noise of the disturbed objects hides.
    assert last_total < 0.5 * total
    assert last_boxes < 0.25 * boxes


def squares() -> tuple[torch.Tensor, list[BoxTargets]]:
    """Four grey images with a dark and a bright square each."""
    images, targets = torch.full((4, 3, 96, 96), 114.0), []
    for index, (x, y) in enumerate([(8, 8), (40, 16), (16, 48), (56, 40)]):
        boxes = [(x, y, x + 24, y + 24), (88 - x, 88 - y, 92 - x + 4, 92 - y + 4)]
        for value, (left, top, right, bottom) in zip((0.0, 255.0), boxes, strict=True):
            images[index, :, top:bottom, left:right] = value
        targets.append(BoxTargets(torch.tensor(boxes, dtype=torch.float32), torch.tensor([0, 1])))
    return images, targets

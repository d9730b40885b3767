"""The RT-DETR head: transformers' implementation as second opinion, what training adds, sizes, pictures, numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.checkpoints.published import key_maps_of
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import build_head
from handeye.vision.heads.outputs import QueryOutput
from handeye.vision.heads.rtdetr import RtdetrHead, RtdetrHeadConfig

SMALL = RtdetrHeadConfig(
    num_queries=20, hidden_dim=16, num_heads=2, num_decoder_layers=3, feed_forward_dim=24, num_denoising=6
)
CHANNELS, STRIDES = (6, 10), (16, 32)
TARGETS = [
    BoxTargets(torch.tensor([[10.0, 20.0, 60.0, 90.0], [100.0, 0.0, 160.0, 40.0]]), torch.tensor([0, 2])),
    BoxTargets.empty(),
]


def small_head(seed: int = 0, **changes) -> RtdetrHead:
    torch.manual_seed(seed)
    head = build_head(SMALL.model_copy(update=changes), CHANNELS, STRIDES, 3)
    assert isinstance(head, RtdetrHead)
    for parameter in head.parameters():  # a fresh head corrects no box and looks at all points alike
        nn.init.normal_(parameter, std=0.3)
    return head.eval()


def pyramid_of(height: int, width: int, num_images: int = 2, seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [
        torch.randn(num_images, channels, height // stride, width // stride)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]


def small_detector_config(version: int, num_denoising: int = 100) -> DetectorConfig:
    content = {
        "backbone": {"kind": "resnet", "depth": 18, "variant": "vd"},
        "neck": {"kind": "hybrid_encoder", "hidden_dim": 32, "feed_forward_dim": 40, "num_heads": 4, "expansion": 0.5},
        "head": SMALL.model_dump() | {"version": version, "hidden_dim": 32, "num_denoising": num_denoising},
        "num_classes": 5,
    }
    return validate_config(DetectorConfig, content, origin="test")


def test_the_output_is_of_queries_in_fractions_of_the_input():
    output = small_head()(pyramid_of(96, 160))
    assert output.logits.shape == (2, 20, 3)
    assert output.boxes_cxcywh_norm.shape == (2, 20, 4)
    assert output.scoring == "sigmoid"
    assert output.input_hw == (96, 160)
    assert (output.auxiliary, output.denoising) == ((), None)


@pytest.mark.parametrize("num_layers_in_use", [1, 2, 3])
def test_training_says_the_same_and_more(num_layers_in_use):
    head = small_head(num_layers_in_use=num_layers_in_use)
    pyramid = pyramid_of(96, 160)
    in_use, learning = head(pyramid), head(pyramid, TARGETS)
    torch.testing.assert_close(learning.logits, in_use.logits)
    torch.testing.assert_close(learning.boxes_cxcywh_norm, in_use.boxes_cxcywh_norm)
    assert len(learning.layers) == 2
    assert learning.auxiliary == (*learning.layers, learning.encoder)
    assert learning.denoising is not None
    assert len(learning.denoising.layers) == 3
    assert learning.denoising.num_groups == 3
    assert learning.denoising.layers[0].logits.shape == (2, 12, 3)
    assert learning.denoising.target_index[0].tolist() == [0, 1, -1, -1] * 3


def test_denoising_does_not_leak_into_what_searches_nor_between_groups():
    head, pyramid = small_head(), pyramid_of(96, 160)
    torch.manual_seed(0)
    first = head(pyramid, TARGETS)
    other = [BoxTargets(targets.boxes_xyxy * 0.5, 2 - targets.class_ids) for targets in TARGETS]
    second = head(pyramid, other)
    assert first.denoising is not None
    assert second.denoising is not None
    assert not torch.allclose(first.denoising.layers[-1].logits, second.denoising.layers[-1].logits)
    torch.testing.assert_close(second.logits, first.logits)
    for ours, again in zip(first.auxiliary, second.auxiliary, strict=True):
        torch.testing.assert_close(again.logits, ours.logits)
        torch.testing.assert_close(again.boxes_cxcywh_norm, ours.boxes_cxcywh_norm)


def test_a_denoising_group_does_not_hear_of_another():
    head, pyramid = small_head(), pyramid_of(96, 160, num_images=1)
    assert head.denoising is not None
    queries = head.denoising(TARGETS[:1], (96, 160))
    content = queries.content.detach().requires_grad_()
    head.denoising.forward = lambda targets, input_hw: type(queries)(
        content, queries.box_logits, queries.target_index, queries.num_groups
    )
    output = head(pyramid, TARGETS[:1])
    assert output.denoising is not None
    output.denoising.layers[-1].logits[:, :4].sum().backward()
    assert content.grad is not None
    assert (content.grad[:, :4] != 0).any()
    assert (content.grad[:, 4:] == 0).all()


def test_without_denoising_a_batch_has_none_and_no_weights_for_it():
    head = small_head(num_denoising=0)
    assert head(pyramid_of(96, 160), TARGETS).denoising is None
    assert not any("denoising" in key for key in head.state_dict())


def test_every_weight_learns_even_without_objects():
    head = small_head().train()
    for targets in (TARGETS, [BoxTargets.empty(), BoxTargets.empty()]):
        head.zero_grad()
        output = head(pyramid_of(96, 160), targets)
        assert output.denoising is not None
        layers = (*output.auxiliary, *output.denoising.layers)
        parts = [output.logits, output.boxes_cxcywh_norm, *(layer.logits for layer in layers)]
        torch.cat(
            [part.flatten() for part in (*parts, *(layer.boxes_cxcywh_norm for layer in layers))]
        ).sum().backward()
        assert [name for name, weight in head.named_parameters() if weight.grad is None] == []


def test_a_layer_teaches_the_one_before_it_through_the_box_and_the_selection_learns_from_itself_alone():
    head = small_head()
    output = head(pyramid_of(96, 160))
    output.boxes_cxcywh_norm.sum().backward()
    assert head.predict_box[1][-1].weight.grad is not None
    assert head.selection.predict_box[-1].weight.grad is None
    assert head.selection.project.weight.grad is None


def test_sizes_do_not_disturb_each_other():
    head = small_head()
    first = head(pyramid_of(96, 160)).logits
    head(pyramid_of(160, 96))
    head(pyramid_of(64, 64), TARGETS)
    torch.testing.assert_close(head(pyramid_of(96, 160)).logits, first, rtol=0, atol=0)


@pytest.mark.parametrize("points_per_level", [2, (1, 3)])
def test_both_ways_of_reading_points_agree(points_per_level):
    heads = [small_head(points_per_level=points_per_level, sampling=way) for way in ("gather", "grid_sample")]
    heads[1].load_state_dict(heads[0].state_dict())
    outputs = [head(pyramid_of(96, 160)) for head in heads]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs[0].boxes_cxcywh_norm, outputs[1].boxes_cxcywh_norm, rtol=0, atol=1e-5)


def test_version_1_bounds_its_sums_to_half_precision():
    heads = [small_head(version=version) for version in (1, 2)]
    heads[1].load_state_dict(heads[0].state_dict())
    pyramid = pyramid_of(96, 160)
    torch.testing.assert_close(heads[0](pyramid).logits, heads[1](pyramid).logits)
    for head in heads:
        nn.init.constant_(head.decoder[0].feed_forward.contract.bias[:1], 1e6)
    seen: list[torch.Tensor] = []
    for head in heads:
        head.decoder[0].feed_forward_norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        head(pyramid)
    assert seen[0].max() == 65504
    assert seen[1].max() > 65504


def test_pictures_of_attention_show_where_the_queries_of_the_output_look():
    head = small_head(num_layers_in_use=2)
    pyramid = pyramid_of(96, 160)
    for parameter in head.decoder[1].cross_attention.predict_offsets.parameters():
        nn.init.zeros_(parameter)  # look at the centre of the box
    maps = head.attention_maps(pyramid)
    assert maps.shape == (2, 20, 6, 10)
    assert (maps.sum(dim=(2, 3)) <= 1 + 1e-5).all()
    states: list[torch.Tensor] = []
    head.decoder[1].register_forward_hook(lambda _, inputs, __: states.append(inputs[2]))
    head(pyramid)
    centres = states[0][..., :2] * torch.tensor([10.0, 6.0]) - 0.5
    columns, rows = torch.arange(10.0), torch.arange(6.0)
    inside = ((centres > 0) & (centres < torch.tensor([9.0, 5.0]))).all(dim=-1)
    assert inside.any()
    seen = torch.stack(((maps.sum(2) * columns).sum(-1), (maps.sum(3) * rows).sum(-1)), dim=-1)
    torch.testing.assert_close(seen[inside], centres[inside], rtol=0, atol=1e-4)


def test_a_step_of_training_is_repeatable_from_a_seed():
    head = small_head()
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(head(pyramid_of(96, 160, seed=3), TARGETS))
    torch.testing.assert_close(
        outputs[0].denoising.layers[-1].logits, outputs[1].denoising.layers[-1].logits, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hidden_dim": 18, "num_heads": 4}, "multiple of num_heads"),
        ({"num_layers_in_use": 7}, "num_layers_in_use is 7 of 6 layers"),
        ({"version": 1, "points_per_level": (3, 6, 3)}, "the same number of points in every level"),
        ({"version": 3}, "version"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        validate_config(RtdetrHeadConfig, changes, origin="test")


def test_points_for_another_number_of_levels_are_refused():
    with pytest.raises(ConfigError, match="2 numbers for the 3 levels"):
        build_head(RtdetrHeadConfig(points_per_level=(4, 4)), (8, 8, 8), (8, 16, 32), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_near(dtype):
    head, pyramid = small_head(version=1), pyramid_of(96, 160)
    full = head(pyramid)
    half = head.to(dtype)([features.to(dtype) for features in pyramid])
    assert half.logits.isfinite().all()
    assert half.boxes_cxcywh_norm.dtype == torch.float32
    # Rounding may choose other cells; most are the same.
    near = torch.cdist(full.boxes_cxcywh_norm, half.boxes_cxcywh_norm).amin(dim=-1)
    assert near.median() < 0.05


def test_the_decoder_adds_to_the_initial_box_in_logits():
    """A head that adds nothing gives the box it began with."""
    torch.manual_seed(0)
    head = build_head(SMALL, CHANNELS, STRIDES, 3).eval()
    assert isinstance(head, RtdetrHead)
    seen = []
    head.selection.register_forward_hook(lambda _, __, selected: seen.append(selected.predictions.boxes_cxcywh_norm))
    torch.testing.assert_close(head(pyramid_of(96, 160)).boxes_cxcywh_norm, seen[0])
    nn.init.constant_(head.predict_box[2][-1].bias, 0.5)
    moved = head(pyramid_of(96, 160)).boxes_cxcywh_norm
    torch.testing.assert_close(moved.logit() - seen[0].logit(), torch.full_like(moved, 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size_hw", [(128, 128), (96, 160)])
def test_transformers_computes_the_same_from_the_same_weights(version, size_hw):
    transformers = pytest.importorskip("transformers", reason="the second opinion is not installed")
    theirs = transformers_network(transformers, version)
    config = small_detector_config(version)
    detector = Detector(config).eval()
    own = detector.state_dict()
    key_map = key_maps_of(config)[1]
    weights = key_map.to_ours(theirs.state_dict(), own, origin="transformers")
    assert weights.keys() == {key for key in own if not key.endswith("num_batches_tracked")}
    detector.load_state_dict(weights, strict=False)
    torch.manual_seed(1)
    images = torch.rand(2, 3, *size_hw, dtype=torch.float64)  # random weights would make much of rounding
    with torch.no_grad():
        ours, expected = detector.double()(images), theirs.double()(images)
    assert isinstance(ours, QueryOutput)
    assert expected.logits.std() > 0.3
    for image in range(2):
        # Queries are a set: near ties may be in another order.
        order, expected_order = (
            rows.amax(dim=-1).argsort(stable=True) for rows in (ours.logits[image], expected.logits[image])
        )
        torch.testing.assert_close(ours.logits[image, order], expected.logits[image, expected_order], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            ours.boxes_cxcywh_norm[image, order], expected.pred_boxes[image, expected_order], rtol=0, atol=1e-4
        )


def transformers_network(transformers, version: int) -> nn.Module:
    """The same plan with random weights in the library's own class, its norms having seen something."""
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    kinds = {
        1: (transformers.RTDetrConfig, transformers.RTDetrForObjectDetection),
        2: (transformers.RTDetrV2Config, transformers.RTDetrV2ForObjectDetection),
    }
    config_type, network_type = kinds[version]
    config = config_type(
        backbone_config=backbone,
        num_labels=5,
        encoder_hidden_dim=32,
        encoder_in_channels=[128, 256, 512],
        encoder_ffn_dim=40,
        encoder_attention_heads=4,
        hidden_expansion=0.5,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=24,
        decoder_layers=3,
        decoder_attention_heads=2,
        num_queries=20,
        freeze_backbone_batch_norms=False,
        # Attention of the library's own, which needs no kernels.
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    network = network_type(config)
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("n_points_scale") or not value.is_floating_point():
            continue
        elif name.endswith(("norm.weight", "normalization.weight", "1.weight")):
            value.uniform_(0.8, 1.2)
        elif value.ndim < 2:
            value.normal_(std=0.1)
        else:
            value.normal_(std=(1.5 / value[0].numel()) ** 0.5)
    return network.eval()

"""D-FINE as published: recorded outputs of the authors' code, fingerprints, names in transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handeye.vision.backbones.hgnetv2 import HGNetv2Config
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.checkpoints.dfine import DFINE_KEY_MAPS, DFINE_KEYS, TRANSFORMERS_DFINE_KEYS, dfine_config
from handeye.vision.checkpoints.key_map import best_key_map
from handeye.vision.checkpoints.published import load_official, official_state_dict
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ModelFileError
from handeye.vision.heads.dfine import DfineHeadConfig, DfineOutput, EdgePredictions
from handeye.vision.heads.query_selection import SelectedQueries
from handeye.vision.necks.hybrid_encoder import HybridEncoderConfig
from handeye.vision.runtime.decode import decode_query_rows
from handeye.vision.runtime.manifest import QueryRows
from tests.vision.checkpoints.conftest import Recording, rows_kept
from tests.vision.checkpoints.test_rtdetr_names import assert_summary, compare, fingerprint, rows_as_recorded

PUBLISHED = {
    "n": ("bf2e8e9afa3d6a2e", "8cc1b8417129f999", 674, 3_782_693),
    "s": ("5747d6c27158e4c1", "bdd0813363e0c444", 794, 10_321_877),
    "m": ("157880b5fd8ac05d", "906f2434ecab51bc", 1053, 19_590_064),
    "l": ("6c73c94a61411875", "23e9308564966dd1", 1173, 31_244_152),
    "x": ("4a1cb4bb6b7e67d4", "e82ad7bf69995fa5", 1441, 62_621_560),
}
"""Fingerprint with and without batch counters, number of keys, parameters: of the authors' code."""
RECORDINGS = ["", "_g", pytest.param("_640_g", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def loud(recording) -> Recording:
    return recording("dfine_n", "_g")


@pytest.fixture(scope="module")
def own() -> dict[str, Tensor]:
    """The state dict of D-FINE-n, without numbers."""
    with torch.device("meta"):
        return Detector(dfine_config("n")).state_dict()


class Watched:
    """A detector's output without and with targets, and what it computed on the way under the recordings' names."""

    def __init__(self, detector: Detector, images: Tensor) -> None:
        self.values: dict[str, Tensor] = {}
        self.selected: list[SelectedQueries] = []
        for place, module in recorded_modules(detector).items():
            module.register_forward_hook(lambda _, __, output, place=place: self.keep(place, output))
        for index, layer in enumerate(detector.head.decoder):
            place = f"decoder.layer{index}.ref_boxes"
            layer.register_forward_hook(lambda _, inputs, __, place=place: self.keep(place, inputs[2]))
        detector.neck.register_forward_hook(
            lambda _, __, pyramid: (
                [self.keep(f"neck.{level}", features) for level, features in enumerate(pyramid)] and None
            )
        )
        detector.head.selection.register_forward_hook(lambda _, __, selected: self.selected.append(selected))
        with torch.no_grad():
            self.output = detector(images)
            learning = detector(images, targets=[BoxTargets.empty()])
        assert isinstance(learning, DfineOutput)
        assert learning.final is not None
        assert learning.bins is not None
        self.values["project"] = learning.bins.values
        for index, layer in enumerate((*learning.layers, learning.final)):
            assert isinstance(layer, EdgePredictions)
            self.values[f"decoder.layer{index}.corners"] = layer.edge_logits
            self.values[f"decoder.layer{index}.distances"] = learning.bins.expected_distances(layer.edge_logits)

    def keep(self, place: str, values: Tensor) -> None:
        """The first value counts: it is that of the call without targets."""
        self.values.setdefault(place, values.clone())


def recorded_modules(detector: Detector) -> dict[str, nn.Module]:
    """Where the recording's intermediate values arise in our network."""
    backbone, neck, head = detector.backbone, detector.neck, detector.head
    places: dict[str, nn.Module] = {"backbone.stem": backbone.stem, "encoder.aifi0": neck.attention[0]}
    places |= {f"backbone.stage{index + 1}": stage for index, stage in enumerate(backbone.stages)}
    places |= {f"encoder.input_proj{index}": project for index, project in enumerate(neck.project)}
    places |= {"encoder.lateral_convs0": neck.reduce[0], "encoder.fpn_blocks0": neck.merge_down[0]}
    places |= {"encoder.downsample_convs0": neck.shrink[0], "encoder.pan_blocks0": neck.merge_up[0]}
    places |= {"enc_output": head.selection.norm, "enc_logits": head.selection.predict_class}
    places |= {"pre_bbox_delta": head.predict_first_box, "decoder.score_head_before_lqe": head.predict_class[-1]}
    for index, layer in enumerate(head.decoder):
        places[f"decoder.layer{index}"] = layer
        places[f"decoder.layer{index}.cross_attn"] = layer.cross_attention
        places[f"decoder.layer{index}.gateway"] = layer.gateway
    return places


WHOLE = {"enc_logits": 5e-5, "pre_bbox_delta": 1e-4, "project": 1e-6, "decoder.score_head_before_lqe": 5e-5}
"""Values that are recorded whole, and how near ours must come; those of each layer stand in the test."""


@pytest.mark.parametrize("variant", RECORDINGS)
def test_the_recorded_network_is_reproduced(recording: Callable, variant: str):
    recorded = recording("dfine_n", variant)
    detector = load_official("dfine_n", recorded.weights)
    assert sum(weight.numel() for weight in detector.parameters()) == recorded.meta["parameters"]
    seen, outputs = Watched(detector, recorded.images), recorded.outputs
    chosen = seen.selected[0]
    counts = torch.ones(int(chosen.cell_index.max()) + 1, dtype=torch.bool)
    rows = rows_as_recorded(chosen.cell_index[0], outputs["topk_ind"][0], counts)
    compare(seen.output.logits[:, rows], outputs["pred_logits"], 5e-5)
    compare(seen.output.boxes_cxcywh_norm[:, rows], outputs["pred_boxes"], 1e-5)
    compare(chosen.box_logits[:, rows], outputs["topk_box_unact"], 1e-4)
    compare(seen.values["enc_logits"].amax(dim=-1), outputs["enc_max_score"], 5e-5)
    corners = rows_kept(seen.values["decoder.layer2.corners"][:, rows], "decoder.last_corners", outputs)
    compare(corners, outputs["decoder.last_corners"], 1e-4)
    assert_places_as_recorded(seen.values, outputs, rows)
    assert_post_processing_as_recorded(seen.output.rows[0], outputs)


def assert_places_as_recorded(values: dict[str, Tensor], outputs: Any, rows: Tensor) -> None:
    """Every value on the way that is recorded, those of queries put into the recorded order."""
    summarised = {key.removesuffix(".shape") for key in outputs if key.endswith(".shape")}
    whole = WHOLE | {f"decoder.layer{index}.ref_boxes": 1e-5 for index in range(3)}
    whole |= {f"decoder.layer{index}.distances": 1e-5 for index in range(3)}
    assert summarised <= values.keys()
    assert len(summarised) >= 12
    for place in (*summarised, *whole):
        is_of_queries = place.startswith(("decoder.", "pre_bbox"))
        ours = values[place][:, rows] if is_of_queries else values[place]
        if place in summarised:
            assert_summary(ours, place, outputs)
        elif place in outputs:
            compare(rows_kept(ours, place, outputs), outputs[place], whole[place])


def assert_post_processing_as_recorded(rows: Tensor, outputs: Any) -> None:
    """The 300 best of all classes of all queries, in pixels of the image; those of one score in any order."""
    width, height = (int(side) for side in outputs["post.orig_size_wh"])
    found = decode_query_rows(rows.numpy(), (height, width), QueryRows(), score_threshold=0.0)
    compare(torch.from_numpy(np.sort(found.scores)[:-301:-1].copy()), outputs["post.scores"], 1e-5)
    theirs = [outputs[f"post.{name}"] for name in ("scores", "labels", "boxes")]
    for score, label, box in zip(*theirs, strict=True):
        is_near = (np.abs(found.scores - score) < 1e-5) & (found.class_ids == label)
        assert np.abs(found.boxes_xyxy[is_near] - box).max(axis=1).min() < 1e-2


@pytest.mark.parametrize("variant", PUBLISHED)
def test_names_shapes_and_counts_are_the_published_ones(variant):
    with_counters, without_counters, num_keys, parameters = PUBLISHED[variant]
    with torch.device("meta"):
        detector = Detector(published_models()[f"dfine_{variant}"].config)
    shapes = {key: tuple(value.shape) for key, value in official_state_dict(detector).items()}
    num_cells = 2000 if variant == "n" else 8400
    shapes |= {"decoder.anchors": (1, num_cells, 4), "decoder.valid_mask": (1, num_cells, 1)}
    shapes |= {"decoder.decoder.up": (1,), "decoder.decoder.reg_scale": (1,)}
    for index in range(len(detector.head.decoder)):
        shapes[f"decoder.decoder.layers.{index}.cross_attn.num_points_scale"] = (12,)
    assert len(shapes) == num_keys
    assert fingerprint(shapes) == with_counters
    counted = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert fingerprint(counted) == without_counters
    assert sum(weight.numel() for weight in detector.parameters()) == parameters


def test_the_recorded_list_of_keys_is_ours(loud, own):
    recorded = {key: tuple(shape) for key, (shape, _) in loud.meta["state_dict"].items()}
    ours = {key: tuple(value.shape) for key, value in DFINE_KEYS.to_published(own).items()}
    assert ours.keys() <= recorded.keys()
    assert ours == {key: recorded[key] for key in ours}
    assert recorded.keys() - ours.keys() <= set(loud.meta["kept_keys"])
    with torch.device("meta"):
        trainable = [weight for weight in Detector(dfine_config("n")).parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trainable) == loud.meta["trainable_parameters_as_built"]


def test_computed_values_may_be_there_and_nothing_else(loud, own):
    computed = {"decoder.anchors": torch.zeros(1, 2000, 4), "decoder.valid_mask": torch.zeros(1, 2000, 1)}
    computed |= {"decoder.decoder.up": torch.ones(1), "decoder.decoder.reg_scale": torch.ones(1)}
    computed |= {"decoder.decoder.layers.0.cross_attn.num_points_scale": torch.ones(12)}
    ours = DFINE_KEYS.to_ours(loud.weights | computed, own, "test")
    assert own.keys() - {key for key in own if "num_batches" in key} - ours.keys() == {
        "head.weighting.bound",
        "head.weighting.scale",
    }
    with pytest.raises(ModelFileError, match=r"unexpected: decoder\.surprise"):
        DFINE_KEYS.to_ours(loud.weights | {"decoder.surprise": torch.zeros(1)}, own, "test")
    without = {key: value for key, value in loud.weights.items() if "pre_bbox_head.layers.1.bias" not in key}
    with pytest.raises(ModelFileError, match=r"missing: decoder\.pre_bbox_head\.layers\.1\.bias"):
        DFINE_KEYS.to_ours(without, own, "test")


def test_the_numbers_of_the_bins_are_read_where_a_file_has_them(loud):
    other = loud.weights | {"decoder.up": torch.tensor([0.25]), "decoder.reg_scale": torch.tensor([8.0])}
    bins = load_official("dfine_n", other).head.weighting()
    assert bins.scale == 8
    torch.testing.assert_close(bins.values[-2:], torch.tensor([2.0, 4.0]))
    with pytest.raises(ModelFileError, match=r"misshapen: decoder\.up"):
        load_official("dfine_n", other | {"decoder.up": torch.zeros(2)})


def test_two_sizes_in_one_process_do_not_disturb_each_other(loud):
    detector = load_official("dfine_n", loud.weights)
    images = loud.images[..., :128, :160]
    with torch.no_grad():
        before = detector(images).logits
        other = Detector(dfine_config("s", ("a", "b"))).eval()
        assert other.head.decoder[0].feed_forward.expand.out_features == 1024
        other(torch.rand(1, 3, 64, 96))
        detector(torch.rand(1, 3, 128, 64))
        torch.testing.assert_close(detector(images).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("variant", ["n", "x"])
@pytest.mark.parametrize("key_map", DFINE_KEY_MAPS)
def test_every_naming_is_one_to_one(variant, key_map):
    with torch.device("meta"):
        own = Detector(dfine_config(variant)).state_dict()
    names = {key_map.published_key(key) for key in own}
    assert len(names) == len(own)
    assert not any(name.startswith(("head.", "neck.")) for name in names)


HF_HGNETV2_B0 = {
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128],
    "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1],
    "stage_numb_of_layers": [3, 3, 3, 3],
    "use_learnable_affine_block": True,
    "hidden_sizes": [64, 256, 512, 1024],
    "depths": [1, 1, 2, 1],
}
HF_SMALL = {
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.34,
    "depth_mult": 0.5,
    "d_model": 24,
    "decoder_ffn_dim": 40,
    "decoder_attention_heads": 4,
    "decoder_layers": 3,
    "num_queries": 30,
    "num_labels": 5,
    "reg_scale": 8.0,
    "freeze_backbone_batch_norms": False,
}
"""A small D-FINE in transformers' words, and in `small_config` in ours."""


def small_config(strides: tuple[Any, ...]) -> DetectorConfig:
    head = {"num_queries": 30, "hidden_dim": 24, "num_heads": 4, "num_decoder_layers": 3, "feed_forward_dim": 40}
    return DetectorConfig(
        backbone=HGNetv2Config(affine=True, strides=strides),
        neck=HybridEncoderConfig(
            blocks="dfine", hidden_dim=32, num_heads=4, feed_forward_dim=48, expansion=0.34, depth=0.5
        ),
        head=DfineHeadConfig(**head, bin_scale=8.0),
        num_classes=5,
        class_names=tuple("abcde"),
    )


def transformers_network(strides: tuple[int, ...]) -> nn.Module:
    """transformers' D-FINE with HGNetv2-B0 and all else small, random but lively."""
    transformers = pytest.importorskip("transformers", reason="the second opinion, transformers, is not installed")
    num_levels = len(strides)
    config = transformers.DFineConfig(
        backbone_config=transformers.HGNetV2Config(**HF_HGNETV2_B0, out_indices=[5 - num_levels, 3, 4][-num_levels:]),
        encoder_in_channels=[256, 512, 1024][-num_levels:],
        feat_strides=list(strides),
        encode_proj_layers=[num_levels - 1],
        decoder_in_channels=[32] * num_levels,
        num_feature_levels=num_levels,
        decoder_n_points=[3, 6, 3] if num_levels == 3 else [6, 6],
        **HF_SMALL,
    )
    network = transformers.DFineForObjectDetection(config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith(("weight", "lab.scale"))):
                value.uniform_(0.8, 1.4)
            elif value.is_floating_point() and not name.endswith((".up", "reg_scale", "points_scale")):
                value.normal_(0, (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1)
    return network


@pytest.mark.parametrize(("strides", "size_hw"), [((16, 32), (160, 160)), ((8, 16, 32), (96, 160))])
def test_transformers_computes_the_same(strides, size_hw):
    network = transformers_network(strides)
    detector = Detector(small_config(strides)).eval()
    own, weights = detector.state_dict(), network.state_dict()
    assert best_key_map(DFINE_KEY_MAPS, weights, own) is TRANSFORMERS_DFINE_KEYS
    detector.load_state_dict(TRANSFORMERS_DFINE_KEYS.to_ours(weights, own, "test"), strict=False)
    # Double precision: these loud weights blow the rounding of single precision up to 1e-3 in a few queries.
    network, detector = network.double(), detector.double()
    images = torch.rand(2, 3, *size_hw, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        ours, theirs = detector(images), network(images)
    assert theirs.pred_boxes.std(dim=1).min() > 0.02
    assert theirs.logits.std(dim=1).min() > 0.1
    for image in range(2):
        rows = torch.cdist(theirs.pred_boxes[image], ours.boxes_cxcywh_norm[image]).argmin(dim=1)
        assert sorted(rows.tolist()) == list(range(30))
        compare(ours.boxes_cxcywh_norm[image, rows], theirs.pred_boxes[image].numpy(), 1e-5)
        compare(ours.logits[image, rows], theirs.logits[image].numpy(), 1e-4)


def test_the_spelling_of_transformers_files_is_known():
    """As written in files: names of before version 5, predictors twice."""
    own = {key: torch.full(value.shape, 0.5) for key, value in Detector(small_config((16, 32))).state_dict().items()}
    published = TRANSFORMERS_DFINE_KEYS.to_published(own)
    spelt = {
        key.replace(".o_proj.", ".out_proj.")
        .replace("encoder.aifi.", "encoder.encoder.")
        .replace(".mlp.layers.0.", ".fc1.")
        .replace(".mlp.layers.1.", ".fc2."): value
        for key, value in published.items()
    }
    # All 16 tensors of the neck's attention layer, 6 of each decoder layer.
    assert len(spelt.keys() - published.keys()) == 16 + 3 * 6
    spelt |= {key.removeprefix("model.decoder."): value for key, value in spelt.items() if "_embed." in key}
    assert TRANSFORMERS_DFINE_KEYS.to_ours(spelt, own, "test").keys() >= {
        key for key in own if "num_batches_tracked" not in key
    }

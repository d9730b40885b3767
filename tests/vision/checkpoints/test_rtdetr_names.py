"""RT-DETR and RT-DETRv2 as published: recorded outputs of the authors' code, fingerprints, names in transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handeye.vision.checkpoints.published import key_maps_of, load_official, official_state_dict
from handeye.vision.checkpoints.rtdetr import RTDETRV2_KEYS, rtdetr_config
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.detector import Detector
from handeye.vision.errors import ModelFileError
from handeye.vision.heads.outputs import QueryOutput
from handeye.vision.heads.query_selection import OUTSIDE, SelectedQueries
from handeye.vision.heads.rtdetr import RtdetrHead
from handeye.vision.runtime.decode import decode_rows
from handeye.vision.runtime.manifest import QueryRows
from tests.vision.checkpoints.conftest import rows_kept

PUBLISHED = {
    "rtdetr_r18vd": ("808defe579c98c9f", "455e28e47e29cac0", 533, 20_184_464),
    "rtdetr_r34vd": ("48de760e0778f644", "3232bcf34cb81c6b", 659, 31_441_668),
    "rtdetr_r50vd_m": ("d250b004e075225a", "698e2acdae63aaf7", 760, 36_593_772),
    "rtdetr_r50vd": ("418ec54378c1e574", "1f58eba809e60c98", 736, 42_891_372),
    "rtdetr_r101vd": ("e83c4b3f8ec95240", "c21492fc1589da19", 991, 76_556_268),
    "rtdetrv2_r18vd": ("698611b0f4b18e5b", "3d9afc957862f8cb", 538, 20_184_464),
    "rtdetrv2_r34vd": ("4ba77f0dccfa7025", "1458112efd5b11ea", 665, 31_441_668),
    "rtdetrv2_r50vd_m": ("bec772f5f0a3bb4b", "59b09fbcec9830ec", 768, 36_593_772),
    "rtdetrv2_r50vd": ("68022adef1d95c14", "792a8afeb45415fc", 744, 42_891_372),
    "rtdetrv2_r101vd": ("3a9ccdb92c04b53d", "0bcd08699b79f84c", 999, 76_556_268),
}
"""Fingerprint with and without batch counters, number of keys, parameters: of the authors' code."""
RECORDINGS = [
    ("rtdetr_r18vd", "_g"),
    ("rtdetrv2_r18vd", "_g"),
    *(
        pytest.param(name, variant, marks=pytest.mark.slow)
        for name, variant in (
            ("rtdetr_r18vd", ""),
            ("rtdetrv2_r18vd", ""),
            ("rtdetr_r18vd", "_640_g"),
            ("rtdetr_r18vd", "_640inv_g"),
            ("rtdetrv2_r18vd", "_640_g"),
            ("rtdetr_r50vd", ""),
            ("rtdetr_r50vd", "_g"),
        )
    ),
]


@dataclass
class Watched:
    """What a detector computed on the way, under the names of the recordings."""

    output: QueryOutput
    selected: SelectedQueries
    values: dict[str, Tensor] = field(default_factory=dict)


def watched(detector: Detector, images: Tensor) -> Watched:
    """Call the detector and keep what the recordings hold."""
    values: dict[str, Tensor] = {}
    selections: list[SelectedQueries] = []
    head = detector.head
    assert isinstance(head, RtdetrHead)
    for place, module in recorded_modules(detector).items():
        module.register_forward_hook(lambda _, __, output, place=place: values.update({place: output.clone()}))
    for index, layer in enumerate(head.decoder):
        layer.register_forward_hook(
            lambda _, inputs, __, index=index: values.update({f"decoder.layer{index}.ref_boxes": inputs[2].clone()})
        )
    detector.neck.register_forward_hook(
        lambda _, __, pyramid: values.update(
            {f"neck.s{8 << level}": features.clone() for level, features in enumerate(pyramid)}
        )
    )
    head.selection.register_forward_hook(lambda _, __, selected: selections.append(selected))
    with torch.no_grad():
        output = detector(images)
    assert isinstance(output, QueryOutput)
    return Watched(output, selections[0], values)


def recorded_modules(detector: Detector) -> dict[str, nn.Module]:
    """Where the recording's intermediate values arise in our network."""
    backbone, neck, head = detector.backbone, detector.neck, detector.head
    places: dict[str, nn.Module] = {"backbone.stem": backbone.stem, "encoder.aifi0": neck.attention[0]}
    places |= {f"backbone.s{4 << index}": backbone.stages[index] for index in (1, 2, 3)}
    places |= {"enc_output": head.selection.norm, "enc_logits": head.selection.predict_class}
    for index in range(3):
        places[f"encoder.input_proj{index}"] = neck.project[index]
        places[f"decoder.input_proj{index}"] = head.project[index]
    for index in range(2):
        places[f"encoder.fpn_block{index}"] = neck.merge_down[index]
        places[f"encoder.pan_block{index}"] = neck.merge_up[index]
    for index, layer in enumerate(head.decoder):
        places[f"decoder.layer{index}"] = layer
        places[f"decoder.layer{index}.cross_attn"] = layer.cross_attention
    return places


def rows_as_recorded(ours: Tensor, recorded: np.ndarray, counts: Tensor) -> Tensor:
    """Which of our rows is each of the recorded ones: that of the same cell, or for cells that do not count any such.

    The latter all say the same, so that their order, and which of them are chosen, is nobody's business.
    """
    places = {int(cell): row for row, cell in enumerate(ours)}
    spare = [row for row, cell in enumerate(ours) if not counts[cell] and int(cell) not in set(recorded.tolist())]
    rows = [places[cell] if cell in places else spare.pop() for cell in recorded.tolist()]
    assert sorted(rows) == list(range(len(ours)))
    assert all(bool(counts[ours[row]]) == bool(counts[cell]) for row, cell in zip(rows, recorded, strict=True))
    return torch.tensor(rows)


def assert_as_recorded(seen: Watched, outputs: Any, counts: Tensor) -> None:
    """Everything that is recorded, within the tolerances of the README."""
    rows = rows_as_recorded(seen.selected.cell_index[0], outputs["topk_ind"][0], counts)
    compare(seen.output.logits[:, rows], outputs["pred_logits"], 5e-5)
    compare(seen.output.boxes_cxcywh_norm[:, rows], outputs["pred_boxes"], 1e-5)
    compare(seen.values["enc_logits"].amax(dim=-1), outputs["enc_max_score"], 5e-5)
    # Infinity in the published code is a large number here.
    first_boxes = torch.where(seen.selected.box_logits > OUTSIDE / 2, torch.inf, seen.selected.box_logits)
    compare(first_boxes[:, rows], outputs["topk_box_unact"], 1e-4)
    places = {key.removesuffix(".shape") for key in outputs if key.endswith(".shape")}
    assert places <= seen.values.keys()
    for place in places:
        is_of_queries = place.startswith("decoder.layer")
        assert_summary(seen.values[place][:, rows] if is_of_queries else seen.values[place], place, outputs)
    for place in ("enc_logits", "encoder.aifi0"):
        if place in outputs:
            compare(rows_kept(seen.values[place], place, outputs), outputs[place], 5e-5)
    for place in [key for key in outputs if key.endswith("ref_boxes")]:
        compare(seen.values[place][:, rows], outputs[place], 1e-5)
    assert_detections_as_recorded(seen.output, outputs)


def assert_detections_as_recorded(output: QueryOutput, outputs: Any) -> None:
    """The published post-processing: the 300 best pairs of a query and a class, boxes in pixels of the image."""
    width, height = outputs["post.orig_size_wh"].tolist()
    found = decode_rows(
        output.rows[0].numpy(),
        (height, width),
        QueryRows(classes_per_query="any"),
        score_threshold=0.0,
        iou_threshold=1.0,
        max_detections=300,
    )
    np.testing.assert_allclose(found.scores, outputs["post.scores"], rtol=0, atol=2e-5)
    ours = np.column_stack((1e4 * found.class_ids, 1e3 * found.scores, found.boxes_xyxy))
    recorded = np.column_stack((1e4 * outputs["post.labels"], 1e3 * outputs["post.scores"], outputs["post.boxes"]))
    # Near ties may change places, and at the end of the list one may be in for another.
    distances = np.abs(recorded[:, None] - ours[None]).max(axis=-1).min(axis=1)
    assert (distances[outputs["post.scores"] > outputs["post.scores"][-1] + 2e-5] < 0.02).all()


def assert_summary(values: Tensor, place: str, outputs: Any) -> None:
    tolerance = 1e-4 * max(1.0, float(outputs[f"{place}.std"]))
    assert tuple(values.shape) == tuple(outputs[f"{place}.shape"])
    crop = values[0, :8, :4, :4] if values.ndim == 4 else values[0, :8, :32]
    compare(crop, outputs[f"{place}.crop"], tolerance)
    compare(values.mean(), outputs[f"{place}.mean"], tolerance)
    compare(values.std(correction=0), outputs[f"{place}.std"], tolerance)
    if values.ndim == 4:
        compare(values[0].mean(dim=(1, 2)), outputs[f"{place}.chan_mean"], tolerance)


def compare(ours: Tensor, recorded: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(ours.numpy(), recorded, rtol=0, atol=tolerance)


def cells_that_count(detector: Detector, images: Tensor) -> Tensor:
    sizes_hw = [(images.shape[2] // stride, images.shape[3] // stride) for stride in (8, 16, 32)]
    return detector.head.selection.anchors(sizes_hw, images.device)[1][0, :, 0]


@pytest.mark.parametrize(("name", "variant"), RECORDINGS)
def test_the_recorded_network_is_reproduced(recording: Callable, name: str, variant: str):
    recorded = recording(name, variant)
    detector = load_official(name, recorded.weights)
    assert sum(weight.numel() for weight in detector.parameters()) == recorded.meta["parameters"]
    seen = watched(detector, recorded.images)
    counts = cells_that_count(detector, recorded.images)
    assert_as_recorded(seen, recorded.outputs, counts)
    if variant == "_640inv_g":
        assert int((~counts[seen.selected.cell_index[0]]).sum()) == 253
        assert seen.output.boxes_cxcywh_norm.isfinite().all()


def test_the_published_scramble_of_positions_on_other_than_square_inputs(recording: Callable, monkeypatch):
    """Ours are right by design, so the recording is met only with the table scrambled as the published code does."""
    recorded = recording("rtdetr_r18vd", "_256x320_g")
    detector = load_official("rtdetr_r18vd", recorded.weights)
    counts = cells_that_count(detector, recorded.images)
    right = watched(detector, recorded.images)
    assert set(right.selected.cell_index[0].tolist()) != set(recorded.outputs["topk_ind"][0].tolist())

    def scrambled(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
        """Cells counted column by column, though features are counted row by row; sines of the column come first."""
        frequencies = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
        columns, rows = torch.arange(width).repeat_interleave(height), torch.arange(height).repeat(width)
        angles = [place[:, None] * frequencies for place in (columns, rows)]
        return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)

    monkeypatch.setattr("handeye.vision.necks.hybrid_encoder.sin_cos_table", scrambled)
    assert_as_recorded(watched(detector, recorded.images), recorded.outputs, counts)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_counts_are_the_published_ones(name):
    with_counters, without_counters, num_keys, parameters = PUBLISHED[name]
    with torch.device("meta"):
        detector = Detector(published_models()[name].config)
    state_dict = official_state_dict(detector)
    shapes = {key: tuple(value.shape) for key, value in state_dict.items()}
    if name.startswith("rtdetrv2"):
        shapes |= {"decoder.anchors": (1, 8400, 4), "decoder.valid_mask": (1, 8400, 1)}
        num_layers = len(detector.head.decoder)
        shapes |= {f"decoder.decoder.layers.{index}.cross_attn.num_points_scale": (12,) for index in range(num_layers)}
    assert len(shapes) == num_keys
    assert fingerprint(shapes) == with_counters
    counted = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert fingerprint(counted) == without_counters
    assert sum(weight.numel() for weight in detector.parameters()) == parameters


def fingerprint(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", ["rtdetr_r18vd", "rtdetr_r50vd", "rtdetrv2_r18vd"])
def test_the_recorded_list_of_keys_is_ours(reference, name):
    meta = json.loads(reference(f"{name}.json").read_text())
    with torch.device("meta"):
        state_dict = official_state_dict(Detector(published_models()[name].config))
    recorded = {key: tuple(shape) for key, (shape, _) in meta["state_dict"].items() if key not in meta["kept_keys"]}
    assert {key: tuple(value.shape) for key, value in state_dict.items()} == recorded


def test_computed_buffers_may_be_there_and_nothing_else():
    with torch.device("meta"):
        own = Detector(published_models()["rtdetrv2_r18vd"].config).state_dict()
        computed = {"decoder.anchors": torch.zeros(1, 500, 4), "decoder.valid_mask": torch.zeros(1, 500, 1)}
        computed |= {"decoder.decoder.layers.0.cross_attn.num_points_scale": torch.ones(12)}
        weights = RTDETRV2_KEYS.to_published(own)
        surprise = {"decoder.surprise": torch.zeros(1)}
    taken = RTDETRV2_KEYS.to_ours(weights | computed, own, "test")
    assert {key for key in own if not key.endswith("num_batches_tracked")} <= taken.keys()
    with pytest.raises(ModelFileError, match=r"unexpected: decoder\.surprise"):
        RTDETRV2_KEYS.to_ours(weights | surprise, own, "test")
    without = {key: value for key, value in weights.items() if key != "decoder.enc_output.proj.weight"}
    with pytest.raises(ModelFileError, match=r"missing: decoder\.enc_output\.proj\.weight"):
        RTDETRV2_KEYS.to_ours(without, own, "test")


@pytest.mark.parametrize("version", [1, 2])
def test_every_naming_is_one_to_one(version):
    with torch.device("meta"):
        own = Detector(rtdetr_config(version, "r50vd_m")).state_dict()
    for key_map in key_maps_of(rtdetr_config(version, "r50vd_m")):
        names = {key_map.published_key(key) for key in own}
        assert len(names) == len(own)
        assert not any(name.startswith(("head.", "neck.")) for name in names)

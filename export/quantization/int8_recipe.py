"""Post-training quantisation to INT8: pinned layers, equalisation, calibration, search for layers to keep in float.

Everything is chosen on the calibration images; the evaluation images play no part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import onnx
from pydantic import Field
from typing_extensions import assert_never

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.measurement import ImageSet, evaluate_model
from handeye.export.quantization.calibration import (
    EntropyRule,
    Histogram,
    MinMaxRule,
    PercentileRule,
    Range,
    Rule,
    SquaredErrorRule,
    choose_range,
    collect_histograms,
)
from handeye.export.quantization.equalization import channel_bounds, equalize
from handeye.export.quantization.quantize import pinned_layers, quantize_for_tensorrt, quantized_inputs
from handeye.export.quantization.quantize_x86 import quantize_for_onnxruntime, quantize_for_openvino, region_tensors
from handeye.export.quantization.sensitivity import (
    SearchResult,
    blocks_of,
    damage_of_blocks,
    outputs_of,
    search_float_blocks,
)
from handeye.vision.config import Config
from handeye.vision.errors import UserError
from handeye.vision.runtime.manifest import Manifest

Form = Literal["tensorrt", "onnxruntime", "openvino"]
SCORING_ENGINE = "onnxruntime"


class Int8Config(Config):
    """How a network is quantised."""

    form: Form = "tensorrt"
    """tensorrt: symmetric, at inputs of layers; openvino: the same places, unsigned; onnxruntime: whatever its kernels
    compute in 8 bits."""
    rules: tuple[Rule, ...] = (MinMaxRule(), PercentileRule(), EntropyRule(), SquaredErrorRule())
    """Calibrators to try; the best on the calibration images is used."""
    pin: bool = True
    """Keep stem, predictions and attention in float."""
    equalize: bool = True
    """Apply cross-channel equalisation to the inputs of convolutions first."""
    allowed_loss: Annotated[float, Field(ge=0)] = 0.01
    """AP that may be lost on the calibration images before more blocks are kept in float."""
    calibration_images: Annotated[int, Field(gt=0)] = 256
    """Upper limit of calibration images."""
    search_images: Annotated[int, Field(gt=0)] = 4
    """Images on which the damage of each block is measured."""


PLAIN = Int8Config(rules=(MinMaxRule(),), pin=False, equalize=False, allowed_loss=1.0)
"""The plainest recipe: every layer quantised, min-max ranges."""


@dataclass(frozen=True)
class Int8Result:
    """A quantised network and the choices behind it."""

    model: onnx.ModelProto
    rule: str
    pinned: Mapping[str, str]
    """Layers always kept in float, with the reason."""
    keep_float: frozenset[str]
    num_layers: int
    search: SearchResult | None
    """None without a search."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Score of each rule on the calibration images: AP, or without annotations minus the change of the outputs."""


def make_int8(model: onnx.ModelProto, manifest: Manifest, images: ImageSet, config: Int8Config) -> Int8Result:
    """Quantise `model` by calibration on `images`. Raises UserError for a network without layers."""
    index = GraphIndex(model.graph)
    if not index.layers():
        raise UserError("the network has no layer with constant weights; there is nothing to quantise")
    pinned = _pinned(index, config)
    prepared = _equalized(model, manifest, images, config, pinned) if config.equalize else model
    tensors = _tensors_to_calibrate(prepared, config.form)
    inputs = images.inputs(manifest.preprocessing, config.calibration_images)
    histograms = collect_histograms(prepared, tensors, inputs)
    scorer = _Scorer(model, manifest, images, config)
    scores = {}
    for rule in config.rules:
        ranges = _ranges(histograms, rule)
        scores[rule.kind] = scorer(_quantize(prepared, ranges, pinned, config.form)) if len(config.rules) > 1 else 0.0
    best = max(config.rules, key=lambda rule: scores[rule.kind])
    ranges = _ranges(histograms, best)
    search = _search(prepared, ranges, pinned, config, scorer)
    keep = search.keep_float if search is not None else frozenset(pinned)
    return Int8Result(
        _quantize(prepared, ranges, keep, config.form), best.kind, pinned, keep, len(index.layers()), search, scores
    )


def int8_from_learned(model: onnx.ModelProto, bounds: Mapping[str, float]) -> Int8Result:
    """Quantise with the ranges of quantisation-aware training, in TensorRT's form; layers not named stay in float.

    bounds: largest absolute input by module name, from `load_activation_ranges`. The skip input of a sum is quantised
    if another layer reads the same tensor; the others have no learned range. Raises UserError for a name that is no
    layer, because the ranges are then of another network.
    """
    index = GraphIndex(model.graph)
    layers = {module_name(node.name): node for node in index.layers()}
    if unknown := sorted(set(bounds) - set(layers)):
        raise UserError(f"the learned ranges name {unknown[0]}, which is no layer of this network")
    keep = frozenset(node.name for node in index.layers() if module_name(node.name) not in bounds)
    ranges: dict[str, Range] = {}
    for name, bound in bounds.items():
        own = Range(-bound, bound)
        tensor = layers[name].input[0]
        ranges[tensor] = own.union(ranges.get(tensor, own))
    reason = dict.fromkeys(keep, "not trained in 8 bits")
    quantized = quantize_for_tensorrt(model, ranges, keep)
    return Int8Result(quantized, "learned", reason, keep, len(index.layers()), None)


def module_name(node_name: str) -> str:
    """`/detector/neck/merge/merge.0/conv/Conv` -> `neck.merge.0.conv`: the module that an exported node came from."""
    parts = node_name.strip("/").split("/")[:-1]
    kept = [part for part, after in zip(parts, [*parts, ""][1:], strict=True) if not after.startswith(f"{part}.")]
    return ".".join(kept).removeprefix("detector.")


class _Scorer:
    """Scores a candidate on the calibration images: AP, or similarity of outputs without annotations."""

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, images: ImageSet, config: Int8Config) -> None:
        self.manifest, self.images = manifest, images
        self.inputs = list(images.inputs(manifest.preprocessing, config.search_images))
        self.reference = model
        self.expected = outputs_of(model, self.inputs)

    def __call__(self, candidate: onnx.ModelProto) -> float:
        if self.images.ground_truth is not None:
            return evaluate_model(candidate, self.manifest, self.images, SCORING_ENGINE)
        return -float((np.abs(outputs_of(candidate, self.inputs) - self.expected) / self._spread).mean())

    @property
    def _spread(self) -> np.ndarray:
        return self.expected.std(axis=tuple(range(self.expected.ndim - 1))) + 1e-6


def _pinned(index: GraphIndex, config: Int8Config) -> dict[str, str]:
    """Layers that always stay in float.

    OpenVINO's stem may be quantised: unsigned pixels are exact inputs, and its output is float.
    """
    if not config.pin:
        return {}
    exact = {"stem"} if config.form == "openvino" else set()
    return {name: reason for name, reason in pinned_layers(index).items() if reason not in exact}


def _equalized(
    model: onnx.ModelProto, manifest: Manifest, images: ImageSet, config: Int8Config, pinned: Collection[str]
) -> onnx.ModelProto:
    tensors = list(quantized_inputs(GraphIndex(model.graph), pinned))
    inputs = images.inputs(manifest.preprocessing, config.calibration_images)
    return equalize(model, channel_bounds(model, tensors, inputs), pinned)


def _tensors_to_calibrate(model: onnx.ModelProto, form: Form) -> Sequence[str]:
    """All tensors that any choice of float layers can need."""
    match form:
        case "tensorrt" | "openvino":
            return list(quantized_inputs(GraphIndex(model.graph)))
        case "onnxruntime":
            return list(region_tensors(GraphIndex(model.graph)))
        case _:
            assert_never(form)


def _ranges(histograms: Mapping[str, Histogram], rule: Rule) -> dict[str, Range]:
    return {name: choose_range(histogram, rule) for name, histogram in histograms.items()}


def _quantize(
    model: onnx.ModelProto, ranges: Mapping[str, Range], keep_float: Collection[str], form: Form
) -> onnx.ModelProto:
    match form:
        case "tensorrt":
            return quantize_for_tensorrt(model, ranges, keep_float)
        case "onnxruntime":
            return quantize_for_onnxruntime(model, ranges, keep_float)
        case "openvino":
            return quantize_for_openvino(model, ranges, keep_float)
        case _:
            assert_never(form)


def _search(
    model: onnx.ModelProto, ranges: Mapping[str, Range], pinned: Collection[str], config: Int8Config, scorer: _Scorer
) -> SearchResult | None:
    """Search for blocks to keep in float; None where any loss is allowed."""
    if config.allowed_loss >= 1:
        return None

    def quantize(keep_float: Collection[str]) -> onnx.ModelProto:
        return _quantize(model, ranges, keep_float, config.form)

    blocks = blocks_of(GraphIndex(model.graph), pinned)
    damage = damage_of_blocks(quantize, blocks, pinned, scorer.reference, scorer.inputs)
    # Without annotations the AP cost of the damage is unknown: only dominant blocks are kept in float.
    allowed = config.allowed_loss if scorer.images.ground_truth is not None else float("inf")
    return search_float_blocks(quantize, scorer, scorer(scorer.reference), allowed, blocks, pinned, damage)

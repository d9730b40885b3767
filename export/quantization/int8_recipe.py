"""The INT8 recipe from end to end: pins, equalised channels, calibration, choice of rule, search for what stays float.

Everything is chosen on the calibration images; those on which the result is judged play no part.
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
JUDGE_ENGINE = "onnxruntime"


class Int8Config(Config):
    """How a network is quantised."""

    form: Form = "tensorrt"
    """tensorrt: symmetric, on inputs of layers; openvino: the same places, unsigned; onnxruntime: all that its kernels
    compute in eight bits."""
    rules: tuple[Rule, ...] = (MinMaxRule(), PercentileRule(), EntropyRule(), SquaredErrorRule())
    """Calibrators to try; the one that does best on the calibration images is used."""
    pin: bool = True
    """Keep stem, predictions and attention in float."""
    equalize: bool = True
    """Bring the channels of each convolution's input nearer to one another first."""
    allowed_loss: Annotated[float, Field(ge=0)] = 0.01
    """AP that may be lost on the calibration images before more blocks are kept in float."""
    calibration_images: Annotated[int, Field(gt=0)] = 256
    """At most so many are looked at."""
    search_images: Annotated[int, Field(gt=0)] = 4
    """Images on which the damage of each block is measured."""


PLAIN = Int8Config(rules=(MinMaxRule(),), pin=False, equalize=False, allowed_loss=1.0)
"""The recipe that is found everywhere: everything quantised, ranges from lowest to highest."""


@dataclass(frozen=True)
class Int8Result:
    """A quantised network and how it came about."""

    model: onnx.ModelProto
    rule: str
    pinned: Mapping[str, str]
    """Layers kept in float from the start, with the reason."""
    keep_float: frozenset[str]
    num_layers: int
    search: SearchResult | None
    """None where nothing was searched."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What each rule reached on the calibration images: AP, or minus the change of the outputs without annotations."""


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
    judge = _Judge(model, manifest, images, config)
    scores = {}
    for rule in config.rules:
        ranges = _ranges(histograms, rule)
        scores[rule.kind] = judge(_quantize(prepared, ranges, pinned, config.form)) if len(config.rules) > 1 else 0.0
    best = max(config.rules, key=lambda rule: scores[rule.kind])
    ranges = _ranges(histograms, best)
    search = _search(prepared, ranges, pinned, config, judge)
    keep = search.keep_float if search is not None else frozenset(pinned)
    return Int8Result(
        _quantize(prepared, ranges, keep, config.form), best.kind, pinned, keep, len(index.layers()), search, scores
    )


def int8_from_learned(model: onnx.ModelProto, bounds: Mapping[str, float]) -> Int8Result:
    """Quantise with the ranges of quantisation-aware training, in TensorRT's form: layers not named stay in float.

    bounds: the largest input by name of module, as `load_activation_ranges` gives them. A sum's skip is quantised where
    another layer reads the same tensor; nothing was learnt for the others. Raises UserError when a name belongs to no
    layer, for then the ranges are those of another network.
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
    reason = dict.fromkeys(keep, "not trained with eight bits")
    quantized = quantize_for_tensorrt(model, ranges, keep)
    return Int8Result(quantized, "learned", reason, keep, len(index.layers()), None)


def module_name(node_name: str) -> str:
    """`/detector/neck/merge/merge.0/conv/Conv` -> `neck.merge.0.conv`: the module that an exported node came from."""
    parts = node_name.strip("/").split("/")[:-1]
    kept = [part for part, after in zip(parts, [*parts, ""][1:], strict=True) if not after.startswith(f"{part}.")]
    return ".".join(kept).removeprefix("detector.")


class _Judge:
    """What a candidate is worth on the calibration images."""

    def __init__(self, model: onnx.ModelProto, manifest: Manifest, images: ImageSet, config: Int8Config) -> None:
        self.manifest, self.images = manifest, images
        self.inputs = list(images.inputs(manifest.preprocessing, config.search_images))
        self.reference = model
        self.expected = outputs_of(model, self.inputs)

    def __call__(self, candidate: onnx.ModelProto) -> float:
        if self.images.ground_truth is not None:
            return evaluate_model(candidate, self.manifest, self.images, JUDGE_ENGINE)
        return -float((np.abs(outputs_of(candidate, self.inputs) - self.expected) / self._spread).mean())

    @property
    def _spread(self) -> np.ndarray:
        return self.expected.std(axis=tuple(range(self.expected.ndim - 1))) + 1e-6


def _pinned(index: GraphIndex, config: Int8Config) -> dict[str, str]:
    """Layers in float from the start. A stem that reads unsigned pixels loses nothing at its input: OpenVINO's may be
    quantised, for it gives its output in float."""
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
    """All that any choice of float layers may ask for."""
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
    model: onnx.ModelProto, ranges: Mapping[str, Range], pinned: Collection[str], config: Int8Config, judge: _Judge
) -> SearchResult | None:
    """The search for blocks to keep in float; None where any loss is allowed."""
    if config.allowed_loss >= 1:
        return None

    def quantize(keep_float: Collection[str]) -> onnx.ModelProto:
        return _quantize(model, ranges, keep_float, config.form)

    blocks = blocks_of(GraphIndex(model.graph), pinned)
    damage = damage_of_blocks(quantize, blocks, pinned, judge.reference, judge.inputs)
    # Without annotations nothing says what the damage costs: only dominant blocks are kept in float then.
    allowed = config.allowed_loss if judge.images.ground_truth is not None else float("inf")
    return search_float_blocks(quantize, judge, judge(judge.reference), allowed, blocks, pinned, damage)

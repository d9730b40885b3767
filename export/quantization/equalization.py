"""Cross-channel equalisation before INT8 quantisation (Nagel et al. 2019, arXiv:1906.04721; SmoothQuant, Xiao et al.
2023, arXiv:2211.10438).

Activations have one scale per tensor, so a channel with a hundred times the range of the others leaves those two or
three levels. Dividing each channel by a factor before the Q/DQ pair, and multiplying the weights that read it by the
same, changes only the rounding. SiLU is not scale-equivariant, so the division cannot move into the layer before: it is
a separate Mul, which engines fuse with the activation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import helper, numpy_helper

from handeye.export.graph.graph_index import GraphIndex, attribute, replace_inputs, topologically_sorted
from handeye.export.quantization.calibration import tensor_values

LEAST_SPREAD = 2.0
"""Tensors whose largest channel range is less than this times the mean are left alone: there is little to gain."""
MOST_AMPLIFIED = 64.0
"""Largest amplification of a channel: one that is near zero in calibration may not be so later."""


def channel_bounds(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[Float32[np.ndarray, "1 3 H W"]]
) -> dict[str, Float32[np.ndarray, " C"]]:
    """The largest distance from zero in each channel (axis 1) of 4-D tensors; others are left out."""
    bounds: dict[str, Float32[np.ndarray, " C"]] = {}
    for values in tensor_values(model, tensors, inputs):
        for name, value in zip(tensors, values, strict=True):
            if value.ndim == 4:
                own = np.abs(value).max(axis=(0, 2, 3))
                bounds[name] = np.maximum(bounds[name], own) if name in bounds else own
    return bounds


def equalize(
    model: onnx.ModelProto,
    bounds: Mapping[str, Float32[np.ndarray, " C"]],
    keep_float: Collection[str] = (),
    least_spread: float = LEAST_SPREAD,
) -> onnx.ModelProto:
    """A copy that computes the same, with more even channel ranges at the inputs of convolutions.

    bounds: by tensor, from `channel_bounds`. Layers in keep_float are left alone.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    index = GraphIndex(changed.graph)
    for name, readers in _maps_to_convolutions(index, keep_float).items():
        if name in bounds and _spread(bounds[name]) >= least_spread:
            for same_kind in _by_kind(readers):
                _divide_before(index, name, bounds[name], same_kind)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in topologically_sorted(changed.graph)]
    del changed.graph.node[:]
    changed.graph.node.extend(ordered)
    return changed


def _maps_to_convolutions(index: GraphIndex, keep_float: Collection[str]) -> dict[str, list[onnx.NodeProto]]:
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in index.layers():
        is_grouped = attribute(node, "group", 1) > 1 and not _is_depthwise(index, node)
        if node.op_type == "Conv" and not is_grouped and node.name not in keep_float:
            found.setdefault(node.input[0], []).append(node)
    return found


def _spread(bounds: Float32[np.ndarray, " C"]) -> float:
    """Largest channel range over the geometric mean of all."""
    return float(bounds.max() / max(np.exp(np.log(np.maximum(bounds, 1e-6)).mean()), 1e-6))


def _by_kind(readers: Sequence[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Depthwise convolutions and all others, which get different scales."""
    depthwise = [node for node in readers if attribute(node, "group", 1) > 1]
    others = [node for node in readers if attribute(node, "group", 1) == 1]
    return [kind for kind in (depthwise, others) if kind]


def _divide_before(
    index: GraphIndex, name: str, bounds: Float32[np.ndarray, " C"], readers: Sequence[onnx.NodeProto]
) -> None:
    """Divide the tensor that `readers` read by per-channel scales and multiply their weights by them."""
    depthwise = _is_depthwise(index, readers[0])
    weights = [index.value(node.input[1]) for node in readers]
    scales = _depthwise_scales(bounds) if depthwise else _shared_scales(bounds, weights)
    shape = (-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)
    divisor = index.unused_name(f"{name}_equalizer")
    out = index.unused_name(f"{name}_equalized")
    index.graph.initializer.append(numpy_helper.from_array((1 / scales).reshape(1, -1, 1, 1), divisor))
    index.graph.node.append(helper.make_node("Mul", [name, divisor], [out], name=f"{out}_node"))
    for node, weight in zip(readers, weights, strict=True):
        scaled = index.unused_name(f"{node.input[1]}_equalized")
        index.graph.initializer.append(numpy_helper.from_array(weight * scales.reshape(shape), scaled))
        node.input[1] = scaled
    replace_inputs(readers, name, out)


def _depthwise_scales(bounds: Float32[np.ndarray, " C"]) -> Float32[np.ndarray, " C"]:
    """Equal ranges for all channels: depthwise weights have a scale per channel, so they lose nothing."""
    return np.maximum(bounds / bounds.max(), 1 / MOST_AMPLIFIED).astype(np.float32)


def _shared_scales(
    bounds: Float32[np.ndarray, " C"], weights: Sequence[Float32[np.ndarray, "_ C _ _"]]
) -> Float32[np.ndarray, " C"]:
    """Ranges balanced between activations and weights (SmoothQuant with alpha = 0.5)."""
    largest = np.max([np.abs(weight).max(axis=(0, 2, 3)) for weight in weights], axis=0)
    scales = np.sqrt(np.maximum(bounds, 1e-6) / np.maximum(largest, 1e-6))
    return np.maximum(scales / scales.max(), 1 / MOST_AMPLIFIED).astype(np.float32)


def _is_depthwise(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether each group has one input and one output channel."""
    weight = index.value(node.input[1])
    return attribute(node, "group", 1) == weight.shape[0] and weight.shape[1] == 1 and weight.shape[0] > 1

"""INT8 calibration: choose the range of each activation tensor by min-max, percentile, entropy or MSE.

Activations are collected through ONNX Runtime as histograms that grow with their range, so memory does not depend on
the number of images. None of the four rules is best for all networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from typing_extensions import assert_never

from handeye.vision.config import Config

NUM_BINS = 4096
"""Bins of a histogram; even, so that pairs can be merged when the range doubles."""
LEVELS = 128
"""Levels of a signed 8-bit number on one side of zero."""


class MinMaxRule(Config):
    """Lowest to highest value: nothing is clipped, outliers cost resolution."""

    kind: Literal["minmax"] = "minmax"


class PercentileRule(Config):
    """Clip at a percentile of the absolute values, separately on each side of zero."""

    kind: Literal["percentile"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.99


class EntropyRule(Config):
    """The bound with the least Kullback-Leibler divergence between the true and the quantised distribution.

    Migacz, 8-bit inference with TensorRT, GTC 2017.
    """

    kind: Literal["entropy"] = "entropy"


class SquaredErrorRule(Config):
    """The bound with the least mean squared error of rounding and clipping."""

    kind: Literal["mse"] = "mse"


Rule = Annotated[MinMaxRule | PercentileRule | EntropyRule | SquaredErrorRule, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Range:
    """The range of a quantised tensor, low <= 0 <= high; values outside are clipped."""

    low: float
    high: float

    @property
    def bound(self) -> float:
        """The larger distance from zero, for symmetric quantisation."""
        return max(-self.low, self.high)

    def union(self, other: Range) -> Range:
        """The smallest range that holds both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


class Histogram:
    """Histogram with equal bins from -limit to limit; limit doubles whenever a value exceeds it."""

    def __init__(self) -> None:
        self.counts: Int64[np.ndarray, " bins"] = np.zeros(NUM_BINS, np.int64)
        self.limit = 0.0
        self.low = self.high = 0.0

    def add(self, values: Float32[np.ndarray, "*shape"]) -> None:
        """Count `values`, except those that are not finite."""
        flat = values.ravel()
        if not np.isfinite(flat.sum(dtype=np.float64)):
            flat = flat[np.isfinite(flat)]
        if not flat.size:
            return
        low, high = float(flat.min()), float(flat.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach(max(-low, high))
        if self.limit:
            places = ((flat / np.float32(self.limit) + 1) * (NUM_BINS // 2)).astype(np.int32)
            self.counts += np.bincount(np.clip(places, 0, NUM_BINS - 1), minlength=NUM_BINS)
        else:
            self.counts[NUM_BINS // 2] += flat.size

    def _reach(self, distance: float) -> None:
        if distance > 0 and self.limit == 0:
            self.limit = distance
        while self.limit < distance:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            quarter = NUM_BINS // 4
            self.counts = np.concatenate([np.zeros(quarter, np.int64), pairs, np.zeros(quarter, np.int64)])
            self.limit *= 2

    @property
    def above(self) -> Float[np.ndarray, " half"]:
        """Counts of the positive values, by distance from zero."""
        return self.counts[NUM_BINS // 2 :].astype(np.float64)

    @property
    def below(self) -> Float[np.ndarray, " half"]:
        """Counts of the negative values, by distance from zero."""
        return self.counts[: NUM_BINS // 2][::-1].astype(np.float64)


def collect_histograms(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[Float32[np.ndarray, "1 3 H W"]]
) -> dict[str, Histogram]:
    """Run `model` on every input and collect a histogram of each named tensor."""
    histograms = {name: Histogram() for name in tensors}
    for values in tensor_values(model, tensors, inputs):
        for name, value in zip(tensors, values, strict=True):
            histograms[name].add(value)
    return histograms


def tensor_values(
    model: onnx.ModelProto, tensors: Sequence[str], inputs: Iterable[Float32[np.ndarray, "1 3 H W"]]
) -> Iterable[list[Float32[np.ndarray, "..."]]]:
    """Values of the named tensors, input by input."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name != probed.graph.input[0].name)
    options = onnxruntime.SessionOptions()
    # Full optimisation would fuse these tensors away.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    for batch in inputs:
        held = {input_name: batch}
        if ports := session.get_outputs():
            for port, value in zip(ports, session.run(None, {input_name: batch}), strict=True):
                held[port.name] = np.asarray(value)
        yield [held[name] for name in tensors]


def choose_range(histogram: Histogram, rule: Rule) -> Range:
    """The range of a tensor by a rule, which treats each side of zero separately."""
    match rule:
        case MinMaxRule():
            return Range(histogram.low, histogram.high)
        case PercentileRule():
            bounds = [_percentile_bound(side, rule.percentile) for side in (histogram.below, histogram.above)]
        case EntropyRule():
            bounds = [_entropy_bound(side) for side in (histogram.below, histogram.above)]
        case SquaredErrorRule():
            bounds = [_squared_error_bound(side) for side in (histogram.below, histogram.above)]
        case _:
            assert_never(rule)
    width = histogram.limit / (NUM_BINS // 2)
    return Range(max(-bounds[0] * width, histogram.low), min(bounds[1] * width, histogram.high))


def _percentile_bound(counts: Float[np.ndarray, " half"], percentile: float) -> float:
    """Bins from zero that hold the given percentage of one side's values."""
    total = counts.sum()
    return 0.0 if total == 0 else float(np.searchsorted(np.cumsum(counts), total * percentile / 100) + 1)


def _candidates(counts: Float[np.ndarray, " half"]) -> Int64[np.ndarray, " N"]:
    """Bounds to try, in bins: from the number of levels to the last bin that is not empty, about two hundred."""
    filled = np.flatnonzero(counts)
    last = int(filled[-1]) + 1 if len(filled) else 0
    return np.unique(np.linspace(min(LEVELS, last), last, 200).astype(np.int64)) if last else np.zeros(0, np.int64)


def _squared_error_bound(counts: Float[np.ndarray, " half"]) -> float:
    """The bound with the least sum of (value - rounded value)^2, values taken at the middle of bins."""
    bounds = _candidates(counts)
    if not len(bounds):
        return 0.0
    middles = np.arange(len(counts)) + 0.5
    errors = []
    for bound in bounds:
        step = bound / (LEVELS - 1)
        rounded = np.minimum(np.rint(middles / step), LEVELS - 1) * step
        errors.append(float(counts @ (middles - rounded) ** 2))
    return float(bounds[int(np.argmin(errors))])


def _entropy_bound(counts: Float[np.ndarray, " half"]) -> float:
    """The bound with the least divergence; the bin at zero is left out, because half of all activations are there."""
    counts = counts.copy()
    counts[0] = 0.0
    bounds = _candidates(counts)
    if not len(bounds):
        return 0.0
    return float(bounds[int(np.argmin([_divergence(counts, int(bound)) for bound in bounds]))])


def _divergence(counts: Float[np.ndarray, " half"], bound: int) -> float:
    """Kullback-Leibler divergence between the clipped distribution and its copy in LEVELS equal steps."""
    reference = counts[:bound].copy()
    is_filled = reference > 0
    steps = np.minimum(np.arange(bound) * LEVELS // bound, LEVELS - 1)
    sums = np.bincount(steps, reference, LEVELS)
    filled = np.bincount(steps, is_filled, LEVELS)
    copy = np.where(is_filled, (sums / np.maximum(filled, 1))[steps], 0.0)
    reference[-1] += counts[bound:].sum()
    p, q = reference / max(reference.sum(), 1.0), copy / max(copy.sum(), 1.0)
    both = p > 0
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())

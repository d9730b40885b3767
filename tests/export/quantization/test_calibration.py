"""Histograms and ranges: counts are kept, every rule does what it is defined to do, others' code agrees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
from scipy.stats import entropy

from handeye.export.quantization.calibration import (
    LEVELS,
    NUM_BINS,
    EntropyRule,
    Histogram,
    MinMaxRule,
    PercentileRule,
    Range,
    SquaredErrorRule,
    _divergence,
    choose_range,
    collect_histograms,
)
from tests.export.graphs import chain

finite = st.floats(-1e6, 1e6, width=32)


def histogram(*parts: np.ndarray) -> Histogram:
    counted = Histogram()
    for part in parts:
        counted.add(part.astype(np.float32))
    return counted


@given(st.lists(hnp.arrays(np.float32, st.integers(0, 30), elements=finite), max_size=5))
def test_every_number_is_counted_once_and_the_ends_are_exact(parts: list[np.ndarray]):
    counted = histogram(*parts)
    everything = np.concatenate([*parts, np.zeros(1, np.float32)])
    assert counted.counts.sum() == sum(part.size for part in parts)
    assert (counted.low, counted.high) == (everything.min(), everything.max())
    assert counted.limit >= np.abs(everything).max()


def test_growing_moves_no_count_out_of_its_place():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0, 1, 5000), rng.normal(0, 9, 5000)
    grown, at_once = histogram(small, large), Histogram()
    at_once.limit = grown.limit
    at_once.add(np.concatenate([small, large]).astype(np.float32))
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(at_once.counts)).max() <= 10, "rounding at the edges of bins"


def test_numbers_that_are_not_finite_do_not_count():
    counted = histogram(np.array([1.0, np.nan, np.inf, -np.inf, -2.0]))
    assert (counted.counts.sum(), counted.low, counted.high) == (2, -2, 1)


@pytest.mark.parametrize("rule", [MinMaxRule(), PercentileRule(), EntropyRule(), SquaredErrorRule()])
@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(9), np.full(9, 3.0), np.full(9, -3.0), np.arange(-3, 6)])
def test_a_range_holds_zero_and_nothing_that_was_not_seen(rule, values: np.ndarray):
    held = choose_range(histogram(values), rule)
    assert min(values.min(initial=0), 0) <= held.low <= 0 <= held.high <= max(values.max(initial=0), 0)


def test_minmax_is_what_the_tool_of_onnx_runtime_finds(tmp_path):
    model, images = chain(), [np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype("f4") for seed in range(4)]
    names = [node.output[0] for node in model.graph.node]
    ours = collect_histograms(model, ["images", *names], images)
    onnx.save(model, tmp_path / "chain.onnx")

    class Reader(CalibrationDataReader):
        waiting = [{"images": image} for image in images]

        def get_next(self):
            return self.waiting.pop(0) if self.waiting else None

    theirs = create_calibrator(
        tmp_path / "chain.onnx",
        augmented_model_path=str(tmp_path / "probed.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
    )
    theirs.collect_data(Reader())
    for name, found in theirs.compute_data().items():
        low, high = (float(np.asarray(end).item()) for end in found.range_value)
        got = choose_range(ours[name], MinMaxRule())
        assert (got.low, got.high) == pytest.approx((min(low, 0), max(high, 0)), rel=1e-5), name


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_a_percentile_cuts_off_its_share_of_each_side(percentile: float):
    values = np.random.default_rng(0).laplace(size=200_000)
    held = choose_range(histogram(values), PercentileRule(percentile=percentile))
    assert held.high == pytest.approx(np.percentile(values[values > 0], percentile), rel=0.01)
    assert held.low == pytest.approx(-np.percentile(-values[values < 0], percentile), rel=0.01)


@pytest.mark.parametrize("distribution", ["normal", "laplace", "uniform"])
def test_the_least_squared_error_is_found(distribution: str):
    values = np.abs(getattr(np.random.default_rng(0), distribution)(size=100_000))

    def error(bound: float) -> float:
        step = bound / (LEVELS - 1)
        return float(((np.clip(np.rint(values / step), 0, LEVELS - 1) * step - values) ** 2).mean())

    bound = choose_range(histogram(values), SquaredErrorRule()).high
    best = min(error(float(other)) for other in np.linspace(0.2, 1, 161) * values.max())
    assert error(bound) <= best * 1.02
    if distribution == "laplace":
        assert bound < 0.95 * values.max(), "long tails are worth cutting"


def test_the_divergence_is_that_of_scipy_and_one_outlier_is_cut_off():
    counts = np.random.default_rng(0).integers(1, 50, NUM_BINS // 2).astype(float)
    bound = 3 * LEVELS
    spread = counts[:bound].reshape(LEVELS, 3).mean(axis=1).repeat(3)
    cut = counts[:bound].copy()
    cut[-1] += counts[bound:].sum()
    assert _divergence(counts, bound) == pytest.approx(float(entropy(cut, spread)))
    values = np.append(np.abs(np.random.default_rng(0).normal(size=100_000)), 100.0)
    assert 2 < choose_range(histogram(values), EntropyRule()).high < 12


def test_ranges_join():
    assert Range(-1.0, 2.0).union(Range(-3.0, 1.0)) == Range(-3.0, 2.0)
    assert (Range(-3.0, 2.0).bound, Range(-1.0, 2.0).bound) == (3, 2)

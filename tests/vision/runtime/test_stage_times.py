"""Percentiles of stage times: by hand, against their definition, and refusals."""

import numpy as np
import pytest

from handeye.vision.runtime.image_detector import percentiles_ms, stage_percentiles


def test_percentiles_of_a_ramp_and_of_one_value():
    ramp = percentiles_ms(np.linspace(0.0, 0.1, 101).tolist())
    assert ramp == pytest.approx({"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0})
    assert set(percentiles_ms([0.002]).values()) == {2.0}


def test_total_is_the_sum_of_each_call_not_of_the_percentiles():
    calls = [{"read": 0.001, "infer": 0.009}, {"read": 0.009, "infer": 0.001}]
    summary = stage_percentiles(calls)
    assert list(summary) == ["read", "infer", "total"]
    assert summary["total"] == pytest.approx({"p50_ms": 10.0, "p95_ms": 10.0, "p99_ms": 10.0})
    assert summary["read"]["p50_ms"] == pytest.approx(5.0)


def test_nothing_measured_and_unequal_stages_are_rejected():
    with pytest.raises(ValueError, match="no duration"):
        percentiles_ms([])
    with pytest.raises(ValueError, match="no duration"):
        stage_percentiles([])
    with pytest.raises(ValueError, match="different stages"):
        stage_percentiles([{"read": 1.0}, {"infer": 1.0}])


@pytest.mark.parametrize(
    ("batch", "images_per_s", "latency_ms"), [(1, 10, 100), (4, 35, 114), (16, 100, 160), (64, 200, 320)]
)
def test_the_latencies_of_section_28_4_4_are_those_of_whole_batches(batch, images_per_s, latency_ms):
    # Printed as "ms/img": every image waits for its whole batch.
    assert percentiles_ms([batch / images_per_s])["p50_ms"] == pytest.approx(latency_ms, abs=0.5)

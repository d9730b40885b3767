"""When a run is given up."""

from __future__ import annotations

import pytest

from handeye.vision.training.config import EarlyStoppingConfig, has_stalled


@pytest.mark.parametrize(
    ("values", "stalled"),
    [
        ([], False),
        ([0.0], False),
        ([0.1, 0.2, 0.3, 0.4], False),
        ([0.3, 0.2], False),
        ([0.3, 0.2, 0.25], True),
        ([0.3, 0.3, 0.3], True),
        ([0.3, 0.2, 0.31, 0.2], False),
        ([0.0, 0.0, 0.0], True),
    ],
)
def test_patience_counts_measurements_since_the_best(values, stalled):
    assert has_stalled(EarlyStoppingConfig(patience=2), values) == stalled


def test_small_gains_may_count_as_none():
    creeping = [0.30, 0.305, 0.309, 0.311]
    assert has_stalled(EarlyStoppingConfig(patience=2, least_gain=0.01), creeping[:3])
    assert not has_stalled(EarlyStoppingConfig(patience=2, least_gain=0.01), creeping)
    assert not has_stalled(EarlyStoppingConfig(patience=2), creeping)

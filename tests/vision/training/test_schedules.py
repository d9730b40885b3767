"""The learning rate at every point where its formula changes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vision.training.schedules import RateSetter, ScheduleConfig, WarmupCosine


def test_the_points_where_the_formula_changes():
    schedule = WarmupCosine(warmup_steps=10, tail_start=110, final_fraction=0.05)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(4) == pytest.approx(0.5)
    assert schedule.factor(9) == 1.0
    assert schedule.factor(10) == 1.0
    assert schedule.factor(35) == pytest.approx(0.05 + 0.95 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.factor(60) == pytest.approx((1 + 0.05) / 2)
    assert schedule.factor(110) == 0.05
    assert schedule.factor(10_000) == 0.05


def test_agrees_with_torchs_cosine():
    peak, final, steps = 0.3, 0.06, 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=final)
    schedule = WarmupCosine(warmup_steps=0, tail_start=steps, final_fraction=final / peak)
    for step in range(steps):
        assert peak * schedule.factor(step) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


def test_lengths_in_epochs_become_steps():
    config = ScheduleConfig(warmup_epochs=2.5, constant_last_epochs=3, final_fraction=0.1)
    assert WarmupCosine.from_config(config, steps_per_epoch=10, num_steps=100) == WarmupCosine(25, 70, 0.1)


@given(warmup=st.floats(0, 50), tail=st.floats(0, 50), num_steps=st.integers(1, 200))
def test_rates_stay_between_zero_and_the_peak_whatever_the_lengths(warmup, tail, num_steps):
    config = ScheduleConfig(warmup_epochs=warmup, constant_last_epochs=tail, final_fraction=0.01)
    schedule = WarmupCosine.from_config(config, steps_per_epoch=7, num_steps=num_steps)
    factors = [schedule.factor(step) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    rising, falling = factors[: schedule.warmup_steps], factors[schedule.warmup_steps :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def test_groups_keep_their_ratio():
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.2},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.02},
    ]
    optimizer = torch.optim.SGD(groups)
    rates = RateSetter.of(optimizer, WarmupCosine(4, 8, 0.5))
    assert rates.set_for_step(1) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])
    rates.set_for_step(3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])

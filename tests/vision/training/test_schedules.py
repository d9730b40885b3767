"""The learning rate at every point where its formula changes, and beside torch's own schedulers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch.optim import lr_scheduler

from handeye.vision.config import dump_config, validate_config
from handeye.vision.errors import ConfigError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.schedules import (
    Cosine,
    CosineScheduleConfig,
    LrSetter,
    ScheduleConfig,
    WarmedUp,
    build_schedule,
)

PEAK = 0.3


def schedule_of(steps_per_epoch: int, num_steps: int, **content: Any):
    return build_schedule(TypeAdapter(ScheduleConfig).validate_python(content), steps_per_epoch, num_steps)


def rates_of_torch(num_steps: int, make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=PEAK)
    reference, rates = make(optimizer), []
    for _ in range(num_steps):
        rates.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    return rates


def test_the_points_where_the_formula_of_the_default_changes():
    schedule = WarmedUp(10, 1, Cosine(10, 110, 0.05))
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(4) == pytest.approx(0.5)
    assert schedule.factor(9) == 1.0
    assert schedule.factor(10) == 1.0
    assert schedule.factor(35) == pytest.approx(0.05 + 0.95 * (1 + math.cos(math.pi / 4)) / 2)
    assert schedule.factor(60) == pytest.approx((1 + 0.05) / 2)
    assert schedule.factor(110) == 0.05
    assert schedule.factor(10_000) == 0.05


def test_the_quadratic_climb_is_the_square_of_the_linear_one():
    linear, quadratic = (schedule_of(10, 100, warmup_epochs=2, warmup=kind) for kind in ("linear", "quadratic"))
    assert [quadratic.factor(step) for step in range(20)] == pytest.approx(
        [linear.factor(step) ** 2 for step in range(20)]
    )
    assert quadratic.factor(9) == pytest.approx(0.25)
    assert quadratic.factor(19) == 1.0
    assert quadratic.factor(40) == linear.factor(40)


SECOND_OPINIONS = {
    "step": (
        {"kind": "step", "milestone_epochs": [2, 1.5, 3], "factor": 0.2},
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [15, 20, 30], gamma=0.2),
    ),
    "exponential": (
        {"kind": "exponential", "factor_per_epoch": 0.8},
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma=0.8**0.1),
    ),
    "cosine": (
        {"kind": "cosine", "constant_last_epochs": 0, "final_fraction": 0.2},
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=60, eta_min=0.2 * PEAK),
    ),
    "restarts": (
        {"kind": "restarts", "first_epochs": 0.8, "growth": 2, "final_fraction": 0.1},
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=8, T_mult=2, eta_min=0.1 * PEAK),
    ),
    "one_cycle": (
        {"kind": "one_cycle", "rise_fraction": 0.31},
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=PEAK, total_steps=60, pct_start=0.31, cycle_momentum=False
        ),
    ),
}


@pytest.mark.parametrize("kind", SECOND_OPINIONS)
def test_agrees_with_torch(kind):
    content, make = SECOND_OPINIONS[kind]
    climb = {} if kind == "one_cycle" else {"warmup_epochs": 0}
    schedule = schedule_of(10, 60, **content, **climb)
    # torch's one-cycle has no step beyond its last, and its scheduler is stepped once more than it is read.
    num_steps = 59 if kind == "one_cycle" else 60
    assert [PEAK * schedule.factor(step) for step in range(num_steps)] == pytest.approx(
        rates_of_torch(num_steps, make), rel=1e-7
    )


def test_the_cosine_waits_for_its_time():
    schedule = schedule_of(
        10, 100, kind="flat_cosine", warmup_epochs=1, flat_fraction=0.4, constant_last_epochs=2, final_fraction=0.1
    )
    assert schedule.factor(4) == pytest.approx(0.5)
    assert [schedule.factor(step) for step in (9, 20, 40)] == [1.0, 1.0, 1.0]
    assert schedule.factor(60) == pytest.approx(0.55)
    assert [schedule.factor(step) for step in (80, 99)] == pytest.approx([0.1, 0.1])


def test_one_cycle_begins_and_ends_where_it_says():
    schedule = schedule_of(10, 101, kind="one_cycle", rise_fraction=0.25, initial_fraction=0.1, final_fraction=0.001)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[100] == pytest.approx(0.001)
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors.index(max(factors)) == 24


def test_lengths_in_epochs_become_steps():
    config = CosineScheduleConfig(warmup_epochs=2.5, constant_last_epochs=3, final_fraction=0.1)
    assert build_schedule(config, steps_per_epoch=10, num_steps=100) == WarmedUp(25, 1, Cosine(25, 70, 0.1))


KINDS = [
    {"kind": "step", "milestone_epochs": [1, 3]},
    {"kind": "exponential"},
    {"kind": "cosine"},
    {"kind": "restarts", "first_epochs": 0.7, "growth": 1.3},
    {"kind": "flat_cosine"},
]


@pytest.mark.parametrize("content", KINDS, ids=lambda content: content["kind"])
@given(warmup=st.floats(0, 50), num_steps=st.integers(1, 200))
def test_rates_stay_between_zero_and_the_peak_whatever_the_lengths(content, warmup, num_steps):
    schedule = schedule_of(7, num_steps, **content, warmup_epochs=warmup)
    assert all(0 <= schedule.factor(step) <= 1 for step in range(num_steps + 5))
    assert schedule.factor(0) > 0


@given(warmup=st.floats(0, 50), tail=st.floats(0, 50), num_steps=st.integers(1, 200))
def test_the_default_rises_and_falls_once(warmup, tail, num_steps):
    config = CosineScheduleConfig(warmup_epochs=warmup, constant_last_epochs=tail, final_fraction=0.01)
    schedule = build_schedule(config, steps_per_epoch=7, num_steps=num_steps)
    assert isinstance(schedule, WarmedUp)
    factors = [schedule.factor(step) for step in range(num_steps)]
    rising, falling = factors[: schedule.warmup_steps], factors[schedule.warmup_steps :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


@given(rise=st.floats(0.01, 0.99), num_steps=st.integers(1, 100))
def test_one_cycle_stays_between_zero_and_the_peak(rise, num_steps):
    schedule = schedule_of(7, num_steps, kind="one_cycle", rise_fraction=rise)
    assert all(0 <= schedule.factor(step) <= 1 + 1e-12 for step in range(num_steps + 5))


def test_without_a_kind_the_keys_are_those_of_the_cosine():
    content = {"detector": {}, "data": {"annotations": "a", "images": "b"}, "schedule": {"warmup_epochs": 3}}
    config = validate_config(TrainDetectorConfig, content, origin="test")
    assert config.schedule == CosineScheduleConfig(warmup_epochs=3)
    assert "kind: cosine" in dump_config(config)
    with pytest.raises(ConfigError, match="schedule.milestone_epochs: Field required"):
        validate_config(TrainDetectorConfig, {**content, "schedule": {"kind": "step"}}, origin="test")
    with pytest.raises(ConfigError, match="schedule.kind: expected one of .*'one_cycle'.*got 'sine'"):
        validate_config(TrainDetectorConfig, {**content, "schedule": {"kind": "sine"}}, origin="test")


def test_groups_keep_their_ratio():
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.2},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.02},
    ]
    optimizer = torch.optim.SGD(groups)
    rates = LrSetter.of(optimizer, WarmedUp(4, 1, Cosine(4, 8, 0.5)))
    assert rates.set_for_step(1) == pytest.approx(0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.01])
    rates.set_for_step(3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.02])

"""The moving average follows its formula on every kind of entry of a state dict."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from handeye.vision.training.optimizer import Ema, EmaConfig


def small_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def change(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.randn(value.shape, generator=generator))
            else:
                value.add_(1)


def test_each_update_follows_the_formula():
    model, generator = small_model(), torch.Generator().manual_seed(0)
    average = Ema(EmaConfig(decay=0.9, ramp_steps=4), model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for update in range(1, 6):
        change(model, generator)
        average.update(model)
        decay = 0.9 * (1 - math.exp(-update / 4))
        for name, value in model.state_dict().items():
            is_number = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if is_number else value.clone()
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_the_decay_grows_to_its_value():
    average = Ema(EmaConfig(decay=0.9998, ramp_steps=2000), small_model())
    assert average.decay_at(1) == pytest.approx(0.9998 / 2000, rel=1e-3)
    assert average.decay_at(2000) == pytest.approx(0.9998 * (1 - math.exp(-1)))
    assert average.decay_at(100_000) == pytest.approx(0.9998)


def test_no_decay_means_a_copy():
    model = small_model()
    average = Ema(EmaConfig(decay=0.0), model)
    change(model, torch.Generator().manual_seed(1))
    average.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(average.model.state_dict()[name], value)


def test_the_average_is_a_model_of_its_own():
    model = small_model()
    average = Ema(EmaConfig(), model)
    before = {name: value.clone() for name, value in average.model.state_dict().items()}
    change(model, torch.Generator().manual_seed(2))
    assert all(torch.equal(before[name], value) for name, value in average.model.state_dict().items())
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_a_restored_average_goes_on_as_the_old_one():
    config, generator = EmaConfig(decay=0.9, ramp_steps=3), torch.Generator().manual_seed(3)
    model = small_model()
    one = Ema(config, model)
    change(model, generator)
    one.update(model)
    other = Ema(config, small_model())
    other.load_state_dict(one.state_dict())
    change(model, generator)
    one.update(model)
    other.update(model)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])

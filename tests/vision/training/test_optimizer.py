"""Which tensors decay, and that the rates are those of the configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.training.optimizer import AdamWConfig, SgdConfig, build_optimizer, parameter_groups


def test_weights_decay_and_norms_and_biases_do_not():
    detector = Detector(DetectorConfig.model_validate({"num_classes": 3}))
    decaying, resting = parameter_groups(detector.parameters(), 0.05)
    assert (decaying["weight_decay"], resting["weight_decay"]) == (0.05, 0.0)
    name_of = {id(parameter): name for name, parameter in detector.named_parameters()}
    decaying_names = {name_of[id(parameter)] for parameter in decaying["params"]}
    resting_names = {name_of[id(parameter)] for parameter in resting["params"]}
    assert decaying_names | resting_names == set(name_of.values())
    assert not decaying_names & resting_names
    norms = {
        f"{name}.{kind}"
        for name, module in detector.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    biases = {name for name in name_of.values() if name.endswith(".bias")}
    assert resting_names == norms | biases


def test_frozen_parameters_are_left_out():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    decaying, resting = parameter_groups(model.parameters(), 0.1)
    assert (len(decaying["params"]), len(resting["params"])) == (0, 1)


def test_sgd_grows_with_the_batch_and_has_nesterov_momentum():
    optimizer = build_optimizer(SgdConfig(), nn.Linear(2, 2), batch_size=64)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0.0]


def test_sgd_without_momentum_is_plain():
    optimizer = build_optimizer(SgdConfig(momentum=0.0), nn.Linear(2, 2), batch_size=1)
    assert not optimizer.param_groups[0]["nesterov"]


def test_adamw_does_not_look_at_the_batch():
    config = AdamWConfig(lr=3e-4, betas=(0.8, 0.95), weight_decay=0.1)
    optimizer = build_optimizer(config, nn.Linear(2, 2), batch_size=64)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-4, 3e-4]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)


@pytest.mark.parametrize(
    ("config", "rate"),
    [
        (SgdConfig(lr_per_image=0.01, backbone_lr_factor=0.1), 0.04),
        (AdamWConfig(lr=1e-4, backbone_lr_factor=0.1), 1e-4),
    ],
)
def test_the_backbone_may_learn_more_slowly(config: SgdConfig | AdamWConfig, rate: float):
    detector = Detector(DetectorConfig.model_validate({"num_classes": 3}))
    optimizer = build_optimizer(config, detector, batch_size=4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate, rate / 10, rate / 10])
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [config.weight_decay, 0.0, config.weight_decay, 0.0]
    of_backbone = {id(parameter) for parameter in detector.backbone.parameters()}
    slow = {id(parameter) for group in optimizer.param_groups[2:] for parameter in group["params"]}
    quick = {id(parameter) for group in optimizer.param_groups[:2] for parameter in group["params"]}
    assert slow == of_backbone
    assert slow | quick == {id(parameter) for parameter in detector.parameters()}
    assert not slow & quick

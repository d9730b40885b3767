"""What is frozen stays as it is, statistics too; what cannot be frozen is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.errors import ConfigError
from handeye.vision.training.optimizer import freeze, train_mode


def small_model() -> nn.Module:
    def block() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    stages = nn.ModuleList(block() for _ in range(11))
    return nn.ModuleDict({"backbone": nn.ModuleDict({"stages": stages}), "head": block()})


def test_a_prefix_ends_at_a_dot():
    model = small_model()
    freeze(model, ["backbone.stages.1", "head.0.bias"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    stage = {f"backbone.stages.1.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")}
    assert frozen == stage | {"head.0.bias"}


def test_frozen_norms_keep_their_statistics_and_the_others_learn_them():
    model = small_model()
    freeze(model, ["backbone"])
    for _ in range(2):  # also after eval mode
        model.eval()
        train_mode(model, ["backbone"])
    features = 5 + torch.randn(4, 3, 6, 6)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for stage in model["backbone"]["stages"]:
        features = stage(features)
    model["head"](features)
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"head.1.running_mean", "head.1.running_var", "head.1.num_batches_tracked"}


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (["backbon"], "nothing named 'backbon'; it has backbone, head"),
        (["backbone.stages.12"], "backbone.stages has 0, 1, 2"),
        (["backbone", "head"], "leave no weight to train"),
    ],
)
def test_what_cannot_be_frozen_is_told(prefixes, message):
    with pytest.raises(ConfigError, match=message):
        freeze(small_model(), prefixes)

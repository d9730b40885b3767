"""HGNetv2 under D-FINE's names: every key there, and every recorded map of D-FINE-N's backbone reproduced."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from handeye.vision.backbones.hgnetv2 import HGNetv2, HGNetv2Config
from handeye.vision.checkpoints.dfine import HGNETV2_NAMES


@pytest.fixture
def backbone() -> HGNetv2:
    return HGNetv2(HGNetv2Config(size="b0", affine=True, strides=(4, 8, 16, 32))).eval()


def published_name(key: str) -> str:
    key = f"backbone.{key}"
    for pattern, replacement in HGNETV2_NAMES:
        key = re.sub(pattern, replacement, key)
    return key


def test_the_keys_and_shapes_are_the_published_ones(recording, backbone):
    published = {
        key: tuple(shape)
        for key, (shape, _) in recording("dfine_n", "_g").meta["state_dict"].items()
        if key.startswith("backbone.")
    }
    assert {published_name(key): tuple(value.shape) for key, value in backbone.state_dict().items()} == published


@pytest.mark.parametrize("variant", ["", "_g"])
def test_the_recorded_maps_are_reproduced(recording, backbone, variant):
    recorded = recording("dfine_n", variant)
    backbone.load_state_dict({key: recorded.weights[published_name(key)] for key in backbone.state_dict()})
    with torch.no_grad():
        maps = [backbone.stem(recorded.images), *backbone(recorded.images)]
    for name, features in zip(("stem", "stage1", "stage2", "stage3", "stage4"), maps, strict=True):
        summary = {part: recorded.outputs[f"backbone.{name}.{part}"] for part in ("shape", "crop", "chan_mean", "std")}
        assert tuple(features.shape) == tuple(summary["shape"])
        np.testing.assert_allclose(features[0, :8, :4, :4], summary["crop"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(features.mean(dim=(2, 3))[0], summary["chan_mean"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(features.std(correction=0), summary["std"], rtol=0, atol=1e-5)

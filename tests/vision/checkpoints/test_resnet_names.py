"""ResNet-vd and ResNet under the names of RT-DETR and DETR: every key there, every recorded map reproduced."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from handeye.vision.backbones.resnet import ResNet, ResNetConfig
from handeye.vision.checkpoints.key_map import KeyMap
from handeye.vision.checkpoints.torchvision_backbones import VD_RENAMES, VD_TRANSFORMERS_RENAMES, plain_renames

RTDETR_KEYS = KeyMap(VD_RENAMES)
DETR_KEYS = KeyMap(plain_renames("backbone.0.body."))
CONFIGS = {
    "rtdetr_r18vd": (RTDETR_KEYS, ResNetConfig(depth=18, variant="vd")),
    "rtdetr_r50vd": (RTDETR_KEYS, ResNetConfig(depth=50, variant="vd", batch_norm="frozen", frozen_parts=1)),
    "detr_resnet50": (DETR_KEYS, ResNetConfig(depth=50, batch_norm="frozen", frozen_parts=2, strides=(4, 8, 16, 32))),
}
PLACES = {"detr_resnet50": ("stem_relu", "layer1", "layer2", "layer3", "layer4")}
"""The recorded maps: of the stem before its pool, then of the stages that are given out."""


class InADetector(nn.Module):
    """Where the key maps expect a backbone to be."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.backbone = ResNet(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_keys_and_shapes_are_the_published_ones(reference, name):
    key_map, config = CONFIGS[name]
    meta = json.loads(reference(f"{name}.json").read_text())
    published = {key: tuple(shape) for key, (shape, _) in meta["state_dict"].items() if key.startswith("backbone.")}
    ours = key_map.to_published(InADetector(config).state_dict())
    assert {key: tuple(value.shape) for key, value in ours.items()} == published


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("rtdetr_r18vd", "_g"),
        ("detr_resnet50", "_g"),
        *(pytest.param(name, "", marks=pytest.mark.slow) for name in CONFIGS),
        pytest.param("rtdetr_r50vd", "_g", marks=pytest.mark.slow),
    ],
)
def test_the_recorded_maps_are_reproduced(recording, name, variant):
    key_map, config = CONFIGS[name]
    recorded, network = recording(name, variant), InADetector(config).eval()
    weights = {key: value for key, value in recorded.weights.items() if key.startswith("backbone.")}
    network.load_state_dict(key_map.to_ours(weights, network.state_dict(), origin=name), strict=False)
    with torch.no_grad():
        maps = [network.backbone.stem(recorded.images), *network.backbone(recorded.images)]
    for place, features in zip(PLACES.get(name, ("stem", "s8", "s16", "s32")), maps, strict=True):
        recorded_map = {part: recorded.outputs[f"backbone.{place}.{part}"] for part in ("shape", "crop", "chan_mean")}
        tolerance = 1e-5 * max(1.0, float(recorded.outputs[f"backbone.{place}.std"]))
        assert tuple(features.shape) == tuple(recorded_map["shape"])
        np.testing.assert_allclose(features[0, :8, :4, :4], recorded_map["crop"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(features[0].mean(dim=(1, 2)), recorded_map["chan_mean"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_names_of_transformers_are_told_apart(depth):
    own = InADetector(ResNetConfig(depth=depth, variant="vd", blocks_per_stage=(1, 2, 1, 1))).state_dict()
    names = {KeyMap(VD_TRANSFORMERS_RENAMES).published_key(key) for key in own}
    stages = "model.backbone.model.encoder.stages"
    assert len(names) == len(own)
    assert "model.backbone.model.embedder.embedder.2.convolution.weight" in names
    assert f"{stages}.0.layers.0.shortcut.convolution.weight" in names
    assert f"{stages}.3.layers.0.shortcut.1.normalization.running_mean" in names
    assert f"{stages}.1.layers.1.layer.1.normalization.bias" in names

"""Backbones with torchvision's weights: torchvision itself and its recorded outputs as the second opinion."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from handeye.vision.backbones.build import build_classifier
from handeye.vision.checkpoints.published import load_official_backbone
from handeye.vision.checkpoints.torchvision_backbones import published_backbones
from handeye.vision.errors import ModelFileError, UserError

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "swin_t": 28_288_354,
    "swin_s": 49_606_258,
    "swin_b": 87_768_224,
    "vit_b_16": 86_567_656,
    "vit_l_16": 304_326_632,
}
"""As torchvision prints them."""
SMALL = ("resnet18",)
RECORDED = [
    pytest.param("tv_resnet50", "", marks=pytest.mark.slow),
    ("tv_resnet50", "_g"),
    ("tv_swin_t", ""),
    pytest.param("tv_vit_b_16", "", marks=pytest.mark.slow),
    pytest.param("tv_vit_b_16", "_g", marks=pytest.mark.slow),
]
"""The louder weights (_g) prove more; the plain ones are the second proof."""


def randomise(network: nn.Module) -> nn.Module:
    """Norms and tables that are still as built would hide mistakes."""
    torch.manual_seed(1)
    for key, values in network.state_dict().items():
        if key.endswith("running_var"):
            values.copy_(1 + 0.2 * torch.rand(values.shape))
        elif values.is_floating_point() and values.ndim == 1:
            values.copy_(float(key.endswith("weight")) + 0.1 * torch.randn(values.shape))
    return network.eval()


def names_of(chosen: tuple[str, ...]) -> list[object]:
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in published_backbones()]


@pytest.mark.parametrize("name", names_of(SMALL))
def test_the_logits_are_those_of_torchvision(name):
    theirs = randomise(torchvision.models.get_model(name))
    ours = load_official_backbone(name, theirs.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-4 * max(1.0, float(expected.std())))
    assert not ours.training


@pytest.mark.parametrize(("recorded_name", "variant"), RECORDED)
def test_the_recorded_logits_are_reproduced(recording, recorded_name, variant):
    recorded = recording(recorded_name, variant)
    classifier = load_official_backbone(recorded_name.removeprefix("tv_"), recorded.weights)
    with torch.no_grad():
        logits = classifier(recorded.images)
    np.testing.assert_allclose(logits, recorded.outputs["logits"], rtol=0, atol=2e-5)
    assert sum(weight.numel() for weight in classifier.parameters()) == recorded.meta["parameters"]


@pytest.mark.parametrize("name", published_backbones())
def test_keys_shapes_and_counts_are_those_of_torchvision(name):
    backbone = published_backbones()[name]
    with torch.device("meta"):
        ours, theirs = build_classifier(backbone.config), torchvision.models.get_model(name)
    written = {key: value.shape for key, value in backbone.key_map.to_published(ours.state_dict()).items()}
    published = {key: value.shape for key, value in theirs.state_dict().items()}
    assert written == {key: shape for key, shape in published.items() if not key.endswith("relative_position_index")}
    assert sum(weight.numel() for weight in ours.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", published_backbones())
def test_address_and_accuracy_are_those_of_torchvision(name):
    backbone = published_backbones()[name]
    theirs = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    assert backbone.weights.address == theirs.url
    assert backbone.imagenet_top1 == pytest.approx(theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)


def test_an_input_of_another_size_will_do():
    theirs = randomise(torchvision.models.resnet18())
    images = torch.randn(1, 3, 75, 131)
    with torch.no_grad():
        torch.testing.assert_close(load_official_backbone("resnet18", theirs.state_dict())(images), theirs(images))


def test_what_does_not_fit_is_listed_under_its_published_names():
    weights = torchvision.models.resnet18().state_dict()
    weights["layer5.0.conv1.weight"] = weights.pop("layer1.0.conv1.weight")
    weights["fc.bias"] = torch.zeros(7)
    with pytest.raises(ModelFileError) as refusal:
        load_official_backbone("resnet18", weights)
    message = str(refusal.value)
    assert "missing: layer1.0.conv1.weight" in message
    assert "unexpected: layer5.0.conv1.weight" in message
    assert "misshapen: fc.bias (7,) instead of (1000,)" in message


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="expected one of resnet18, resnet34"):
        load_official_backbone("resnet51", {})

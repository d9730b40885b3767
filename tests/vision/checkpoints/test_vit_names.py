"""torchvision's ViT-B/16: its recorded logits from the weights under their published names, old spellings too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from handeye.vision.backbones.vit import ViT, ViTConfig
from handeye.vision.checkpoints.torchvision_backbones import VIT_KEYS


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "_g"])
def test_the_recorded_logits_are_reproduced(recording, variant):
    recorded = recording("tv_vit_b_16", variant)
    network = nn.ModuleDict({"backbone": ViT(ViTConfig()), "head": nn.Linear(768, 1000)}).eval()
    network.load_state_dict(VIT_KEYS.to_ours(recorded.weights, network.state_dict(), origin="tv_vit_b_16"))
    with torch.no_grad():
        logits = network["head"](network["backbone"].forward_classification_features(recorded.images))
    np.testing.assert_allclose(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    assert sum(values.numel() for values in network.parameters()) == recorded.meta["parameters"]


def small_network() -> nn.ModuleDict:
    return nn.ModuleDict({"backbone": ViT(ViTConfig(depth=1)), "head": nn.Linear(768, 3)})


def test_packed_projections_come_apart_and_together_again():
    own = small_network().state_dict()
    published = VIT_KEYS.to_published(own)
    assert published["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"].shape == (3 * 768, 768)
    back = VIT_KEYS.to_ours(published, own, origin="test")
    assert back.keys() == own.keys()
    assert all(back[key].equal(own[key]) for key in own)


def test_the_spelling_of_older_files_is_known():
    own = small_network().state_dict()
    published = VIT_KEYS.to_published(own)
    old = {key.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): published[key] for key in published}
    assert old.keys() != published.keys()
    assert VIT_KEYS.to_ours(old, own, origin="test").keys() == own.keys()

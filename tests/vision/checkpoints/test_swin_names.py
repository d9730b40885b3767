"""torchvision's Swin-T: its recorded logits from the weights under their published names, and the fingerprint."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from handeye.vision.backbones.swin import Swin, SwinConfig
from handeye.vision.checkpoints.torchvision_backbones import SWIN_KEYS


def test_the_recorded_logits_are_reproduced(recording):
    recorded = recording("tv_swin_t", "")
    network = nn.ModuleDict({"backbone": Swin(SwinConfig(strides=(32,))), "head": nn.Linear(768, 1000)}).eval()
    network.load_state_dict(SWIN_KEYS.to_ours(recorded.weights, network.state_dict(), origin="tv_swin_t"))
    with torch.no_grad():
        logits = network["head"](network["backbone"].forward_classification_features(recorded.images))
    np.testing.assert_allclose(logits, recorded.outputs["logits"], rtol=0, atol=1e-5)
    assert sum(values.numel() for values in network.parameters()) == recorded.meta["parameters"]


def test_the_position_indices_of_published_files_are_ignored(recording):
    recorded = recording("tv_swin_t", "")
    with torch.device("meta"):
        network = nn.ModuleDict({"backbone": Swin(SwinConfig(strides=(32,))), "head": nn.Linear(768, 1000)})
    published = {key: torch.empty(shape, device="meta") for key, (shape, _) in recorded.meta["state_dict"].items()}
    assert len(published) > len(recorded.weights)
    ours = SWIN_KEYS.to_ours(published, network.state_dict(), origin="tv_swin_t")
    assert ours.keys() == network.state_dict().keys()

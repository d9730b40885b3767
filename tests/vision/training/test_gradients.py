"""Training over several processes waits for every gradient: no head may leave a weight out, whatever it sees."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.losses.build import build_loss

SIZES = {"num_queries": 10, "hidden_dim": 16, "num_heads": 2, "num_decoder_layers": 2, "feed_forward_dim": 16}
HEADS = {
    "yolo v1": ({"kind": "yolo_grid", "version": "v1"}, 1),
    "yolo v2": ({"kind": "yolo_grid", "version": "v2"}, 1),
    "yolo v3": ({"kind": "yolo_grid", "version": "v3"}, 3),
    "yolo v5": ({"kind": "yolo_grid", "version": "v5"}, 3),
    "yolox": ({"kind": "yolox", "hidden_dim": 16}, 3),
    "detr": ({"kind": "detr", "num_encoder_layers": 1, **SIZES}, 1),
    "rtdetr": ({"kind": "rtdetr", "num_denoising": 8, **SIZES}, 3),
    "dfine": ({"kind": "dfine", "num_denoising": 8, **SIZES}, 3),
}
EMPTY = BoxTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
ONE = BoxTargets(torch.tensor([[10.0, 10.0, 40.0, 50.0]]), torch.tensor([1]), torch.zeros(0, 4))


@pytest.mark.parametrize("targets", [[EMPTY, EMPTY], [ONE, EMPTY]], ids=["no objects", "one object"])
@pytest.mark.parametrize("name", HEADS)
def test_every_weight_that_learns_gets_a_gradient(name: str, targets: list[BoxTargets]):
    head, num_levels = HEADS[name]
    content = {
        "backbone": {"kind": "cspdarknet", "width": 0.125},
        "neck": {"kind": "levels", "num_levels": num_levels},
        "head": head,
        "num_classes": 3,
    }
    torch.manual_seed(0)
    detector = Detector(validate_config(DetectorConfig, content, origin="test")).train()
    losses = build_loss(None, detector.config.head)(detector(torch.rand(2, 3, 96, 96), targets), targets)
    losses["total"].backward()
    left_out = [key for key, weight in detector.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not left_out
    assert torch.isfinite(losses["total"])

"""RT-DETR-R18 in torch against the transformers library with the same weights: same boxes, less time.

`make benchmark` prints the ratio. Both take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from vision.checkpoints.official import key_maps_of
from vision.checkpoints.published_rtdetr import rtdetr_config
from vision.detector import Detector

REPEATS = 9


def load_both() -> tuple[Detector, nn.Module]:
    """The same random weights in both, in eval mode."""
    transformers = pytest.importorskip("transformers", reason="the peer is not installed")
    backbone = transformers.RTDetrResNetConfig(
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        num_labels=80,
        encoder_in_channels=[128, 256, 512],
        hidden_expansion=0.5,
        decoder_layers=3,
        freeze_backbone_batch_norms=False,
    )
    torch.manual_seed(0)
    theirs = transformers.RTDetrForObjectDetection(config).eval()
    ours = Detector(rtdetr_config(1, "r18vd")).eval()
    weights = key_maps_of(ours.config)[1].to_ours(theirs.state_dict(), ours.state_dict(), origin="transformers")
    ours.load_state_dict(weights, strict=False)
    return ours, theirs


def test_both_say_the_same():
    ours, theirs = load_both()
    images = torch.rand(1, 3, 320, 320, dtype=torch.float64)
    with torch.no_grad():
        found, expected = ours.double()(images), theirs.double()(images)
    order, expected_order = (rows[0].amax(dim=-1).argsort() for rows in (found.logits, expected.logits))
    torch.testing.assert_close(found.logits[0, order], expected.logits[0, expected_order], rtol=0, atol=1e-4)


def test_speed_ratio(benchmarks_wanted):
    ours, theirs = load_both()
    images = torch.rand(1, 3, 640, 640)
    times: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, network in (("ours", ours), ("transformers", theirs)):
                started = time.perf_counter()
                network(images)
                times[name].append(time.perf_counter() - started)
    # The first turn warms up; the fastest of the others was disturbed least.
    best = {name: min(values[1:]) for name, values in times.items()}
    ratio = np.median(np.array(times["ours"][1:]) / np.array(times["transformers"][1:]))
    print(
        f"\nRT-DETR-R18 at 640 x 640, {torch.get_num_threads()} threads: {best['ours'] * 1e3:.0f} ms, transformers "
        f"{best['transformers'] * 1e3:.0f} ms: ratio {best['ours'] / best['transformers']:.2f}, median {ratio:.2f}"
    )

"""DETR with ResNet-50 against the transformers library: the same weights, input and threads, both eager in eval mode.

`make benchmark` prints the ratio; both take turns.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from handeye.vision.checkpoints.detr import DETR_TRANSFORMERS_KEYS, detr_config
from handeye.vision.detector import Detector

INPUT_HW = (640, 640)
ROUNDS = 10


def load_both() -> tuple[Detector, nn.Module]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = Detector(detr_config(50)).eval()
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(),
        num_labels=91,
    )
    theirs = transformers.DetrForObjectDetection(config).eval()
    theirs.load_state_dict(DETR_TRANSFORMERS_KEYS.to_published(ours.state_dict()))
    return ours, theirs


def test_speed_ratio(benchmarks_wanted):
    ours, theirs = load_both()
    images = torch.rand(1, 3, *INPUT_HW, generator=torch.Generator().manual_seed(1))
    # The processor's time, not the clock's: what else a busy machine does is not the networks' doing.
    times: dict[str, list[float]] = {"ours": [], "transformers": []}
    with torch.inference_mode():
        torch.testing.assert_close(ours(images).logits, theirs(images).logits, rtol=0, atol=1e-4)
        for _ in range(ROUNDS):
            for name, network in (("ours", ours), ("transformers", theirs)):
                started = time.process_time()
                network(images)
                times[name].append(time.process_time() - started)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    ratio = float(np.median(np.array(times["ours"]) / np.array(times["transformers"])))
    print(
        f"\nDETR R50 at 640 x 640, {torch.get_num_threads()} threads: {medians['ours'] * 1e3:.0f} ms of processor, "
        f"transformers {medians['transformers'] * 1e3:.0f} ms: ratio {ratio:.3f}"
    )

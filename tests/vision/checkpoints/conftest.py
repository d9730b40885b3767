"""Recorded networks: the weights that ../shared/reference describes by formula, and a small detector."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vision.backbones.cspdarknet import CSPDarknetConfig
from vision.detector import Detector, DetectorConfig
from vision.heads.yolox import YoloxHeadConfig


@dataclass(frozen=True)
class Recording:
    """One network as its authors' code computed it: weights by formula, input by seed, outputs."""

    meta: dict[str, Any]
    weights: dict[str, Tensor]
    images: Tensor
    outputs: Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def recording(shared: Callable[[str], Path]) -> Callable[[str, str], Recording]:
    """`recording("yolox_nano", "_g")`: a network with the plain ("") or the louder ("_g") weights."""

    def read(name: str, variant: str) -> Recording:
        meta = json.loads(shared(f"reference/{name}.json").read_text())
        weights = {
            key: _weight(key, tuple(shape), meta["gain_variant"] if variant else 1.0)
            for key, (shape, _) in meta["state_dict"].items()
        }
        content = b"".join(values.numpy().tobytes() for values in weights.values())
        assert hashlib.sha256(content).hexdigest() == meta["weights_sha256"][variant or "plain"]
        generator = np.random.Generator(np.random.PCG64(meta["input"]["seed"]))
        images = torch.from_numpy(generator.random(meta["input"]["shape"], dtype=np.float32))
        return Recording(meta, weights, images, np.load(shared(f"reference/{name}{variant}.npz")))

    return read


@pytest.fixture
def small_detector() -> Detector:
    """A detector of a few thousand weights, in eval mode, with norms that have seen something."""
    torch.manual_seed(0)
    config = DetectorConfig(
        backbone=CSPDarknetConfig(width=0.125, depthwise=True),
        head=YoloxHeadConfig(hidden_dim=8, depthwise=True),
        num_classes=2,
        class_names=("cup", "Löffel"),
    )
    detector = Detector(config).train()
    detector(torch.rand(2, 3, 32, 32))
    return detector.eval()


def _weight(key: str, shape: tuple[int, ...], gain: float) -> Tensor:
    """Section 2 of ../shared/reference/README.md, as far as convolution networks go."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    normal = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    if key.endswith("running_var"):
        values = 1 + 0.2 * np.abs(normal)
    elif key.endswith("running_mean"):
        values = 0.1 * normal
    elif len(shape) == 1:
        values = 1 + 0.1 * normal if key.endswith("weight") else 0.05 * normal
    else:
        values = normal * np.sqrt(gain / np.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))

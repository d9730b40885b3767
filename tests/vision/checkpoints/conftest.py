"""Recorded networks: weights by formula and what the authors' code computed with them, and a small detector."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.heads.yolox import YoloxHeadConfig
from tests.formula_weights import formula_weight


@dataclass(frozen=True)
class Recording:
    """One network as its authors' code computed it: weights by formula, input by seed, outputs.

    What the authors' code computes by itself (anchors, position indices) is not among the weights.
    """

    meta: dict[str, Any]
    weights: dict[str, Tensor]
    images: Tensor
    outputs: Mapping[str, np.ndarray]


def rows_kept(values: Any, place: str, outputs: Mapping[str, np.ndarray]) -> Any:
    """Of our values the rows that a thinned recording has: one in so many along the last axis but one."""
    step = f"{place}.step"
    return values[..., :: int(outputs[step]), :] if step in outputs else values


@pytest.fixture(scope="session")
def recording(reference: Callable[[str], Path]) -> Callable[[str, str], Recording]:
    """`recording("yolox_nano", "_g")`: a network with the plain ("") or the louder ("_g") weights.

    Some have shorter recordings of other sizes besides, as `recording("rtdetr_r18vd", "_640_g")`.
    """

    @functools.lru_cache(maxsize=2)  # neighbouring tests look at the same one
    def read(name: str, variant: str) -> Recording:
        meta = json.loads(reference(f"{name}.json").read_text())
        other = meta.get("variants", {}).get(variant.removeprefix("_"))
        gain = other["gain"] if other else meta["gain_variant"] if variant else None
        sha256 = other["weights_sha256"]["_g"] if other else meta["weights_sha256"][variant or "plain"]
        weights = {
            key: formula_weight(key, tuple(shape), gain)
            for key, (shape, _) in meta["state_dict"].items()
            if key not in meta["kept_keys"]
        }
        content = b"".join(values.numpy().tobytes() for values in weights.values())
        assert hashlib.sha256(content).hexdigest() == sha256
        generator = np.random.Generator(np.random.PCG64(meta["input"]["seed"]))
        shape = other["input_shape"] if other else meta["input"]["shape"]
        images = torch.from_numpy(generator.random(shape, dtype=np.float32))
        return Recording(meta, weights, images, np.load(reference(f"{name}{variant}.npz")))

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

"""Weights by formula: what a network's numbers were when its outputs were recorded (../shared/reference, section 2)."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

LOUD_TABLES = {
    "query_embed.weight": 4.0,
    "cls_embed.weight": 4.0,
    "additional_pos_embed.weight": 4.0,
    "decoder_pos_embed.weight": 4.0,
    "encoder_1d_feature_pos_embed.weight": 4.0,
    "class_token": 1.0,
    "encoder.pos_embedding": 1.0,
}
"""Ends of keys, and the standard deviation of these tables in the louder variant."""


def formula_weight(key: str, shape: tuple[int, ...], gain: float | None = None) -> Tensor:
    """The tensor of that name and shape; with a gain the louder variant."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    normal = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    loud = [deviation for end, deviation in LOUD_TABLES.items() if gain is not None and key.endswith(end)]
    if loud:
        values = loud[0] * normal
    elif key.endswith("running_var"):
        values = 1 + 0.2 * np.abs(normal)
    elif key.endswith("running_mean"):
        values = 0.1 * normal
    elif len(shape) == 1 and key.endswith(("weight", "lab.scale")):
        values = 1 + 0.1 * normal
    elif len(shape) < 2:
        values = 0.05 * normal
    else:
        values = normal * np.sqrt((gain if gain is not None and len(shape) == 4 else 1.0) / np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, dtype=np.float32))

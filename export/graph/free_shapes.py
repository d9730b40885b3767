"""Dynamic batch and input size: which detectors can have them, and parity with torch at other shapes.

Tracing turns whatever was computed from the example's shape into constants, so parts with position embeddings, anchors
or windows work at one size only. Nothing in a detector depends on the batch size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from handeye.export.parity import EngineParity, compare_rows, synthetic_images
from handeye.vision.backbones.swin import Swin
from handeye.vision.backbones.vit import ViT
from handeye.vision.detector import Detector
from handeye.vision.errors import UserError
from handeye.vision.evaluation.torch_session import INPUT_NAME, OUTPUT_NAME, TorchSession, output_layout
from handeye.vision.heads.query_selection import QuerySelection
from handeye.vision.heads.yolo_grid import YoloGridHead
from handeye.vision.images import Preprocessing, at_fixed_size, preprocess
from handeye.vision.necks.hybrid_encoder import HybridEncoder
from handeye.vision.runtime.engines import EngineName, open_session
from handeye.vision.runtime.manifest import read_manifest

OF_ONE_SIZE: Mapping[type, str] = {
    Swin: "its windows are laid out for one size",
    ViT: "its positions are interpolated for one size",
    HybridEncoder: "its positions are those of one size",
    QuerySelection: "its anchors are those of one size",
    YoloGridHead: "its grid of anchors is that of one size",
}
"""Modules that tracing ties to one input size."""


@dataclass(frozen=True, slots=True)
class FreeShapes:
    """Which dimensions of the input are dynamic."""

    batch: bool = False
    size: bool = False

    @property
    def axes(self) -> dict[str, dict[int, str]]:
        """`dynamic_axes` for torch.onnx.export; with a free size the number of rows is free, too."""
        ends = (
            {INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}} if self.batch else {INPUT_NAME: {}, OUTPUT_NAME: {}}
        )
        if self.size:
            ends[INPUT_NAME] |= {2: "height", 3: "width"}
            ends[OUTPUT_NAME] |= {1: "num_rows"}
        return {name: axes for name, axes in ends.items() if axes}

    def shapes(self, size_hw: tuple[int, int], stride: int) -> list[tuple[int, int, int]]:
        """Other batches and sizes at which to compare a graph with torch."""
        height, width = size_hw
        sizes = [(height + stride, width), (height, width + 2 * stride)] if self.size else [size_hw]
        return [(batch, *size) for size in sizes for batch in ((2, 3) if self.batch else (1,))]


FIXED = FreeShapes()


def require_free_size(detector: Detector) -> None:
    """Raise UserError, naming the module and the reason, for a detector whose graph would work at one size only."""
    for name, part in detector.named_modules():
        for kind, reason in OF_ONE_SIZE.items():
            if isinstance(part, kind):
                raise UserError(
                    f"--dynamic-size: {name or 'the detector'} ({kind.__name__}): {reason} when it is exported; export "
                    "one file for each size, with detector.preprocessing.size_hw"
                )


def measure_free_shapes(
    detector: Detector,
    path: Path,
    free: FreeShapes,
    engines: Sequence[EngineName],
    num_threads: int | None = None,
) -> list[EngineParity]:
    """Difference between each engine and torch on noise at other batches and sizes; raw rows, without NMS."""
    manifest = read_manifest(path)
    layout, size_hw = output_layout(detector), manifest.preprocessing.size_hw
    reference = TorchSession(detector, class_names=manifest.class_names)
    found = []
    for engine in engines:
        session = open_session(path, engine, num_threads)
        for shape in free.shapes(size_hw, max(detector.backbone.strides)):
            images = _noise(manifest.preprocessing, shape)
            expected = reference.run({INPUT_NAME: images})[OUTPUT_NAME]
            got = session.run({INPUT_NAME: images})[OUTPUT_NAME]
            apart = [compare_rows(*rows, layout, shape[1:]) for rows in zip(expected, got, strict=True)]
            boxes_px, scores = (max(values) for values in zip(*apart, strict=True))
            name = f"{session.engine}, {'x'.join(map(str, shape))}"
            worst = max(scores, boxes_px / max(shape[1:]))
            found.append(EngineParity(name, worst, boxes_px, scores, 0.0, 0))
    return found


def _noise(preprocessing: Preprocessing, shape: tuple[int, int, int]) -> Float32[np.ndarray, "B 3 H W"]:
    """A batch of preprocessed noise images of that height and width."""
    own = at_fixed_size(preprocessing, shape[1:])
    return np.stack([preprocess(synthetic_images(own, seed)[0], own)[0] for seed in range(shape[0])])

"""Parity of an exported file with torch: run the same inputs through torch and every engine and compare outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.optimize import linear_sum_assignment
from typing_extensions import assert_never

from handeye.export.agreement import Agreement, compare_detections
from handeye.vision.boxes.formats import cxcywh_to_xyxy, norm_to_pixels
from handeye.vision.detector import Detector
from handeye.vision.evaluation.torch_session import TorchSession, output_layout
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.decode import decode_boxes, grid_cells
from handeye.vision.runtime.engines import EngineName, fastest_engine, installed_engines
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import OutputLayout, PostprocessedBoxes, QueryRows, YoloxRows, read_manifest

SCORE_MARGIN = 0.01
"""Detections this close to the score threshold may appear on one side only, by rounding."""


@dataclass(frozen=True)
class EngineParity:
    """Worst absolute differences between one engine and torch over all images.

    boxes_px: corners of the decoded boxes of all rows, clipped to the network input, in its pixels; scores: objectness
    and class probabilities; detections_px: boxes of the final detections, in pixels of the image; unmatched:
    detections without a partner; worst: scores, and boxes as a fraction of the input's longer side, as one number for
    all outputs. NaN on one side only makes them infinite.
    """

    engine: str
    worst: float
    boxes_px: float
    scores: float
    detections_px: float
    unmatched: int


def measure_parity(
    detector: Detector,
    path: Path,
    images_rgb: Sequence[UInt8[np.ndarray, "h w 3"]] = (),
    engines: Sequence[EngineName] | None = None,
    num_threads: int | None = None,
) -> list[EngineParity]:
    """Compare an exported file with its detector in torch, on the given images and a few synthetic ones.

    Engines default to all that are installed; raises MissingPackageError when there is none.
    """
    images = [*synthetic_images(detector.config.preprocessing), *images_rgb]
    manifest = read_manifest(path)
    of_torch = manifest.model_copy(update={"output": output_layout(detector)})
    reference = ImageDetector(TorchSession(detector, class_names=manifest.class_names), of_torch)
    return [
        compare(reference, ImageDetector.load(path, engine=engine, num_threads=num_threads), images)
        for engine in engines or installed_engines() or [fastest_engine()]
    ]


def synthetic_images(preprocessing: Preprocessing, seed: int = 0) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Noise, black, white and smooth colour gradients."""
    height, width = preprocessing.size_hw
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)], axis=-1)
    return [noise, np.zeros_like(noise), np.full_like(noise, 255), smooth.astype(np.uint8)]


def compare(reference: ImageDetector, exported: ImageDetector, images: Sequence[np.ndarray]) -> EngineParity:
    """Compare raw rows and final detections of two detectors on images as cameras deliver them.

    A file with NMS in the graph has no raw rows; only its detections are compared.
    """
    boxes_px = scores = 0.0
    found = Agreement()
    layout, size_hw = exported.manifest.output, exported.manifest.preprocessing.size_hw
    for image in images:
        if not isinstance(layout, PostprocessedBoxes):
            apart = compare_rows(reference.raw_rows(image), exported.raw_rows(image), layout, size_hw)
            boxes_px, scores = max(boxes_px, apart[0]), max(scores, apart[1])
        found += compare_detections(reference(image), exported(image), reference.score_threshold + SCORE_MARGIN)
    if isinstance(layout, PostprocessedBoxes):
        boxes_px, scores = found.boxes_px, found.scores
    worst = max(scores, boxes_px / max(size_hw))
    return EngineParity(exported.engine, worst, boxes_px, scores, found.boxes_px, found.unmatched)


def compare_rows(
    expected: Float32[np.ndarray, "rows channels"],
    got: Float32[np.ndarray, "rows channels"],
    layout: OutputLayout,
    size_hw: tuple[int, int],
) -> tuple[float, float]:
    """Worst corner distance in pixels of the network input, and worst difference of scores."""
    if isinstance(layout, QueryRows):
        got = got[corresponding_rows(expected, got)]
    boxes_px = _worst(boxes_of(expected, layout, size_hw), boxes_of(got, layout, size_hw))
    return boxes_px, _worst(expected[:, 4:], got[:, 4:])


def boxes_of(
    rows: Float32[np.ndarray, "rows channels"], layout: OutputLayout, size_hw: tuple[int, int]
) -> Float32[np.ndarray, "rows 4"]:
    """The box of every row as corners in pixels of the network input, clipped to it.

    Clipped, because YOLOX's exp() gives cells without an object boxes of any size.
    """
    height, width = size_hw
    with np.errstate(invalid="ignore"):
        return np.clip(_corners(rows[:, :4], layout, size_hw), 0, np.array([width, height, width, height], np.float32))


def _corners(
    numbers: Float32[np.ndarray, "rows 4"], layout: OutputLayout, size_hw: tuple[int, int]
) -> Float32[np.ndarray, "rows 4"]:
    """Decode the first four columns to corners in pixels of the network input."""
    match layout:
        case YoloxRows():
            boxes = numbers if layout.decoded else decode_boxes(numbers, *grid_cells(size_hw, layout.strides))
            return cxcywh_to_xyxy(boxes)
        case QueryRows():
            return cxcywh_to_xyxy(norm_to_pixels(numbers, size_hw))
        case PostprocessedBoxes():
            return numbers
        case _:
            assert_never(layout)


def corresponding_rows(
    expected: Float32[np.ndarray, "queries channels"], got: Float32[np.ndarray, "queries channels"]
) -> Int64[np.ndarray, " queries"]:
    """Bipartite matching: for each expected query the row of `got`, at the least total distance.

    Queries are a set: heads that select them by score may order near-ties differently in another engine.
    """
    distances = np.stack([np.abs(got - row).max(axis=1) for row in expected])
    return linear_sum_assignment(distances)[1]


def _worst(one: Float32[np.ndarray, "N k"], other: Float32[np.ndarray, "N k"]) -> float:
    """The largest difference; infinite for NaN on one side only."""
    with np.errstate(invalid="ignore"):
        differences = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max(initial=0.0))

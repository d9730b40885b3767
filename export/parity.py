"""Proof that an exported file computes what was trained: the same inputs through torch and through every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from scipy.optimize import linear_sum_assignment

from vision.boxes.overlap import pairwise_iou
from vision.detector import Detector
from vision.evaluation.torch_session import TorchSession
from vision.images import Preprocessing
from vision.runtime.detections import Detections
from vision.runtime.image_detector import ImageDetector
from vision.runtime.manifest import OutputLayout, QueryRows, read_manifest
from vision.runtime.session import EngineName, fastest_engine, installed_engines

SCORE_MARGIN = 0.01
"""A detection this close to the score threshold may appear on one side only: rounding decides."""


@dataclass(frozen=True)
class EngineParity:
    """How far one engine is from torch: worst absolute differences over all images.

    boxes_px: decoded boxes of all rows, pixels of the network input; scores: objectness and class probabilities;
    detections_px: boxes of what is finally detected, pixels of the image; unmatched: detections that only one has;
    worst: scores, and boxes as a fraction of the input's longer side, so that one number covers all outputs.
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
    """Compare the exported file with the detector it came from, on the given images and a few synthetic ones.

    Engines default to all that are installed; raises MissingPackageError when there is none.
    """
    images = [*synthetic_images(detector.config.preprocessing), *images_rgb]
    manifest = read_manifest(path)
    reference = ImageDetector(TorchSession(detector, class_names=manifest.class_names), manifest)
    return [
        compare(reference, ImageDetector.load(path, engine=engine, num_threads=num_threads), images)
        for engine in engines or installed_engines() or [fastest_engine()]
    ]


def synthetic_images(preprocessing: Preprocessing, seed: int = 0) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Noise, black, white and smooth colour gradients: inputs at the limits of the range and across it."""
    height, width = preprocessing.size_hw
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)], axis=-1)
    return [noise, np.zeros_like(noise), np.full_like(noise, 255), smooth.astype(np.uint8)]


def compare(reference: ImageDetector, exported: ImageDetector, images: Sequence[np.ndarray]) -> EngineParity:
    """How far the rows and detections of `exported` are from those of `reference`, on images as cameras give them."""
    boxes_px = scores = detections_px = 0.0
    unmatched = 0
    layout, size_hw = exported.manifest.output, exported.manifest.preprocessing.size_hw
    for image in images:
        expected, got = reference.read_rows(image), exported.read_rows(image)
        if isinstance(layout, QueryRows):
            got = got[corresponding_rows(expected, got)]
        box_scale = _pixels_per_unit(layout, size_hw)
        boxes_px = max(boxes_px, _worst(expected[:, :4] * box_scale, got[:, :4] * box_scale))
        scores = max(scores, _worst(expected[:, 4:], got[:, 4:]))
        distance, lonely = _match(reference(image), exported(image), reference.score_threshold + SCORE_MARGIN)
        detections_px, unmatched = max(detections_px, distance), unmatched + lonely
    worst = max(scores, boxes_px / max(size_hw))
    return EngineParity(exported.engine, worst, boxes_px, scores, detections_px, unmatched)


def corresponding_rows(
    expected: Float32[np.ndarray, "queries channels"], got: Float32[np.ndarray, "queries channels"]
) -> Int64[np.ndarray, " queries"]:
    """For each expected query the row of `got` that is nearest, each row taken once: the cheapest way in all.

    A head that chooses its queries by their scores may choose nearly equal ones in another order in another engine,
    and queries are a set: their order means nothing.
    """
    distances = np.stack([np.abs(got - row).max(axis=1) for row in expected])
    return linear_sum_assignment(distances)[1]


def _pixels_per_unit(layout: OutputLayout, size_hw: tuple[int, int]) -> Float32[np.ndarray, "4"]:
    """What box numbers are multiplied by to be pixels of the network input."""
    height, width = size_hw if isinstance(layout, QueryRows) else (1, 1)
    return np.array([width, height, width, height], np.float32)


def _match(expected: Detections, got: Detections, sure_score: float) -> tuple[float, int]:
    """Worst distance of corners of detections that correspond, and how many sure ones have no partner.

    Partners are of one class and overlap by more than half.
    """
    overlap = pairwise_iou(expected.boxes_xyxy, got.boxes_xyxy)
    partners = (overlap > 0.5) & (expected.class_ids[:, None] == got.class_ids[None])
    lonely = [found[~has_partner] for found, has_partner in ((expected, partners.any(1)), (got, partners.any(0)))]
    rows = np.flatnonzero(partners.any(axis=1))
    columns = np.where(partners, overlap, 0.0)[rows].argmax(axis=1) if len(rows) else rows
    distance = _worst(expected.boxes_xyxy[rows], got.boxes_xyxy[columns])
    return distance, sum(int((found.scores > sure_score).sum()) for found in lonely)


def _worst(one: Float32[np.ndarray, "N k"], other: Float32[np.ndarray, "N k"]) -> float:
    return float(np.abs(one - other).max(initial=0.0))

"""Proof that an exported file computes what was trained: the same inputs through torch and through every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from vision.boxes.overlap import pairwise_iou
from vision.detector import Detector
from vision.evaluation.torch_session import TorchSession
from vision.images import Preprocessing
from vision.runtime.detections import Detections
from vision.runtime.image_detector import ImageDetector
from vision.runtime.manifest import read_manifest
from vision.runtime.session import EngineName, installed_engines


@dataclass(frozen=True)
class EngineParity:
    """How far one engine is from torch: worst absolute differences over all images.

    boxes_px: decoded boxes of all cells, pixels of the network input; scores: objectness and class probabilities;
    detections_px: boxes of what is finally detected, pixels of the image; unmatched: detections that only one has.
    """

    engine: str
    boxes_px: float
    scores: float
    detections_px: float
    unmatched: int

    @property
    def worst(self) -> float:
        """The worst difference of any number in the output."""
        return max(self.boxes_px, self.scores)


def measure_parity(
    detector: Detector,
    path: Path,
    images_rgb: Sequence[UInt8[np.ndarray, "h w 3"]] = (),
    engines: Sequence[EngineName] | None = None,
    num_threads: int | None = None,
) -> list[EngineParity]:
    """Compare the exported file with the detector it came from, on the given images and a few synthetic ones.

    Engines default to all that are installed.
    """
    images = [*synthetic_images(detector.config.preprocessing), *images_rgb]
    reference = ImageDetector(TorchSession(detector), read_manifest(path))
    return [
        _compare(reference, ImageDetector.load(path, engine=engine, num_threads=num_threads), images)
        for engine in (installed_engines() if engines is None else engines)
    ]


def synthetic_images(preprocessing: Preprocessing, seed: int = 0) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Noise, black, white and smooth colour gradients: inputs at the limits of the range and across it."""
    height, width = preprocessing.size_hw
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) * 255 / (height + width)], axis=-1)
    return [noise, np.zeros_like(noise), np.full_like(noise, 255), smooth.astype(np.uint8)]


def _compare(reference: ImageDetector, exported: ImageDetector, images: Sequence[np.ndarray]) -> EngineParity:
    boxes_px = scores = detections_px = 0.0
    unmatched = 0
    for image in images:
        expected, got = reference.read_rows(image), exported.read_rows(image)
        boxes_px = max(boxes_px, float(np.abs(expected[:, :4] - got[:, :4]).max()))
        scores = max(scores, float(np.abs(expected[:, 4:] - got[:, 4:]).max()))
        distance, lonely = _match(reference(image), exported(image))
        detections_px, unmatched = max(detections_px, distance), unmatched + lonely
    return EngineParity(exported.engine, boxes_px, scores, detections_px, unmatched)


def _match(expected: Detections, got: Detections) -> tuple[float, int]:
    """Worst corner distance of detections that correspond (same class, most overlap), and how many have no partner."""
    if not len(expected) or not len(got):
        return 0.0, len(expected) + len(got)
    overlap = pairwise_iou(expected.boxes_xyxy, got.boxes_xyxy)
    overlap = np.where(expected.class_ids[:, None] == got.class_ids[None], overlap, 0.0)
    partners = overlap.argmax(axis=1)
    matched = overlap.max(axis=1) > 0.5
    distance = _corner_distance(expected.boxes_xyxy[matched], got.boxes_xyxy[partners[matched]])
    num_partners = len(np.unique(partners[matched]))
    return distance, int((~matched).sum()) + len(got) - num_partners


def _corner_distance(boxes: Float32[np.ndarray, "N 4"], others: Float32[np.ndarray, "N 4"]) -> float:
    return float(np.abs(boxes - others).max(initial=0.0))

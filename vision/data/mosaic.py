"""Pictures made of several images: mosaic (four images around a point, YOLOv4 section 3.4) and mixup (two, blended).

The classic mosaic pastes four images on a canvas of twice the size and warps that. Here each image is warped straight
onto the final picture by the product of both maps: one interpolation instead of two, and a quarter of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from vision.config import Config
from vision.data.transforms import (
    AffineConfig,
    Fraction,
    LabelledImage,
    Matrix,
    Positive,
    fit_matrix,
    flip_horizontal,
    random_affine,
    warp,
    warp_boxes,
)
from vision.images import Preprocessing


class MosaicConfig(Config):
    """Four images in one picture, which then goes through its own random affine map."""

    probability: Fraction = 1.0
    """Part of the training samples that are mosaics."""
    affine: AffineConfig = AffineConfig()
    """The map from the canvas of twice the input size to the input."""


class MixupConfig(Config):
    """A second image blended over a mosaic."""

    probability: Fraction = 0.0
    """Part of the mosaics that are blended with another image."""
    scale: tuple[Positive, Positive] = (0.5, 1.5)
    """Smallest and largest zoom of the other image."""
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of the mosaic; the other image has the rest."""


def mosaic(
    samples: Sequence[LabelledImage], config: MosaicConfig, preprocessing: Preprocessing, rng: np.random.Generator
) -> LabelledImage:
    """Four images in the four quarters around a random point, in pixels of the network input; boxes are not clipped.

    The point lies in the middle half of a canvas of twice the input's size; each image, fitted to the input's size,
    touches the point with one corner, so images never overlap.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic needs 4 images, got {len(samples)}")
    height, width = size_hw = preprocessing.size_hw
    centre_x, centre_y = rng.uniform(0.5 * width, 1.5 * width), rng.uniform(0.5 * height, 1.5 * height)
    view = random_affine(config.affine, rng, from_hw=(2 * height, 2 * width), to_hw=size_hw)
    picture = np.full((height, width, 3), preprocessing.pad_value, dtype=np.uint8)
    boxes = []
    for quarter, sample in enumerate(samples):
        matrix = view @ _into_quarter(quarter, sample.size_hw, (centre_x, centre_y), preprocessing)
        warp(sample.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value, onto=picture)
        boxes.append(warp_boxes(sample.boxes_xyxy, matrix))
    class_ids = np.concatenate([sample.class_ids for sample in samples])
    is_crowd = np.concatenate([sample.is_crowd for sample in samples])
    return LabelledImage(picture, np.concatenate(boxes), class_ids, is_crowd)


def mixup(
    sample: LabelledImage,
    other: LabelledImage,
    config: MixupConfig,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> LabelledImage:
    """Blend `other`, zoomed, shifted and perhaps mirrored, over a finished picture; boxes of both, not clipped."""
    size_hw = sample.size_hw
    if rng.random() < 0.5:
        other = flip_horizontal(other)
    still = AffineConfig(degrees=0.0, shear_degrees=0.0, scale=config.scale, translate=0.25)
    fitted = fit_matrix(other.size_hw, preprocessing)
    matrix = random_affine(still, rng, from_hw=size_hw, to_hw=size_hw) @ fitted
    layer = warp(other.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value)
    blended = cv2.addWeighted(sample.image_rgb, config.weight, layer, 1 - config.weight, 0.0)
    boxes = np.concatenate([sample.boxes_xyxy, warp_boxes(other.boxes_xyxy, matrix)])
    class_ids = np.concatenate([sample.class_ids, other.class_ids])
    return LabelledImage(blended, boxes, class_ids, np.concatenate([sample.is_crowd, other.is_crowd]))


def _into_quarter(
    quarter: int, image_hw: tuple[int, int], centre_xy: tuple[float, float], preprocessing: Preprocessing
) -> Matrix:
    """Fit the image to the input and put its inner corner on the centre; quarters run top-left, top-right, ..."""
    matrix = fit_matrix(image_hw, preprocessing)
    matrix[0, 2] = centre_xy[0] - (matrix[0, 0] * image_hw[1] if quarter % 2 == 0 else 0)
    matrix[1, 2] = centre_xy[1] - (matrix[1, 1] * image_hw[0] if quarter < 2 else 0)
    return matrix

"""Geometry that moves an image and its boxes by the very same map.

Coordinates are continuous: pixel (i, j) covers [j, j + 1) x [i, i + 1), so an image of width W has its edges at 0 and
W, and a flip is x -> W - x. OpenCV counts from pixel centres; `warp` carries the half pixel, others do not think of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from pydantic import Field

from vision.config import Config
from vision.images import Preprocessing, fit_image, place

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Matrix = Float64[np.ndarray, "3 3"]


class AffineConfig(Config):
    """A random affine map about the centre of the picture; every number is drawn uniformly."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Rotation by up to this angle either way."""
    scale: tuple[Positive, Positive] = (0.5, 1.5)
    """Smallest and largest zoom."""
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 2.0
    """Shear along x and along y by up to this angle either way."""
    translate: Fraction = 0.1
    """Shift by up to this part of the picture's width and height."""


class VisibilityConfig(Config):
    """Which boxes are still worth learning from once the picture is cut."""

    min_visible: Fraction = 0.1
    """Smallest part of a box's area that must stay inside the picture."""
    min_side_px: Annotated[float, Field(ge=0)] = 2.0
    """Smallest width and height in pixels of the network input."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and its boxes in the image's own pixels."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    boxes_xyxy: Float32[np.ndarray, "N 4"]
    class_ids: Int64[np.ndarray, "N"]
    is_crowd: Bool[np.ndarray, "N"]
    """True for a box that is not to be learnt, and inside which nothing is to be called background."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image_rgb.shape[0], self.image_rgb.shape[1]


def flip_horizontal(sample: LabelledImage) -> LabelledImage:
    """Mirror left and right: x -> W - x."""
    boxes = sample.boxes_xyxy.copy()
    boxes[:, [0, 2]] = sample.size_hw[1] - sample.boxes_xyxy[:, [2, 0]]
    return LabelledImage(cv2.flip(sample.image_rgb, 1), boxes, sample.class_ids, sample.is_crowd)


def fit(sample: LabelledImage, preprocessing: Preprocessing) -> LabelledImage:
    """Place the image in the network input exactly as the run time does, colours still RGB and 0..255."""
    image_rgb, placement = fit_image(sample.image_rgb, preprocessing)
    return LabelledImage(image_rgb, placement.boxes_to_input(sample.boxes_xyxy), sample.class_ids, sample.is_crowd)


def fit_matrix(image_hw: tuple[int, int], preprocessing: Preprocessing) -> Matrix:
    """The map of `fit`: pixels of the image -> pixels of the network input."""
    placement, _ = place(image_hw, preprocessing)
    return np.diag([placement.scale_x, placement.scale_y, 1.0])


def random_affine(
    config: AffineConfig, rng: np.random.Generator, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Matrix:
    """A random map of a picture of size `from_hw` about its centre into one of size `to_hw`, both in pixels."""
    angle = np.radians(rng.uniform(-config.degrees, config.degrees))
    zoom = rng.uniform(*config.scale)
    shear_x, shear_y = np.tan(np.radians(rng.uniform(-config.shear_degrees, config.shear_degrees, size=2)))
    shift_x, shift_y = rng.uniform(0.5 - config.translate, 0.5 + config.translate, size=2)
    rotate = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = np.array([[1.0, shear_x], [shear_y, 1.0]]) @ rotate
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array([shift_x * to_hw[1], shift_y * to_hw[0]]) - linear @ np.array([from_hw[1], from_hw[0]]) / 2
    return matrix


def warp(
    image_rgb: UInt8[np.ndarray, "h w 3"],
    matrix: Matrix,
    size_hw: tuple[int, int],
    *,
    pad_value: int,
    onto: UInt8[np.ndarray, "H W 3"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the image through `matrix` (continuous pixels -> continuous pixels) on a picture of size `size_hw`.

    Bilinear. `onto` is drawn over in place, and only where the image lies; without it the rest is `pad_value`.
    """
    # Of pixel centres: M' x = M (x + 1/2) - 1/2, written out, for this is called for every image of a mosaic.
    centres = matrix[:2].copy()
    centres[:, 2] += 0.5 * (matrix[:2, 0] + matrix[:2, 1]) - 0.5
    if onto is not None:
        return _warp_onto(image_rgb, centres, onto)
    border = (pad_value,) * 3
    return cv2.warpAffine(image_rgb, centres, (size_hw[1], size_hw[0]), flags=cv2.INTER_LINEAR, borderValue=border)


def warp_boxes(boxes_xyxy: Float32[np.ndarray, "N 4"], matrix: Matrix) -> Float32[np.ndarray, "N 4"]:
    """The upright boxes around the mapped corners; not clipped."""
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].astype(np.float64).reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)


def clip_boxes(boxes_xyxy: Float32[np.ndarray, "N 4"], size_hw: tuple[int, int]) -> Float32[np.ndarray, "N 4"]:
    """Boxes cut at the edges of a picture of that size."""
    height, width = size_hw
    return np.clip(boxes_xyxy, np.float32(0), np.array([width, height, width, height], dtype=np.float32))


def still_visible(
    whole_xyxy: Float32[np.ndarray, "N 4"], clipped_xyxy: Float32[np.ndarray, "N 4"], config: VisibilityConfig
) -> Bool[np.ndarray, "N"]:
    """Which clipped boxes keep enough of themselves, by area and by side."""
    whole, clipped = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0) for boxes in (whole_xyxy, clipped_xyxy))
    large = (clipped >= config.min_side_px).all(axis=1) & (clipped > 0).all(axis=1)
    return large & (clipped.prod(axis=1) >= config.min_visible * whole.prod(axis=1))


def clip_to_picture(sample: LabelledImage, config: VisibilityConfig) -> LabelledImage:
    """Cut the boxes at the picture's edges and leave out those of which too little is left."""
    clipped = clip_boxes(sample.boxes_xyxy, sample.size_hw)
    keep = still_visible(sample.boxes_xyxy, clipped, config)
    return LabelledImage(sample.image_rgb, clipped[keep], sample.class_ids[keep], sample.is_crowd[keep])


def _warp_onto(
    image_rgb: UInt8[np.ndarray, "h w 3"], centres: Float64[np.ndarray, "2 3"], onto: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw through `centres` (pixel centres -> pixel centres), visiting only the part of `onto` that can change."""
    (height, width), (canvas_height, canvas_width) = image_rgb.shape[:2], onto.shape[:2]
    x1, x2 = _reach(centres[0].tolist(), width, height, canvas_width)
    y1, y2 = _reach(centres[1].tolist(), width, height, canvas_height)
    if x1 < x2 and y1 < y2:
        centres[:, 2] -= (x1, y1)
        cv2.warpAffine(
            image_rgb,
            centres,
            (x2 - x1, y2 - y1),
            dst=onto[y1:y2, x1:x2],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
    return onto


def _reach(row: list[float], width: int, height: int, limit: int) -> tuple[int, int]:
    """First pixel and end, along one axis of the target, of what a row of the map gives for an image; a pixel spare."""
    by_x, by_y, shift = row[0] * width, row[1] * height, row[2]
    low, high = shift + min(by_x, 0.0) + min(by_y, 0.0), shift + max(by_x, 0.0) + max(by_y, 0.0)
    return min(max(math.floor(low) - 1, 0), limit), min(max(math.ceil(high) + 2, 0), limit)

"""Augmentations of one labelled image: affine maps, flips and letterboxing, random crops, HSV jitter.

Image and boxes are moved by the same map. A random crop is chosen so that objects in it stay recognisable (Liu et al.
2016, SSD, arXiv:1512.02325, section 2.2); HSV jitter leaves boxes where they are.

Coordinates are continuous: pixel (i, j) covers [j, j + 1) x [i, i + 1), so an image of width W has its edges at 0 and
W, and a flip is x -> W - x. OpenCV counts from pixel centres; only `warp` deals with the half pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from pydantic import Field

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.config import Config
from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.images import Preprocessing, fit_image, resize_transform

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Gain = Annotated[float, Field(ge=0, lt=1)]
Matrix = Float64[np.ndarray, "3 3"]


class AffineConfig(Config):
    """A random affine map about the centre of the image; every number is drawn uniformly."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Rotation by up to this angle either way."""
    scale: tuple[Positive, Positive] = (0.5, 1.5)
    """Smallest and largest zoom."""
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 2.0
    """Shear along x and along y by up to this angle either way."""
    translate: Fraction = 0.1
    """Shift by up to this part of the image's width and height."""


class VisibilityConfig(Config):
    """Which boxes are still worth learning from once the image is cropped."""

    min_visible: Fraction = 0.1
    """Smallest part of a box's area that must stay inside the image."""
    min_side_px: Annotated[float, Field(ge=0)] = 2.0
    """Smallest width and height in pixels of the network input."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and its boxes, in pixels of this image."""

    image_rgb: UInt8[np.ndarray, "H W 3"]
    boxes: LabelledBoxes

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image_rgb.shape[0], self.image_rgb.shape[1]


def flip_horizontal(sample: LabelledImage) -> LabelledImage:
    """Mirror left and right: x -> W - x."""
    xyxy = sample.boxes.xyxy.copy()
    xyxy[:, [0, 2]] = sample.size_hw[1] - sample.boxes.xyxy[:, [2, 0]]
    return LabelledImage(cv2.flip(sample.image_rgb, 1), sample.boxes.moved(xyxy))


def fit(sample: LabelledImage, preprocessing: Preprocessing) -> LabelledImage:
    """Place the image in the network input exactly as at run time, colours still RGB and 0..255."""
    image_rgb, transform = fit_image(sample.image_rgb, preprocessing)
    return LabelledImage(image_rgb, sample.boxes.moved(transform.boxes_to_input(sample.boxes.xyxy)))


def fit_matrix(image_hw: tuple[int, int], preprocessing: Preprocessing) -> Matrix:
    """The map of `fit`: pixels of the image -> pixels of the network input."""
    transform, _ = resize_transform(image_hw, preprocessing)
    return np.diag([transform.scale_x, transform.scale_y, 1.0])


def random_affine(
    config: AffineConfig, rng: np.random.Generator, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> Matrix:
    """A random map of an image of size `from_hw` about its centre into one of size `to_hw`, both in pixels."""
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
    """Draw the image through `matrix` (continuous pixels -> continuous pixels) on a canvas of size `size_hw`.

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
    """Boxes clipped to an image of that size."""
    height, width = size_hw
    return np.clip(boxes_xyxy, np.float32(0), np.array([width, height, width, height], dtype=np.float32))


def still_visible(
    whole_xyxy: Float32[np.ndarray, "N 4"], clipped_xyxy: Float32[np.ndarray, "N 4"], config: VisibilityConfig
) -> Bool[np.ndarray, " N"]:
    """Which clipped boxes keep enough of themselves, by area and by side."""
    whole, clipped = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0) for boxes in (whole_xyxy, clipped_xyxy))
    large = (clipped >= config.min_side_px).all(axis=1) & (clipped > 0).all(axis=1)
    return large & (clipped.prod(axis=1) >= config.min_visible * whole.prod(axis=1))


def clip_to_image(sample: LabelledImage, config: VisibilityConfig) -> LabelledImage:
    """Clip the boxes to the image and drop those of which too little is left."""
    clipped = clip_boxes(sample.boxes.xyxy, sample.size_hw)
    keep = still_visible(sample.boxes.xyxy, clipped, config)
    return LabelledImage(sample.image_rgb, sample.boxes.moved(clipped)[keep])


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
    """First pixel and end, along one axis of the target, that a row of the map reaches for an image, plus a pixel."""
    by_x, by_y, shift = row[0] * width, row[1] * height, row[2]
    low, high = shift + min(by_x, 0.0) + min(by_y, 0.0), shift + max(by_x, 0.0) + max(by_y, 0.0)
    return min(max(math.floor(low) - 1, 0), limit), min(max(math.ceil(high) + 2, 0), limit)


class CropConfig(Config):
    """Crop to a random window that overlaps some object by a share drawn from `min_overlaps`."""

    probability: Fraction = 0.8
    """Part of the strongly augmented samples without mosaic that are cropped."""
    min_overlaps: tuple[Fraction, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    """IoU of the window with its best object must reach one of these, drawn anew for each image."""
    min_side: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Smallest width and height of the window, as parts of the image's."""
    aspect: tuple[Positive, Positive] = (0.5, 2.0)
    """Narrowest and widest ratio of width to height, in parts of the image's sides."""
    trials: Annotated[int, Field(gt=0)] = 40
    """Windows to try before the image stays whole."""


def random_crop(sample: LabelledImage, config: CropConfig, rng: np.random.Generator) -> LabelledImage:
    """The image and boxes in a random window; objects whose centre is outside go, the others are cut at its edges.

    Crowd regions stay wherever the window meets them. An image without objects stays whole.
    """
    learnt = sample.boxes.xyxy[~sample.boxes.is_crowd]
    if not len(learnt):
        return sample
    min_overlap = rng.choice(config.min_overlaps)
    for _ in range(config.trials):
        window = _sample_window(sample.size_hw, config, rng)
        if window is None:
            continue
        has_centre = _has_centre(learnt, window)
        if has_centre.any() and pairwise_iou(window[None], learnt[has_centre]).max() >= min_overlap:
            return crop(sample, window)
    return sample


def crop(sample: LabelledImage, window: np.ndarray) -> LabelledImage:
    """The part of an image inside `window` (x1, y1, x2, y2 in whole pixels), boxes in its own pixels."""
    x1, y1, x2, y2 = window.astype(int).tolist()
    inside = clip_boxes(sample.boxes.xyxy - window[[0, 1, 0, 1]], (y2 - y1, x2 - x1))
    met = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    kept = met & (_has_centre(sample.boxes.xyxy, window) | sample.boxes.is_crowd)
    cropped_rgb = np.ascontiguousarray(sample.image_rgb[y1:y2, x1:x2])
    return LabelledImage(cropped_rgb, sample.boxes.moved(inside)[kept])


def _sample_window(size_hw: tuple[int, int], config: CropConfig, rng: np.random.Generator) -> np.ndarray | None:
    """A window in whole pixels, or None when its shape is not allowed."""
    height, width = size_hw
    part_x, part_y = rng.uniform(config.min_side, 1, size=2)
    left, top = rng.random(2)
    if not config.aspect[0] <= part_x / part_y <= config.aspect[1]:
        return None
    window_width, window_height = max(1, round(part_x * width)), max(1, round(part_y * height))
    x1, y1 = round(left * (width - window_width)), round(top * (height - window_height))
    return np.array([x1, y1, x1 + window_width, y1 + window_height], dtype=np.float32)


def _has_centre(boxes_xyxy: np.ndarray, window: np.ndarray) -> np.ndarray:
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    return np.all((centres > window[:2]) & (centres < window[2:]), axis=1)


class HsvConfig(Config):
    """Random gains on hue, saturation and value; 0 leaves a channel as it is."""

    hue: Gain = 0.015
    """Turn the hue by up to this part of the colour circle either way. Keep it small where colour is the class."""
    saturation: Gain = 0.7
    """Multiply the saturation by 1 plus or minus up to this."""
    value: Gain = 0.4
    """Multiply the brightness by 1 plus or minus up to this."""


def jitter_hsv(
    image_rgb: UInt8[np.ndarray, "H W 3"], config: HsvConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Sample the three gains and apply them; the input is left as it is, and is returned where all gains are 0."""
    hue, saturation, value = rng.uniform(-1, 1, size=3) * (config.hue, config.saturation, config.value)
    if not (hue or saturation or value):
        return image_rgb
    return shift_hsv(image_rgb, hue_turn=hue, saturation_gain=1 + saturation, value_gain=1 + value)


def shift_hsv(
    image_rgb: UInt8[np.ndarray, "H W 3"], *, hue_turn: float, saturation_gain: float, value_gain: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Turn the hue by `hue_turn` of the colour circle and multiply saturation and value, clipped to 255."""
    hsv = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2HSV)
    hue, saturation, value = (cv2.extractChannel(hsv, channel) for channel in range(3))
    # OpenCV's 8-bit hue counts half degrees: 180 steps are the whole circle.
    turned = np.arange(256) + round(180 * hue_turn)
    cv2.LUT(hue, (turned % 180).astype(np.uint8), dst=hue)
    # A product rounded and cut at 255 is quicker than a table, plane by plane quicker than interleaved.
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=saturation_gain)
    cv2.convertScaleAbs(value, dst=value, alpha=value_gain)
    cv2.merge((hue, saturation, value), dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)

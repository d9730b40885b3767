"""A random part of an image, chosen so that objects in it stay recognisable (Liu et al., SSD, section 2.2)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from vision.boxes.iou import pairwise_iou
from vision.config import Config
from vision.data.transforms import Fraction, LabelledImage, Positive, clip_boxes


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
    """After so many windows that do not fit, the image stays whole."""


def random_crop(sample: LabelledImage, config: CropConfig, rng: np.random.Generator) -> LabelledImage:
    """The image and boxes in a random window; objects whose centre is outside go, the others are cut at its edges.

    Regions in which nothing is said stay wherever the window meets them. An image without objects stays whole.
    """
    learnt = sample.boxes_xyxy[~sample.is_crowd]
    if not len(learnt):
        return sample
    min_overlap = rng.choice(config.min_overlaps)
    for _ in range(config.trials):
        window = _draw_window(sample.size_hw, config, rng)
        if window is None:
            continue
        has_centre = _has_centre(learnt, window)
        if has_centre.any() and pairwise_iou(window[None], learnt[has_centre]).max() >= min_overlap:
            return crop(sample, window)
    return sample


def crop(sample: LabelledImage, window: np.ndarray) -> LabelledImage:
    """The part of an image inside `window` (x1, y1, x2, y2 in whole pixels), boxes in its own pixels."""
    x1, y1, x2, y2 = window.astype(int).tolist()
    inside = clip_boxes(sample.boxes_xyxy - window[[0, 1, 0, 1]], (y2 - y1, x2 - x1))
    met = (inside[:, 2:] > inside[:, :2]).all(axis=1)
    kept = met & (_has_centre(sample.boxes_xyxy, window) | sample.is_crowd)
    picture = np.ascontiguousarray(sample.image_rgb[y1:y2, x1:x2])
    return LabelledImage(picture, inside[kept], sample.class_ids[kept], sample.is_crowd[kept])


def _draw_window(size_hw: tuple[int, int], config: CropConfig, rng: np.random.Generator) -> np.ndarray | None:
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

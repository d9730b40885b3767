"""Augmentations that combine images: mosaic (Bochkovskiy et al. 2020, YOLOv4), mixup, copy-paste.

The classic mosaic pastes four images on a canvas of twice the size and warps that. Here each image is warped straight
onto the final canvas by the product of both maps: one interpolation instead of two, and a quarter of the pixels.

Copy-paste (Ghiasi et al. 2021, arXiv:2012.07177) cuts objects out by their masks and pastes them into another image.
It runs between reading and all other augmentation, in the image's own pixels, so that what follows moves pasted objects
like any other. Edges are not blended; the paper found that it makes no difference (section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import Bool
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.masks import Mask, draw_mask
from handeye.vision.data.transforms import (
    AffineConfig,
    Fraction,
    LabelledImage,
    Matrix,
    Positive,
    VisibilityConfig,
    clip_boxes,
    fit_matrix,
    flip_horizontal,
    random_affine,
    still_visible,
    warp,
    warp_boxes,
)
from handeye.vision.images import Preprocessing

Pixels = Bool[np.ndarray, "H W"]


class MosaicConfig(Config):
    """Four images in one, which then goes through a random affine map."""

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
    canvas = np.full((height, width, 3), preprocessing.pad_value, dtype=np.uint8)
    parts = []
    for quarter, sample in enumerate(samples):
        matrix = view @ _into_quarter(quarter, sample.size_hw, (centre_x, centre_y), preprocessing)
        warp(sample.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value, onto=canvas)
        parts.append(sample.boxes.moved(warp_boxes(sample.boxes.xyxy, matrix)))
    return LabelledImage(canvas, LabelledBoxes.concatenate(parts))


def mixup(
    sample: LabelledImage,
    other: LabelledImage,
    config: MixupConfig,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> LabelledImage:
    """Blend `other`, zoomed, shifted and perhaps mirrored, over a finished image; boxes of both, not clipped."""
    size_hw = sample.size_hw
    if rng.random() < 0.5:
        other = flip_horizontal(other)
    still = AffineConfig(degrees=0.0, shear_degrees=0.0, scale=config.scale, translate=0.25)
    fitted = fit_matrix(other.size_hw, preprocessing)
    matrix = random_affine(still, rng, from_hw=size_hw, to_hw=size_hw) @ fitted
    layer = warp(other.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value)
    blended = cv2.addWeighted(sample.image_rgb, config.weight, layer, 1 - config.weight, 0.0)
    moved = other.boxes.moved(warp_boxes(other.boxes.xyxy, matrix))
    return LabelledImage(blended, LabelledBoxes.concatenate([sample.boxes, moved]))


def _into_quarter(
    quarter: int, image_hw: tuple[int, int], centre_xy: tuple[float, float], preprocessing: Preprocessing
) -> Matrix:
    """Fit the image to the input and put its inner corner on the centre; quarters run top-left, top-right, ..."""
    matrix = fit_matrix(image_hw, preprocessing)
    matrix[0, 2] = centre_xy[0] - (matrix[0, 0] * image_hw[1] if quarter % 2 == 0 else 0)
    matrix[1, 2] = centre_xy[1] - (matrix[1, 1] * image_hw[0] if quarter < 2 else 0)
    return matrix


class CopyPasteConfig(Config):
    """Objects of one image pasted into another; needs annotations with masks."""

    probability: Fraction = 0.5
    """Part of the images into which objects are pasted."""
    max_objects: Annotated[int, Field(gt=0)] = 10
    """Most objects pasted at once, a random choice of the other image's."""
    scale: tuple[Positive, Positive] = (0.5, 1.5)
    """Smallest and largest zoom of the other image, after it is fitted into this one."""
    visibility: VisibilityConfig = VisibilityConfig()
    """Which pasted objects, cut at the image's edge, and which covered ones are kept."""


def copy_paste(
    target: LabelledImage,
    target_masks: Sequence[Mask | None],
    source: LabelledImage,
    source_masks: Sequence[Mask | None],
    config: CopyPasteConfig,
    rng: np.random.Generator,
) -> LabelledImage:
    """Paste objects of `source` that have masks, zoomed, shifted and perhaps mirrored, over `target`.

    A pasted object's box is its own box moved by the map that moves its pixels, cut at the edge. An object of `target`
    that is partly covered keeps the box around what is left of its mask, and goes when too little is left; one without
    a mask keeps its box unless that is covered. Raises DatasetError for masks that do not fit their image.
    """
    can_be_cut = [number for number, mask in enumerate(source_masks) if mask and not source.boxes.is_crowd[number]]
    matrix = _sample_placement(source.size_hw, target.size_hw, config, rng)
    moved = warp_boxes(source.boxes.xyxy[can_be_cut], matrix)
    clipped = clip_boxes(moved, target.size_hw)
    in_view = np.flatnonzero(still_visible(moved, clipped, config.visibility))
    chosen = rng.permutation(in_view)[: config.max_objects]
    if not len(chosen):
        return target
    numbers = [can_be_cut[position] for position in chosen]
    cut_out = _union([source_masks[number] for number in numbers], source.size_hw)
    covered = warp(_as_image(cut_out), matrix, target.size_hw, pad_value=0)[..., 0] > 127
    layer = warp(source.image_rgb, matrix, target.size_hw, pad_value=0)
    pasted_rgb = np.where(covered[..., None], layer, target.image_rgb)
    left, kept = _uncovered(target, target_masks, covered, config.visibility)
    pasted = source.boxes[np.array(numbers)].moved(clipped[chosen])  # no crowd among them
    return LabelledImage(pasted_rgb, LabelledBoxes.concatenate([target.boxes.moved(left)[kept], pasted]))


def _sample_placement(
    source_hw: tuple[int, int], target_hw: tuple[int, int], config: CopyPasteConfig, rng: np.random.Generator
) -> Matrix:
    """A random map: fit, zoom, perhaps mirror, shift so that the image lies inside the target or, larger, covers it."""
    fitted = min(target_hw[0] / source_hw[0], target_hw[1] / source_hw[1])
    zoom = fitted * rng.uniform(*config.scale)
    room_x, room_y = target_hw[1] - zoom * source_hw[1], target_hw[0] - zoom * source_hw[0]
    matrix = np.array([[zoom, 0, rng.random() * room_x], [0, zoom, rng.random() * room_y], [0, 0, 1.0]])
    if rng.random() < 0.5:
        matrix = matrix @ np.array([[-1.0, 0, source_hw[1]], [0, 1, 0], [0, 0, 1]])
    return matrix


def _union(masks: Sequence[Mask | None], size_hw: tuple[int, int]) -> Pixels:
    union = np.zeros(size_hw, dtype=bool)
    for mask in masks:
        if mask is not None:
            union |= draw_mask(mask, size_hw)
    return union


def _uncovered(
    target: LabelledImage, masks: Sequence[Mask | None], covered: Pixels, config: VisibilityConfig
) -> tuple[np.ndarray, np.ndarray]:
    """The target's boxes after the paste, and which of them are still there."""
    boxes, kept = target.boxes.xyxy.copy(), np.ones(len(target.boxes), dtype=bool)
    hidden_before = cv2.integral(covered.astype(np.uint8))
    for number, box in enumerate(target.boxes.xyxy):
        if target.boxes.is_crowd[number]:
            continue  # crowd regions stay as they are
        x1, y1, x2, y2 = clip_boxes(box[None], target.size_hw)[0].round().astype(int).tolist()
        hidden = hidden_before[y2, x2] - hidden_before[y1, x2] - hidden_before[y2, x1] + hidden_before[y1, x1]
        if not hidden:
            continue
        mask = masks[number] if masks else None
        if mask is None:
            kept[number] = hidden < (1 - config.min_visible) * (x2 - x1) * (y2 - y1)
        else:
            boxes[number], kept[number] = _around_the_rest(box, draw_mask(mask, target.size_hw), covered, config)
    return boxes, kept


def _around_the_rest(
    box: np.ndarray, whole: Pixels, covered: Pixels, config: VisibilityConfig
) -> tuple[np.ndarray, bool]:
    """The box moved in to what is left of the mask on each side that lost something; whether enough is left."""
    left = whole & ~covered
    num_left, num_whole = np.count_nonzero(left), np.count_nonzero(whole)
    if num_left == num_whole:
        return box, True
    if not num_left or num_left < config.min_visible * num_whole:
        return box, False
    before, after = _bounds(whole), _bounds(left)
    shrunk = np.where(before == after, box, after).astype(np.float32)
    return shrunk, bool((shrunk[2:] - shrunk[:2] >= max(config.min_side_px, 1e-3)).all())


def _bounds(pixels: Pixels) -> np.ndarray:
    """Edges x1, y1, x2, y2 around the pixels that are set."""
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def _as_image(pixels: Pixels) -> np.ndarray:
    return np.repeat(pixels.astype(np.uint8)[..., None] * 255, 3, axis=2)

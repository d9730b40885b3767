"""Augment one training sample: a pure function of (seed, epoch, index), so that a run can resume anywhere.

No random state is carried from sample to sample: every sample has its own generator, whichever worker makes it and in
whatever order. That is what makes resuming exact.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from handeye.vision.config import Config
from handeye.vision.data.annotations import LabelledBoxes
from handeye.vision.data.masks import Mask
from handeye.vision.data.mosaic import CopyPasteConfig, MixupConfig, MosaicConfig, copy_paste, mixup, mosaic
from handeye.vision.data.transforms import (
    AffineConfig,
    CropConfig,
    Fraction,
    HsvConfig,
    LabelledImage,
    Positive,
    VisibilityConfig,
    clip_to_image,
    fit,
    fit_matrix,
    flip_horizontal,
    jitter_hsv,
    random_affine,
    random_crop,
    warp,
    warp_boxes,
)
from handeye.vision.images import Preprocessing, at_fixed_size

NEIGHBOURS = 128
"""Smallest group of images that mosaics and mixup choose from."""

ReadSample = Callable[[int], LabelledImage]
"""Gives image number i of the data set with its boxes, in its own pixels."""

ReadMasks = Callable[[int], Sequence[Mask | None]]
"""Gives the masks of the objects of image number i; empty where it has none."""


class AugmentationConfig(Config):
    """What is done to the training images; colour and flip stay on to the end, the rest is strong augmentation."""

    mosaic: MosaicConfig = MosaicConfig()
    mixup: MixupConfig = MixupConfig()
    affine: AffineConfig | None = None
    """Map for strongly augmented samples that are not mosaics; null fits them as at run time."""
    flip_probability: Fraction = 0.5
    """Part of the samples that are mirrored left and right."""
    hsv: HsvConfig = HsvConfig()
    multi_scale: tuple[Positive, Positive] | None = None
    """Smallest and largest factor on the input size, drawn anew for each batch; null keeps the size."""
    copy_paste: CopyPasteConfig | None = None
    """Objects cut out by their masks and pasted into other images, before all else; null leaves them where they are."""
    crop: CropConfig | None = None
    """Random windows of strongly augmented samples that are not mosaics; null keeps them whole."""
    visibility: VisibilityConfig = VisibilityConfig()
    max_boxes: int = Field(default=1000, gt=0)
    """An image with more boxes keeps a random choice of this many; the region of the rest is left out of the loss."""
    weak_last_epochs: int = Field(default=15, ge=0)
    """The last epochs, in which only colour and flip are on, so that the network sees real images."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Everything that determines a training sample."""

    epoch: int
    index: int
    """Number of the image in the data set."""
    size_hw: tuple[int, int]
    """Size of the image to make."""
    is_strong: bool
    """Whether mosaic, mixup and affine may be used."""


def augment(
    request: SampleRequest,
    read_sample: ReadSample,
    num_images: int,
    config: AugmentationConfig,
    preprocessing: Preprocessing,
    seed: int,
    read_masks: ReadMasks | None = None,
) -> LabelledImage:
    """Make the image of `request`: RGB, 0..255, of size `request.size_hw`, its boxes clipped to it."""
    rng = sample_generator(seed, request.epoch, request.index)
    preprocessing = at_fixed_size(preprocessing, request.size_hw)
    if request.is_strong:
        others = neighbours(seed, request.epoch, request.index, num_images)
        sample = _strong(request.index, read_sample, read_masks, others, config, preprocessing, rng)
    else:
        sample = fit(read_sample(request.index), preprocessing)
    sample = limit_boxes(clip_to_image(sample, config.visibility), config.max_boxes, rng)
    if rng.random() < config.flip_probability:
        sample = flip_horizontal(sample)
    return replace(sample, image_rgb=jitter_hsv(sample.image_rgb, config.hsv, rng))


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, num_images: int) -> Int64[np.ndarray, " num_images"]:
    """The order in which an epoch visits the images; kept, because each of its steps asks for it."""
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def neighbours(seed: int, epoch: int, index: int, num_images: int) -> Int64[np.ndarray, "neighbours"]:
    """The images that may be combined with image number `index` in this epoch, itself among them.

    The epoch's order is cut into equal groups of NEIGHBOURS to twice as many. Groups change with every epoch,
    so that every image meets every other in time; within a group each image is decoded once instead of four times.
    """
    num_groups = max(1, num_images // NEIGHBOURS)
    group = int(_positions(seed, epoch, num_images)[index]) * num_groups // num_images
    first, end = (-(-number * num_images // num_groups) for number in (group, group + 1))
    return epoch_order(seed, epoch, num_images)[first:end]


@functools.lru_cache(maxsize=2)
def _positions(seed: int, epoch: int, num_images: int) -> Int64[np.ndarray, " num_images"]:
    """Where in the epoch's order each image stands."""
    return np.argsort(epoch_order(seed, epoch, num_images))


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample of one epoch."""
    return np.random.default_rng([seed, epoch, index])


def limit_boxes(sample: LabelledImage, max_boxes: int, rng: np.random.Generator) -> LabelledImage:
    """The sample with at most `max_boxes` objects and as many regions to ignore.

    Assignment costs memory for each pair of box and cell. Objects beyond the limit must not become background, so one
    region to ignore goes around them all; ignored regions beyond it are joined in the same way.
    """
    boxes = sample.boxes
    objects, crowds = np.flatnonzero(~boxes.is_crowd), np.flatnonzero(boxes.is_crowd)
    if max(len(objects), len(crowds)) <= max_boxes:
        return sample
    chosen = np.sort(rng.permutation(objects)[:max_boxes])
    surplus = np.setdiff1d(objects, chosen)
    if len(crowds) > max_boxes:
        crowds, surplus = crowds[:0], np.concatenate([crowds, surplus])
    low, high = boxes.xyxy[surplus, :2].min(axis=0), boxes.xyxy[surplus, 2:].max(axis=0)
    around = LabelledBoxes(np.concatenate([low, high])[None], boxes.class_ids[surplus[:1]], np.ones(1, dtype=bool))
    kept = boxes[np.concatenate([chosen, crowds])]
    return LabelledImage(sample.image_rgb, LabelledBoxes.concatenate([kept, around]))


def _strong(
    index: int,
    read_sample: ReadSample,
    read_masks: ReadMasks | None,
    others: Int64[np.ndarray, "neighbours"],
    config: AugmentationConfig,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> LabelledImage:
    is_mosaic = rng.random() < config.mosaic.probability
    if config.copy_paste is not None and read_masks is not None:
        read_sample = functools.partial(_read_pasted, read_sample, read_masks, others, config.copy_paste, rng)
    if is_mosaic:
        return _mosaic_with_mixup(index, read_sample, others, config, preprocessing, rng)
    sample = read_sample(index)
    if config.crop is not None and rng.random() < config.crop.probability:
        sample = random_crop(sample, config.crop, rng)
    return fit(sample, preprocessing) if config.affine is None else _affine(sample, config.affine, preprocessing, rng)


def _read_pasted(
    read_sample: ReadSample,
    read_masks: ReadMasks,
    others: Int64[np.ndarray, "neighbours"],
    config: CopyPasteConfig,
    rng: np.random.Generator,
    index: int,
) -> LabelledImage:
    """Image number `index`, perhaps with objects of another one."""
    if rng.random() >= config.probability:
        return read_sample(index)
    other = int(rng.choice(others))
    return copy_paste(read_sample(index), read_masks(index), read_sample(other), read_masks(other), config, rng)


def _mosaic_with_mixup(
    index: int,
    read_sample: ReadSample,
    others: Int64[np.ndarray, "neighbours"],
    config: AugmentationConfig,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> LabelledImage:
    partners = rng.choice(others, size=3).tolist()
    sample = mosaic([read_sample(number) for number in [index, *partners]], config.mosaic, preprocessing, rng)
    if rng.random() < config.mixup.probability:
        other = read_sample(int(rng.choice(others)))
        sample = mixup(sample, other, config.mixup, preprocessing, rng)
    return sample


def _affine(
    sample: LabelledImage, config: AffineConfig, preprocessing: Preprocessing, rng: np.random.Generator
) -> LabelledImage:
    size_hw = preprocessing.size_hw
    view = random_affine(config, rng, from_hw=size_hw, to_hw=size_hw)
    matrix = view @ fit_matrix(sample.size_hw, preprocessing)
    warped_rgb = warp(sample.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value)
    return LabelledImage(warped_rgb, sample.boxes.moved(warp_boxes(sample.boxes.xyxy, matrix)))

"""The recipe of one training sample: a pure function of (seed, epoch, index), so a run can go on anywhere.

No random state is carried from sample to sample; every sample draws from a generator of its own, whichever worker
makes it and in whatever order. That is what makes resuming exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from vision.config import Config
from vision.data.geometric import (
    AffineConfig,
    Fraction,
    LabelledImage,
    Positive,
    VisibilityConfig,
    clip_to_picture,
    fit,
    fit_matrix,
    flip_horizontal,
    random_affine,
    warp,
    warp_boxes,
)
from vision.data.mosaic import MixupConfig, MosaicConfig, mixup, mosaic
from vision.data.photometric import HsvConfig, jitter_hsv
from vision.images import Preprocessing

ReadSample = Callable[[int], LabelledImage]
"""Gives image number i of the data set with its boxes, in its own pixels."""


class AugmentationConfig(Config):
    """What is done to the training images; colour and flip stay on to the end, the rest is strong augmentation."""

    mosaic: MosaicConfig = MosaicConfig()
    mixup: MixupConfig = MixupConfig()
    affine: AffineConfig | None = None
    """Map for strongly augmented samples that are not mosaics; null fits them like the run time."""
    flip_probability: Fraction = 0.5
    """Part of the samples that are mirrored left and right."""
    hsv: HsvConfig = HsvConfig()
    multi_scale: tuple[Positive, Positive] | None = None
    """Smallest and largest factor on the input size, drawn anew for each batch; null keeps the size."""
    visibility: VisibilityConfig = VisibilityConfig()
    weak_last_epochs: int = Field(default=15, ge=0)
    """The last epochs, in which mosaic, mixup, affine and multi-scale are off and the network sees real pictures."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """All that decides a training sample."""

    epoch: int
    index: int
    """Number of the image in the data set."""
    size_hw: tuple[int, int]
    """Size of the picture to make."""
    is_strong: bool
    """Whether mosaic, mixup and affine may be used."""


def augment(
    request: SampleRequest,
    read_sample: ReadSample,
    num_images: int,
    config: AugmentationConfig,
    preprocessing: Preprocessing,
    seed: int,
) -> LabelledImage:
    """Make the picture of `request`: RGB, 0..255, of size `request.size_hw`, its boxes clipped to it."""
    rng = sample_generator(seed, request.epoch, request.index)
    preprocessing = preprocessing.model_copy(update={"size_hw": request.size_hw})
    if request.is_strong and rng.random() < config.mosaic.probability:
        sample = _mosaic_with_mixup(request.index, read_sample, num_images, config, preprocessing, rng)
    elif request.is_strong and config.affine is not None:
        sample = _affine(read_sample(request.index), config.affine, preprocessing, rng)
    else:
        sample = fit(read_sample(request.index), preprocessing)
    sample = clip_to_picture(sample, config.visibility)
    if rng.random() < config.flip_probability:
        sample = flip_horizontal(sample)
    return LabelledImage(jitter_hsv(sample.image_rgb, config.hsv, rng), sample.boxes_xyxy, sample.class_ids)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample of one epoch."""
    return np.random.default_rng([seed, epoch, index])


def _mosaic_with_mixup(
    index: int,
    read_sample: ReadSample,
    num_images: int,
    config: AugmentationConfig,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
) -> LabelledImage:
    partners = rng.integers(num_images, size=3).tolist()
    sample = mosaic([read_sample(number) for number in [index, *partners]], config.mosaic, preprocessing, rng)
    if rng.random() < config.mixup.probability:
        other = read_sample(int(rng.integers(num_images)))
        sample = mixup(sample, other, config.mixup, preprocessing, rng)
    return sample


def _affine(
    sample: LabelledImage, config: AffineConfig, preprocessing: Preprocessing, rng: np.random.Generator
) -> LabelledImage:
    size_hw = preprocessing.size_hw
    view = random_affine(config, rng, from_hw=size_hw, to_hw=size_hw)
    matrix = view @ fit_matrix(sample.size_hw, preprocessing)
    picture = warp(sample.image_rgb, matrix, size_hw, pad_value=preprocessing.pad_value)
    return LabelledImage(picture, warp_boxes(sample.boxes_xyxy, matrix), sample.class_ids)

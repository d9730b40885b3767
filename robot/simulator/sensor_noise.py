"""Simulate sensor noise: depth of a D455-like stereo camera, and gain, gamma, blur and noise of the colour sensor.

Depth noise grows with the square of the distance: a disparity error of about a tenth of a pixel, triangulated, is
sigma_z = z^2 * subpixel / (f * baseline) (Intel, "Best known methods for tuning D400 cameras").
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy.stats import norm

from handeye.robot.simulator.appearance import ImageEffects
from handeye.vision.config import Config


class DepthNoiseConfig(Config):
    """Parameters of the depth sensor; `enabled: false` gives perfect depth, with NaN where nothing is seen."""

    enabled: bool = True
    baseline_m: float = 0.095
    subpixel_px: float = 0.1
    """Standard deviation of the disparity error."""
    correlation_px: float = 1.5
    """Correlation length of the errors, because stereo matching compares windows."""
    edge_jump: float = 0.04
    """Relative step in depth between neighbours that leaves a hole."""
    edge_hole_probability: float = 0.6
    grazing_cosine: float = 0.17
    """Surfaces seen at a cosine below this give no reading."""
    dropout_probability: float = 0.002
    quantum_m: float = 0.001
    range_m: tuple[float, float] = (0.20, 6.0)
    """No reading nearer or farther than this."""


def noisy_depth(
    depth_m: Float32[np.ndarray, "H W"], focal_px: float, config: DepthNoiseConfig, rng: np.random.Generator
) -> Float32[np.ndarray, "H W"]:
    """Depth with sensor noise, m, NaN where there is no reading; the true depth is infinite where nothing is hit."""
    low, high = config.range_m if config.enabled else (0.0, np.inf)
    readable = np.isfinite(depth_m) & (depth_m >= low) & (depth_m <= high)
    if not config.enabled:
        return np.where(readable, depth_m, np.nan).astype(np.float32)
    depth = np.where(readable, depth_m, np.float32(high))
    sigma = depth_sigma_m(depth, focal_px, config)
    reading = depth + sigma * _correlated_noise(depth.shape, config.correlation_px, rng)
    reading = np.round(reading / config.quantum_m) * config.quantum_m
    hole = ~readable | _edge_holes(depth, config, rng) | _is_grazing(depth, focal_px, config.grazing_cosine)
    hole |= rng.random(depth.shape, np.float32) < config.dropout_probability
    return np.where(hole, np.float32(np.nan), reading).astype(np.float32)


def depth_sigma_m(
    depth_m: Float[np.ndarray, "*n"], focal_px: float, config: DepthNoiseConfig
) -> Float[np.ndarray, "*n"]:
    """Standard deviation of a reading at this depth, m."""
    return depth_m * depth_m * (config.subpixel_px / (focal_px * config.baseline_m))


def apply_sensor_model(
    image_rgb: UInt8[np.ndarray, "H W 3"], effects: ImageEffects, rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """Apply the colour sensor's errors to an ideal image; noise is sampled from `rng`, everything else is fixed."""
    levels = np.arange(256, dtype=np.float64)[:, None] / 255.0
    table = 255.0 * np.clip(levels * np.array(effects.gain_rgb), 0, 1) ** effects.gamma
    lit = cv2.LUT(image_rgb, table.astype(np.float32)[None])
    if effects.blur_px > 0:
        lit = cv2.GaussianBlur(lit, (0, 0), effects.blur_px)
    # Adding, rounding and clipping in one pass.
    return cv2.add(lit, gaussian_noise(lit.shape, effects.noise, rng), dtype=cv2.CV_8U)


def gaussian_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Float32[np.ndarray, "..."]:
    """Independent normal numbers in 256 steps, cut off at 2.9 sigma: ten times as fast as exact ones.

    Each is the normal quantile of a random byte; the variance is exact.
    """
    quantiles = norm.ppf((np.arange(256) + 0.5) / 256)
    table = (sigma / quantiles.std() * quantiles).astype(np.float32)
    return table[np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8)].reshape(shape)


def _correlated_noise(
    shape: tuple[int, ...], correlation_px: float, rng: np.random.Generator
) -> Float32[np.ndarray, "H W"]:
    """Gaussian noise of unit variance, blurred and rescaled to unit variance."""
    white = gaussian_noise(shape, 1.0, rng)
    if correlation_px <= 0:
        return white
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * correlation_px)) + 1, correlation_px)
    return cv2.sepFilter2D(white, -1, kernel, kernel) / np.float32(np.sum(kernel**2))


def _edge_holes(
    depth: Float32[np.ndarray, "H W"], config: DepthNoiseConfig, rng: np.random.Generator
) -> Bool[np.ndarray, "H W"]:
    """Ragged holes on both sides of steps in depth, where the two imagers see different things.

    The two pixels at the step itself are steep, and give no reading anyway.
    """
    window = np.ones((5, 5), np.uint8)
    nearest, farthest = cv2.erode(depth, window), cv2.dilate(depth, window)
    on_edge = (farthest - nearest) > config.edge_jump * nearest
    # The mean of nine uniform numbers is nearly normal, with variance 1 / (12 * 9): patches of holes, not single ones.
    patches = cv2.blur(rng.random(depth.shape, np.float32), (3, 3))
    return on_edge & (patches < norm.ppf(config.edge_hole_probability, 0.5, np.sqrt(1 / 108)))


def _is_grazing(depth: Float32[np.ndarray, "H W"], focal_px: float, limit: float) -> Bool[np.ndarray, "H W"]:
    """Where the surface's slope says that it is seen almost edge-on.

    With d(ln z)/du per pixel g, the angle of the ray to the surface has tangent 1 / (f g): the cosine to the
    normal is 1 / sqrt(1 + (f g)^2), exact on the optical axis and close to it elsewhere.
    """
    logarithm = np.log(depth)
    slope_x = cv2.Sobel(logarithm, cv2.CV_32F, 1, 0, ksize=3) / 8
    slope_y = cv2.Sobel(logarithm, cv2.CV_32F, 0, 1, ksize=3) / 8
    steepness = focal_px * np.hypot(slope_x, slope_y)
    return steepness > np.sqrt(1 / limit**2 - 1)

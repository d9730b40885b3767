"""Segment the object in a detector's box by depth, robust to holes, mixed edge pixels and background in the box.

Stereo depth comes from a disparity d = f b / z, so noise is even in 1 / z and a plane is linear in (u, v, 1 / z): the
separation of object and background works there. The object is that connected piece before the background which fits
the box best; the background is given (a known table), fitted to the rim of the box, or all beyond the nearest mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32
from pydantic import Field

from handeye.robot.errors import RobotError
from handeye.vision.config import Config

MAX_PLAUSIBLE_DEPTH_M = 100.0
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
_MODE_BINS = 64
_STEP_TO_SLOPE = 2.5
_SAMPLE = 500  # readings are plenty for a median


class DepthError(RobotError):
    """A depth image has another shape or type than expected, or another unit than metres."""


class DepthConfig(Config):
    """The depth sensor and what counts as an object in front of something."""

    baseline_m: float = Field(default=0.095, gt=0)
    """Distance between the two imagers of the stereo pair; 95 mm in a RealSense D455."""
    subpixel_px: float = Field(default=0.08, gt=0)
    """Standard deviation of the disparity."""
    max_range_m: float = Field(default=4.0, gt=0)
    """Readings beyond it are ignored."""
    margin_m: float = Field(default=0.008, gt=0)
    """An object's pixel is nearer than the background by at least this."""
    jump_m: float = Field(default=0.012, gt=0)
    """Neighbouring pixels that differ by more belong to different surfaces."""
    step_m: float = Field(default=0.005, gt=0)
    """A difference above this also parts two surfaces if it stands out from the slope of both."""
    min_pixels: int = Field(default=16, ge=4)
    """Fewer pixels than this are no object."""
    window_margin: float = Field(default=0.10, ge=0)
    """How far beyond the box, as a part of its size, the object may reach; boxes are not exact."""

    def sigma_m(self, depth_m: float, focal_px: float) -> float:
        """Standard deviation of one reading: z^2 * subpixel / (f * baseline)."""
        return depth_m * depth_m * self.subpixel_px / (focal_px * self.baseline_m)


class NoDepth(Enum):
    """Why a box has no usable depth."""

    OUTSIDE = "the box lies outside of the image"
    NO_READING = "too few pixels of the box have a depth reading"
    NO_OBJECT = "nothing in the box stands before its background"


@dataclass(frozen=True, slots=True, eq=False)
class BoxDepth:
    """The object's pixels in a box. The window is the box with a margin, clipped to the image.

    mask marks the object and is_cut those of its pixels where something nearer or the window's border ends it, so that
    its own edge is not seen; both are relative to the window, whose first pixel is (left_px, top_px) in the image.
    depth_m is the median of the object's readings and spread_m their deviation (1.4826 MAD). fill is the part of the
    window's pixels that have a reading.
    """

    left_px: int
    top_px: int
    mask: Bool[np.ndarray, "h w"]
    is_cut: Bool[np.ndarray, "h w"]
    depth_m: float
    spread_m: float
    fill: float

    def crop(self, image: Float[np.ndarray, "H W *channels"]) -> Float[np.ndarray, "h w *channels"]:
        """The window's part of an image."""
        height, width = self.mask.shape
        return image[self.top_px : self.top_px + height, self.left_px : self.left_px + width]


def measure_box_depth(
    depth_m: Float32[np.ndarray, "H W"],
    box_xyxy: Float[np.ndarray, "4"],
    focal_px: float,
    config: DepthConfig,
    *,
    background: Float[np.ndarray, "3"] | None = None,
) -> BoxDepth | NoDepth:
    """Find the object's pixels in a box of the depth image (m; NaN, infinity and values <= 0 are no reading).

    background is the plane behind the object as (a, b, c), 1 / depth = a u + b v + c, from `plane_inverse_depth`;
    without it a plane is fitted to the rim of the window. Call `check_depth` once for each image before.
    """
    window = _window(box_xyxy, depth_m.shape, config.window_margin)
    if window is None:
        return NoDepth.OUTSIDE
    left, top, right, bottom = window
    depth = depth_m[top:bottom, left:right]
    with np.errstate(invalid="ignore"):
        has_reading = (depth > 0.0) & (depth <= config.max_range_m)
    if np.count_nonzero(has_reading) < config.min_pixels:
        return NoDepth.NO_READING
    if background is not None:  # (a, b, c) count from the first pixel of the window from here on
        background = background + np.array([0.0, 0.0, background[0] * left + background[1] * top])
    is_foreground = has_reading & _before_background(depth, has_reading, background, focal_px, config)
    is_surface = has_reading & ~_beyond_a_jump(depth, has_reading, config)
    mask = _piece_that_fits(is_foreground & is_surface, box_xyxy - (left, top, left, top), config.min_pixels)
    if mask is None:
        return NoDepth.NO_OBJECT
    is_cut = _cut_pixels(depth, mask, is_surface & ~mask, config)
    return _describe(depth, mask, is_cut, left, top, float(has_reading.mean()))


def check_depth(depth_m: Float[np.ndarray, "H W"], size_hw: tuple[int, int]) -> None:
    """Raise DepthError unless depth_m is a floating point image of size_hw whose readings can be metres."""
    if depth_m.shape != size_hw:
        raise DepthError(f"expected a depth image of {size_hw} (height, width), got {depth_m.shape}")
    if not np.issubdtype(depth_m.dtype, np.floating):
        raise DepthError(f"expected depth in metres as floating point numbers, got {depth_m.dtype}: divide millimetres")
    sample = depth_m[::4, ::4]
    readings = sample[np.isfinite(sample) & (sample > 0.0)]
    if readings.size and np.median(readings) > MAX_PLAUSIBLE_DEPTH_M:
        raise DepthError(
            f"expected depth in metres, got a median of {np.median(readings):g}: these look like millimetres"
        )


def _window(box_xyxy: np.ndarray, size_hw: tuple[int, ...], margin: float) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (exclusive) of the box with its margin, clipped; None if the box is not in the image."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    height, width = size_hw
    if not (np.isfinite(box_xyxy).all() and x1 < min(x2, width) and y1 < min(y2, height) and x2 > 0 and y2 > 0):
        return None
    margin_x, margin_y = margin * (x2 - x1) + 2.0, margin * (y2 - y1) + 2.0
    left, top = max(int(np.floor(x1 - margin_x)), 0), max(int(np.floor(y1 - margin_y)), 0)
    return left, top, min(int(np.ceil(x2 + margin_x)), width), min(int(np.ceil(y2 + margin_y)), height)


def _before_background(
    depth: np.ndarray, has_reading: np.ndarray, background: np.ndarray | None, focal_px: float, config: DepthConfig
) -> np.ndarray:
    """Pixels nearer than the background: the given one, the plane through the rim, or all beyond the first mode."""
    if background is None:
        background = _rim_plane(depth, has_reading, focal_px, config)
    if background is None:
        return _nearest_mode(depth, has_reading, config)
    a, b, c = background
    height, width = depth.shape
    inverse = a * np.arange(width) + (b * np.arange(height) + c)[:, None]
    # At and above the plane's horizon there is no background, everything there is an object.
    plane_m = 1.0 / np.maximum(inverse, 1.0 / MAX_PLAUSIBLE_DEPTH_M)
    with np.errstate(invalid="ignore"):
        return depth < plane_m - config.margin_m


def _rim_plane(depth: np.ndarray, has_reading: np.ndarray, focal_px: float, config: DepthConfig) -> np.ndarray | None:
    """The plane that most of the window's rim lies on, by trimmed least squares; None if there is no such plane."""
    rim = has_reading.copy()
    rim[2:-2, 2:-2] = False
    v, u = np.nonzero(rim)
    if len(v) < config.min_pixels:
        return None
    design = np.stack([u, v, np.ones_like(u)], axis=1).astype(np.float64)
    inverse = 1.0 / depth[rim].astype(np.float64)
    tolerance = (
        3.0 * config.subpixel_px / (focal_px * config.baseline_m) + 0.25 * config.margin_m * np.median(inverse) ** 2
    )
    plane = np.array([0.0, 0.0, np.median(inverse)])
    for _ in range(8):
        residual = inverse - design @ plane
        inliers = np.abs(residual) <= max(tolerance, float(np.median(np.abs(residual))))
        plane = np.linalg.lstsq(design[inliers], inverse[inliers], rcond=None)[0]
    is_plane = np.count_nonzero(np.abs(inverse - design @ plane) <= tolerance) >= 0.5 * len(v)
    return plane if is_plane else None


def _nearest_mode(depth: np.ndarray, has_reading: np.ndarray, config: DepthConfig) -> np.ndarray:
    """Pixels of the nearest heap of readings, in a histogram over 1 / z, that holds a fifth of them."""
    inverse = 1.0 / depth[has_reading]
    counts, edges = np.histogram(inverse, bins=_MODE_BINS)
    smooth = np.convolve(counts, [0.25, 0.5, 0.25], mode="same")
    is_heap = smooth > 0.1 * smooth.max()
    heap_of_bin = np.where(is_heap, np.cumsum(np.diff(is_heap, prepend=False) & is_heap), 0)
    sizes = np.bincount(heap_of_bin, weights=counts)
    sizes[0] = 0.0
    nearest = np.flatnonzero(sizes >= min(0.2 * len(inverse), sizes.max()))[-1]
    bins = np.flatnonzero(heap_of_bin == nearest)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse_image = 1.0 / depth
        return (inverse_image >= edges[bins[0]]) & (inverse_image <= edges[bins[-1] + 1])


def _beyond_a_jump(depth: np.ndarray, has_reading: np.ndarray, config: DepthConfig) -> np.ndarray:
    """The farther pixels at every step of the depth: mixed pixels and the first ones behind an edge.

    Taking them out parts surfaces that touch in the image, and leaves the nearer one its last pixel.
    """
    filled = np.where(has_reading, depth, np.nan)
    with np.errstate(invalid="ignore"):
        return _beyond_a_jump_in_rows(filled, config) | _beyond_a_jump_in_rows(filled.T, config).T


def _beyond_a_jump_in_rows(depth: np.ndarray, config: DepthConfig) -> np.ndarray:
    """A step is a large difference of neighbours, or a smaller one that stands out from the slope on both sides of it.

    The latter is measured across two pixels, because a mixed pixel halves the step between direct neighbours.
    """
    height, width = depth.shape
    if width < 3:
        return np.zeros(depth.shape, dtype=bool)
    nearer = np.empty_like(depth)
    nearer[:, 0], nearer[:, -1] = depth[:, 1], depth[:, -2]
    nearer[:, 1:-1] = np.fmin(depth[:, :-2], depth[:, 2:])
    behind = depth - nearer
    # Two more columns on both sides, so that every pixel has a slope to its left and to its right.
    slopes = np.zeros((height, width + 4), dtype=depth.dtype)
    slopes[:, 3:-3] = np.abs(depth[:, 2:] - depth[:, :-2])
    slope, slope_beside = slopes[:, 2:-2], np.fmax(slopes[:, :-4], slopes[:, 4:])
    stands_out = (slope > config.step_m) & (slope > _STEP_TO_SLOPE * slope_beside) & (behind > 0.5 * config.step_m)
    return (behind > config.jump_m) | stands_out


def _piece_that_fits(pieces: np.ndarray, box_xyxy: np.ndarray, min_pixels: int) -> np.ndarray | None:
    """The 4-connected piece of a mask whose own bounding box overlaps the box most; None if all are too small.

    By overlap, not by size: a neighbour that covers half of the box may be larger than the visible rest of the object,
    but it does not fill the box.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pieces.astype(np.uint8), connectivity=4)
    low, size = stats[:, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP]], stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    shared = np.minimum(low + size, box_xyxy[2:]) - np.maximum(low, box_xyxy[:2])
    intersection = np.maximum(shared, 0.0).prod(axis=1)
    overlap = intersection / (size.prod(axis=1) + np.prod(box_xyxy[2:] - box_xyxy[:2]) - intersection)
    is_candidate = stats[:, cv2.CC_STAT_AREA] >= min_pixels
    is_candidate[0] = False  # the pixels of no piece
    if not is_candidate.any():
        return None
    return labels == int(np.argmax(np.where(is_candidate, overlap, -1.0)))


def _cut_pixels(depth: np.ndarray, mask: np.ndarray, is_other: np.ndarray, config: DepthConfig) -> np.ndarray:
    """The object's pixels that end at something nearer, at the arm (negative depth), or at the window's border."""
    others = np.where(is_other, depth, np.inf).astype(np.float32)
    with np.errstate(invalid="ignore"):
        others[depth < 0.0] = 0.0
    # Three pixels far: those beside an edge are mixed or holes.
    nearest_other = cv2.erode(others, np.ones((7, 7), np.uint8))
    is_cut = mask & (nearest_other < depth - config.step_m)
    for border in (np.s_[:2], np.s_[-2:], np.s_[:, :2], np.s_[:, -2:]):
        is_cut[border] |= mask[border]
    return is_cut


def _describe(depth: np.ndarray, mask: np.ndarray, is_cut: np.ndarray, left: int, top: int, fill: float) -> BoxDepth:
    """Statistics of the object's readings."""
    readings = depth[mask]
    readings = readings[:: max(1, len(readings) // _SAMPLE)]
    median = float(np.median(readings))
    spread = _MAD_TO_SIGMA * float(np.median(np.abs(readings - median)))
    return BoxDepth(left, top, mask, is_cut, median, spread, fill)

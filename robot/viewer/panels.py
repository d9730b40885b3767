"""The pictures that a video and a contact sheet are made of: detections, depth, status in words."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from robot.control.loop import Tick
from robot.perception.pipeline import Percept
from vision.runtime.draw import draw_detections

INK = (235, 235, 235)
QUIET = (130, 135, 145)
GROUND = (24, 26, 31)
ACCENT = (255, 190, 70)
FONT = cv2.FONT_HERSHEY_SIMPLEX

DEPTH_NEAR_M = 0.10
DEPTH_FAR_M = 0.80
"""What lies outside is drawn in the first or last colour, so that colours mean the same in every picture."""


def draw_wrist(percept: Percept) -> UInt8[np.ndarray, "h w 3"]:
    """What the wrist camera saw, with what the detector found in it."""
    return draw_detections(percept.frame.image_rgb, percept.detections)


def draw_depth(depth_m: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in colours, near is bright; black where the sensor has no reading."""
    share = (depth_m - DEPTH_NEAR_M) / (DEPTH_FAR_M - DEPTH_NEAR_M)
    grey = np.uint8(255 * (1 - np.clip(np.nan_to_num(share, nan=1.0), 0, 1)))
    coloured = cv2.cvtColor(cv2.applyColorMap(np.asarray(grey), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    missing: Bool[np.ndarray, "h w"] = ~np.isfinite(depth_m)
    coloured[missing] = 0
    return np.asarray(coloured, np.uint8)


def describe(tick: Tick, stage_names: Sequence[str]) -> list[str]:
    """Status in lines: where in the stages, when, which attempt, how the fingers are, what is tracked."""
    stages = "  ".join(f"[{name}]" if name == tick.status.stage else name for name in stage_names)
    lines = [
        stages,
        f"t = {tick.stamp_s:6.2f} s    attempt {tick.status.attempts}    {tick.status.outcome.value}",
        f"fingers {tick.joints.gripper_opening_m * 1000:5.1f} mm",
    ]
    if tick.status.reason is not None:
        lines.append(f"gave up: {tick.status.reason}")
    lines += [f"gate: {violation}" for violation in tick.violations]
    if tick.percept is not None:
        for track in sorted(tick.percept.tracks, key=lambda track: track.track_id):
            x, y, z = track.p_base
            lines.append(f"#{track.track_id} {track.class_name} {track.status.value} ({x:.3f}, {y:.3f}, {z:.3f}) m")
    return lines


def write_lines(
    canvas: UInt8[np.ndarray, "h w 3"], lines: Sequence[str], top_px: int, left_px: int, scale: float = 0.5
) -> None:
    """Write lines of text into the canvas; the first in the accent colour. What does not fit below is left out."""
    step_px = round(38 * scale)
    for row, line in enumerate(lines):
        baseline = top_px + (row + 1) * step_px
        if baseline > canvas.shape[0]:
            return
        colour = ACCENT if row == 0 else INK
        cv2.putText(canvas, line, (left_px, baseline), FONT, scale, colour, 1, cv2.LINE_AA)


def fit(image_rgb: UInt8[np.ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The whole image, as large as `size_hw` allows, on the ground colour."""
    height, width = size_hw
    scale = min(height / image_rgb.shape[0], width / image_rgb.shape[1])
    size_wh = (round(image_rgb.shape[1] * scale), round(image_rgb.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image_rgb, size_wh, interpolation=interpolation)
    canvas = np.full((height, width, 3), GROUND, np.uint8)
    top, left = (height - size_wh[1]) // 2, (width - size_wh[0]) // 2
    canvas[top : top + size_wh[1], left : left + size_wh[0]] = resized
    return canvas

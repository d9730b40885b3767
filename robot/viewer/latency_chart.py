"""Draw the way from a frame's exposure to a command over the time of an episode, and how late control periods began."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.robot.control.episode import Punctuality
from handeye.robot.viewer.episode_view import FONT, GROUND, INK, QUIET
from handeye.vision.images import write_image

HEIGHT_PX, WIDTH_PX = 720, 1280
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX, LATE_PX = 70, 20, 150, 560, 660
BAR_PX = 6
COLOURS = ((110, 160, 220), (255, 190, 70), (150, 200, 130), (200, 130, 190))
LATE_COLOUR = (235, 90, 80)


def save_latency_chart(path: Path, punctuality: Punctuality) -> None:
    """Write the chart. Raises UserError for a suffix of no image format."""
    write_image(path, draw_latency(punctuality))


def draw_latency(punctuality: Punctuality) -> UInt8[np.ndarray, "720 1280 3"]:
    """Above a stacked bar for each frame, one colour a stage; below the lateness of every control period."""
    canvas = np.full((HEIGHT_PX, WIDTH_PX, 3), GROUND, np.uint8)
    _write_caption(canvas, punctuality)
    longest_s = max([1.0, *punctuality.frame_s, *punctuality.period_s])
    highest_ms = 20.0 * np.ceil(max([20.0, *punctuality.latency_ms]) / 20.0)
    _draw_grid(canvas, TOP_PX, BOTTOM_PX, highest_ms)
    for index, exposed_s in enumerate(punctuality.frame_s):
        x, base_ms = _x(exposed_s, longest_s), 0.0
        for colour, values_ms in zip(COLOURS, punctuality.frame_ms.values(), strict=True):
            top_ms = base_ms + values_ms[index]
            corners = [(x, _y(base_ms, highest_ms)), (x + BAR_PX, _y(top_ms, highest_ms))]
            cv2.rectangle(canvas, corners[0], corners[1], colour, cv2.FILLED)
            base_ms = top_ms
    latest_ms = max([1.0, *punctuality.lateness_ms])
    _draw_grid(canvas, LATE_PX - 60, LATE_PX, latest_ms)
    for began_s, late_ms in zip(punctuality.period_s, punctuality.lateness_ms, strict=True):
        x = _x(began_s, longest_s)
        cv2.line(canvas, (x, LATE_PX), (x, LATE_PX - round(60 * min(late_ms, latest_ms) / latest_ms)), LATE_COLOUR)
    for second in range(int(longest_s) + 1):
        cv2.putText(
            canvas, f"{second} s", (_x(float(second), longest_s) - 8, LATE_PX + 24), FONT, 0.4, QUIET, 1, cv2.LINE_AA
        )
    return canvas


def _write_caption(canvas: UInt8[np.ndarray, "h w 3"], punctuality: Punctuality) -> None:
    """Percentiles of the whole and, in its colour, of each stage; and what made control miss periods."""
    missed = ", ".join(f"{count} {why}" for why, count in punctuality.missed.items()) or "none"
    lines = [(INK, _percentiles("frame exposure to command", punctuality.latency_ms))]
    stages = zip(COLOURS, punctuality.frame_ms.items(), strict=False)
    lines += [(colour, _percentiles(f"  {name}", values_ms)) for colour, (name, values_ms) in stages]
    lines.append((INK, _percentiles("control periods late by", punctuality.lateness_ms) + f"; missed: {missed}"))
    for row, (colour, line) in enumerate(lines, start=1):
        cv2.putText(canvas, line, (16, 8 + 22 * row), FONT, 0.5, colour, 1, cv2.LINE_AA)


def _percentiles(name: str, values_ms: Sequence[float]) -> str:
    if not len(values_ms):
        return f"{name}: nothing measured"
    p50, p99 = np.percentile(values_ms, [50, 99])
    return f"{name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def _draw_grid(canvas: UInt8[np.ndarray, "h w 3"], top_px: int, bottom_px: int, highest_ms: float) -> None:
    for y, label in ((bottom_px, "0"), (top_px, f"{highest_ms:.0f} ms")):
        cv2.line(canvas, (LEFT_PX, y), (WIDTH_PX - RIGHT_PX, y), QUIET)
        cv2.putText(canvas, label, (8, y + 5), FONT, 0.4, INK, 1, cv2.LINE_AA)


def _x(stamp_s: float, longest_s: float) -> int:
    return LEFT_PX + round((WIDTH_PX - RIGHT_PX - LEFT_PX - BAR_PX) * stamp_s / longest_s)


def _y(value_ms: float, highest_ms: float) -> int:
    return BOTTOM_PX - round((BOTTOM_PX - TOP_PX) * value_ms / highest_ms)

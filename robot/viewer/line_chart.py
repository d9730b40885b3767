"""A small line chart as inline SVG: it needs no package, scales without blur and stays text in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

WIDTH_PX, HEIGHT_PX, LEFT_PX, TOP_PX, BOTTOM_PX = 280, 110, 46, 18, 14
BLUE, ORANGE = "#1f5fa8", "#d2691e"
MOST_POINTS = 500
"""More are thinned out evenly; the smallest and the largest value stay."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Values at times in s; what is not finite is left out."""

    label: str
    times_s: Float[np.ndarray, " T"]
    values: Float[np.ndarray, " T"]
    colour: str = BLUE


def draw_chart(title: str, lines: Sequence[Line]) -> str:
    """The SVG with smallest and largest value and duration; pointing at a line tells its label."""
    finite = [np.isfinite(line.values) for line in lines]
    values = np.concatenate([line.values[good] for line, good in zip(lines, finite, strict=True)])
    times = np.concatenate([line.times_s for line in lines])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    end_s = float(times.max()) if len(times) else 0.0
    paths = "".join(_path(line, good, (low, high), end_s) for line, good in zip(lines, finite, strict=True))
    bottom = HEIGHT_PX - BOTTOM_PX
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" width="{WIDTH_PX}" height="{HEIGHT_PX}" role="img">'
        f'<text x="{LEFT_PX}" y="12" class="title">{escape(title)}</text>'
        f'<rect x="{LEFT_PX}" y="{TOP_PX}" width="{WIDTH_PX - LEFT_PX}" height="{bottom - TOP_PX}" class="frame"/>'
        f'<text x="{LEFT_PX - 4}" y="{TOP_PX + 9}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT_PX - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{WIDTH_PX}" y="{HEIGHT_PX - 2}" text-anchor="end">{end_s:.1f} s</text>{paths}</svg>'
    )


def _path(line: Line, good: np.ndarray, bounds: tuple[float, float], end_s: float) -> str:
    """One polyline; a line that never changes lies in the middle."""
    low, high = bounds
    kept = thin(line.values, good)
    if not len(kept):
        return ""
    inner = HEIGHT_PX - TOP_PX - BOTTOM_PX
    share = (line.values[kept] - low) / (high - low) if high > low else np.full(len(kept), 0.5)
    x = LEFT_PX + (WIDTH_PX - LEFT_PX) * (line.times_s[kept] / end_s if end_s > 0 else np.zeros(len(kept)))
    y = TOP_PX + 2 + (inner - 4) * (1.0 - share)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = escape(line.label)
    return f'<polyline points="{points}" fill="none" stroke="{line.colour}"><title>{label}</title></polyline>'


def thin(values: Float[np.ndarray, " T"], good: np.ndarray) -> np.ndarray:
    """Which frames to draw: at most MOST_POINTS, the smallest and the largest value among them."""
    frames = np.flatnonzero(good)
    if len(frames) <= MOST_POINTS:
        return frames
    even = frames[np.linspace(0, len(frames) - 1, MOST_POINTS - 2).round().astype(int)]
    return np.union1d(even, frames[[values[frames].argmin(), values[frames].argmax()]])

"""Figures and pictures as files: drawn without a display, whole or absent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handeye.vision.files import replacing

PANEL_INCHES = (6.4, 4.4)
DPI = 120


@contextmanager
def figure(
    path: Path, num_panels: int = 1, size_inches: tuple[float, float] = PANEL_INCHES
) -> Iterator[Sequence[Axes]]:
    """Axes in a row; written to `path` when the block ends. No pyplot: it would keep every figure in memory."""
    drawing = Figure(figsize=(size_inches[0] * num_panels, size_inches[1]), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, num_panels, squeeze=False)[0]
    for panel in axes:
        panel.grid(visible=True, alpha=0.3)
    yield list(axes)
    with replacing(path) as beside:
        drawing.savefig(beside, dpi=DPI)


def write_picture(path: Path, image_rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a PNG. Raises OSError where OpenCV's own writer would leave a broken file in silence."""
    is_encoded, content = cv2.imencode(".png", cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    assert is_encoded
    with replacing(path) as beside:
        beside.write_bytes(content.tobytes())

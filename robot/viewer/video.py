"""An episode as a film: what the wrist camera saw, the depth, the arm from outside, and what the skill was at.

Drawn only in ticks with a frame, so the film runs at the camera's rate and in the episode's own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from robot.control.loop import Tick
from robot.perception.pipeline import Percept
from robot.viewer.panels import GROUND, describe, draw_depth, draw_wrist, fit, write_lines
from vision.runtime.video_writer import VideoWriter

HEIGHT_PX, WIDTH_PX = 720, 1280
LARGE_HW, SMALL_HW = (480, 640), (240, 320)


class EpisodeVideo:
    """Writes pictures of ticks as an mp4 at `fps`; use as a context."""

    def __init__(self, path: Path, fps: float, stage_names: Sequence[str]) -> None:
        self._writer = VideoWriter(path, fps)
        self._stage_names = tuple(stage_names)

    def __enter__(self) -> EpisodeVideo:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, tick: Tick, percept: Percept, outside_rgb: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Append the picture of a tick with a frame."""
        self._writer.write(compose_picture(tick, percept, self._stage_names, outside_rgb))


def compose_picture(
    tick: Tick, percept: Percept, stage_names: Sequence[str], outside_rgb: UInt8[np.ndarray, "h w 3"] | None
) -> UInt8[np.ndarray, "720 1280 3"]:
    """Wrist view left; right the outside view with the depth below it, or the depth alone where there is none."""
    canvas = np.full((HEIGHT_PX, WIDTH_PX, 3), GROUND, np.uint8)
    depth = draw_depth(percept.frame.depth_m)
    canvas[: LARGE_HW[0], : LARGE_HW[1]] = fit(draw_wrist(percept), LARGE_HW)
    if outside_rgb is None:
        canvas[: LARGE_HW[0], LARGE_HW[1] :] = fit(depth, LARGE_HW)
    else:
        canvas[: LARGE_HW[0], LARGE_HW[1] :] = fit(outside_rgb, LARGE_HW)
        canvas[LARGE_HW[0] :, WIDTH_PX - SMALL_HW[1] :] = fit(depth, SMALL_HW)
    write_lines(canvas, describe(tick, stage_names), top_px=LARGE_HW[0] + 12, left_px=16)
    return canvas

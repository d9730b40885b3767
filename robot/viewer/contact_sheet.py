"""An episode on one page: a column for each stage, with detections, depth and the arm from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from robot.control.loop import Tick
from robot.perception.pipeline import Percept
from robot.viewer.panels import GROUND, draw_depth, draw_wrist, fit, write_lines
from vision.errors import UserError
from vision.files import replacing

CELL_HW = (240, 320)
CAPTION_PX = 52
GAP_PX = 4


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What there was to see in the last frame of a stage."""

    tick: Tick
    percept: Percept
    outside_rgb: UInt8[np.ndarray, "h w 3"] | None


class ContactSheet:
    """Keeps the last frame of each of `stage_names`, of the latest attempt; `save` lays them out on a page."""

    def __init__(self, stage_names: Sequence[str]) -> None:
        self._stage_names = tuple(stage_names)
        self._moments: dict[str, Moment] = {}

    def add(self, tick: Tick, percept: Percept, outside_rgb: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Take note of a tick with a frame: it replaces the last one of its stage, unless the policy is over by now."""
        if tick.status.is_over:
            return
        self._moments[tick.status.stage] = Moment(tick, percept, outside_rgb)

    def save(self, path: Path, title: str) -> None:
        """Write the page as PNG. Raises UserError when no frame has come, or for a suffix that is no picture's."""
        moments = [self._moments[name] for name in self._stage_names if name in self._moments]
        if not moments:
            raise UserError(f"{path}: no frame was seen in any of the stages {', '.join(self._stage_names)}")
        with replacing(path) as beside:
            if not cv2.imwrite(str(beside), cv2.cvtColor(lay_out(moments, title), cv2.COLOR_RGB2BGR)):
                raise UserError(f"{path}: this OpenCV cannot write such a picture; use .png")


def lay_out(moments: Sequence[Moment], title: str) -> UInt8[np.ndarray, "h w 3"]:
    """The page: one column a moment, from top to bottom caption, detections, depth and, where there is one, the arm."""
    columns = [_column(moment) for moment in moments]
    height = max(column.shape[0] for column in columns)
    page = np.full((height + CAPTION_PX, len(columns) * (CELL_HW[1] + GAP_PX) - GAP_PX, 3), GROUND, np.uint8)
    write_lines(page, [title], top_px=8, left_px=10, scale=0.7)
    for index, column in enumerate(columns):
        left = index * (CELL_HW[1] + GAP_PX)
        page[CAPTION_PX : CAPTION_PX + column.shape[0], left : left + CELL_HW[1]] = column
    return page


def _column(moment: Moment) -> UInt8[np.ndarray, "h w 3"]:
    caption = np.full((CAPTION_PX, CELL_HW[1], 3), GROUND, np.uint8)
    opening_mm = moment.tick.joints.gripper_opening_m * 1000
    lines = [moment.tick.status.stage, f"t = {moment.tick.stamp_s:.2f} s   fingers {opening_mm:.1f} mm"]
    write_lines(caption, lines, top_px=4, left_px=8, scale=0.48)
    pictures = [draw_wrist(moment.percept), draw_depth(moment.percept.frame.depth_m)]
    if moment.outside_rgb is not None:
        pictures.append(moment.outside_rgb)
    return np.concatenate([caption, *(fit(picture, CELL_HW) for picture in pictures)])

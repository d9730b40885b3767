"""Write the files of an episode: ticks as JSON lines and, if wanted, a video and a contact sheet.

Images are drawn in ticks with a frame only, so the video runs at the camera's rate in the time of the episode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.control.loop import Tick
from handeye.robot.control.recorder import EpisodeRecorder
from handeye.robot.perception.pipeline import Percept
from handeye.vision.errors import UserError
from handeye.vision.images import write_image
from handeye.vision.runtime.draw import draw_detections
from handeye.vision.runtime.video_writer import VideoWriter

SceneView = Callable[[], UInt8[np.ndarray, "h w 3"]]
"""Gives the scene camera's image of now: rendered in the simulator, of a second camera in a real cell."""

INK = (235, 235, 235)
QUIET = (130, 135, 145)
GROUND = (24, 26, 31)
ACCENT = (255, 190, 70)
FONT = cv2.FONT_HERSHEY_SIMPLEX

DEPTH_NEAR_M = 0.10
DEPTH_FAR_M = 0.80
"""Depth outside is drawn in the first or last colour, so that colours mean the same in every image."""

HEIGHT_PX, WIDTH_PX = 720, 1280
LARGE_HW, SMALL_HW = (480, 640), (240, 320)

CELL_HW = (240, 320)
CAPTION_PX = 52
GAP_PX = 4


class EpisodeFiles:
    """A tick sink that writes `ticks.jsonl` and, with `video`, `video.mp4` and `contact_sheet.png` into `folder`.

    Use as a context; `finish` writes the contact sheet.
    """

    def __init__(
        self, folder: Path, stage_names: Sequence[str], *, video: bool, fps: float, scene: SceneView | None
    ) -> None:
        self.folder = folder
        self._scene = scene
        self._recorder = EpisodeRecorder(folder / "ticks.jsonl")
        self._video = EpisodeVideo(folder / "video.mp4", fps, stage_names) if video else None
        self._sheet = ContactSheet(stage_names) if video else None
        self._open_files = ExitStack()

    def __enter__(self) -> EpisodeFiles:
        with ExitStack() as stack:
            stack.enter_context(self._recorder)
            if self._video is not None:
                stack.enter_context(self._video)
            self._open_files = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_files.__exit__(kind, error, trace)

    def write(self, tick: Tick) -> None:
        """Write one tick."""
        self._recorder.write(tick)
        if self._video is None or self._sheet is None or tick.percept is None:
            return
        scene_rgb = None if self._scene is None else self._scene()
        self._video.write(tick, tick.percept, scene_rgb)
        self._sheet.add(tick, tick.percept, scene_rgb)

    def finish(self, result: EpisodeResult) -> None:
        """Write the contact sheet once the episode is over."""
        if self._sheet is not None:
            self._sheet.save(self.folder / "contact_sheet.png", describe_result(result))


def describe_result(result: EpisodeResult) -> str:
    """An episode in one line."""
    outcome = "placed" if result.success else f"failed ({result.reason})"
    return f"episode {result.seed}: {outcome} after {result.cycle_s:.1f} s, grasps begun: {result.attempts}"


class EpisodeVideo:
    """Writes images of ticks as an mp4 at `fps`; use as a context."""

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

    def write(self, tick: Tick, percept: Percept, scene_rgb: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Append the video frame of a tick with a camera frame."""
        self._writer.write(compose_frame(tick, percept, self._stage_names, scene_rgb))


def compose_frame(
    tick: Tick, percept: Percept, stage_names: Sequence[str], scene_rgb: UInt8[np.ndarray, "h w 3"] | None
) -> UInt8[np.ndarray, "720 1280 3"]:
    """Wrist camera left, scene camera right with depth below it, or depth alone without a scene camera."""
    canvas = np.full((HEIGHT_PX, WIDTH_PX, 3), GROUND, np.uint8)
    depth = draw_depth(percept.frame.depth_m)
    canvas[: LARGE_HW[0], : LARGE_HW[1]] = fit(draw_wrist(percept), LARGE_HW)
    if scene_rgb is None:
        canvas[: LARGE_HW[0], LARGE_HW[1] :] = fit(depth, LARGE_HW)
    else:
        canvas[: LARGE_HW[0], LARGE_HW[1] :] = fit(scene_rgb, LARGE_HW)
        canvas[LARGE_HW[0] :, WIDTH_PX - SMALL_HW[1] :] = fit(depth, SMALL_HW)
    write_lines(canvas, describe(tick, stage_names), top_px=LARGE_HW[0] + 12, left_px=16)
    return canvas


@dataclass(frozen=True, slots=True, eq=False)
class StageKeyframe:
    """The last frame of a stage."""

    tick: Tick
    percept: Percept
    scene_rgb: UInt8[np.ndarray, "h w 3"] | None


class ContactSheet:
    """Keeps the last frame of each stage, of the latest attempt; `save` lays them out on a page."""

    def __init__(self, stage_names: Sequence[str]) -> None:
        self._stage_names = tuple(stage_names)
        self._keyframes: dict[str, StageKeyframe] = {}

    def add(self, tick: Tick, percept: Percept, scene_rgb: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Add a tick with a frame: it replaces the last one of its stage, unless the policy has finished."""
        if tick.status.is_over:
            return
        self._keyframes[tick.status.stage] = StageKeyframe(tick, percept, scene_rgb)

    def save(self, path: Path, title: str) -> None:
        """Write the page. Raises UserError without frames, or for a suffix of no image format."""
        keyframes = [self._keyframes[name] for name in self._stage_names if name in self._keyframes]
        if not keyframes:
            raise UserError(f"{path}: no frame was seen in any of the stages {', '.join(self._stage_names)}")
        write_image(path, lay_out(keyframes, title))


def lay_out(keyframes: Sequence[StageKeyframe], title: str) -> UInt8[np.ndarray, "h w 3"]:
    """The page: one column per keyframe with caption, detections, depth and, if there is one, the scene camera."""
    columns = [_column(keyframe) for keyframe in keyframes]
    height = max(column.shape[0] for column in columns)
    page = np.full((height + CAPTION_PX, len(columns) * (CELL_HW[1] + GAP_PX) - GAP_PX, 3), GROUND, np.uint8)
    write_lines(page, [title], top_px=8, left_px=10, scale=0.7)
    for index, column in enumerate(columns):
        left = index * (CELL_HW[1] + GAP_PX)
        page[CAPTION_PX : CAPTION_PX + column.shape[0], left : left + CELL_HW[1]] = column
    return page


def _column(keyframe: StageKeyframe) -> UInt8[np.ndarray, "h w 3"]:
    caption = np.full((CAPTION_PX, CELL_HW[1], 3), GROUND, np.uint8)
    opening_mm = keyframe.tick.joints.gripper_opening_m * 1000
    lines = [keyframe.tick.status.stage, f"t = {keyframe.tick.stamp_s:.2f} s   fingers {opening_mm:.1f} mm"]
    write_lines(caption, lines, top_px=4, left_px=8, scale=0.48)
    images = [draw_wrist(keyframe.percept), draw_depth(keyframe.percept.frame.depth_m)]
    if keyframe.scene_rgb is not None:
        images.append(keyframe.scene_rgb)
    return np.concatenate([caption, *(fit(image, CELL_HW) for image in images)])


def draw_wrist(percept: Percept) -> UInt8[np.ndarray, "h w 3"]:
    """The wrist camera's image with detections."""
    return draw_detections(percept.frame.image_rgb, percept.detections)


def draw_depth(depth_m: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Depth in false colours, near is bright; black where there is no reading."""
    share = (depth_m - DEPTH_NEAR_M) / (DEPTH_FAR_M - DEPTH_NEAR_M)
    grey = np.uint8(255 * (1 - np.clip(np.nan_to_num(share, nan=1.0), 0, 1)))
    coloured = cv2.cvtColor(cv2.applyColorMap(np.asarray(grey), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    missing: Bool[np.ndarray, "h w"] = ~np.isfinite(depth_m)
    coloured[missing] = 0
    return np.asarray(coloured, np.uint8)


def describe(tick: Tick, stage_names: Sequence[str]) -> list[str]:
    """Status lines: stage, time, attempt, gripper, gate violations, tracks."""
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
    """Write lines of text into the canvas, the first in the accent colour; lines that do not fit are left out."""
    step_px = round(38 * scale)
    for row, line in enumerate(lines):
        baseline = top_px + (row + 1) * step_px
        if baseline > canvas.shape[0]:
            return
        colour = ACCENT if row == 0 else INK
        cv2.putText(canvas, line, (left_px, baseline), FONT, scale, colour, 1, cv2.LINE_AA)


def fit(image_rgb: UInt8[np.ndarray, "h w 3"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The whole image, scaled to fit `size_hw`, on the background colour."""
    height, width = size_hw
    scale = min(height / image_rgb.shape[0], width / image_rgb.shape[1])
    size_wh = (round(image_rgb.shape[1] * scale), round(image_rgb.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image_rgb, size_wh, interpolation=interpolation)
    canvas = np.full((height, width, 3), GROUND, np.uint8)
    top, left = (height - size_wh[1]) // 2, (width - size_wh[0]) // 2
    canvas[top : top + size_wh[1], left : left + size_wh[0]] = resized
    return canvas

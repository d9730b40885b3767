"""Replay RGB-D recordings with camera poses as `robot.interfaces.Camera`.

Two folder layouts are read: that of 7-Scenes (`*.color.png`, `*.depth.png`, `*.pose.txt`) and that of Open3D
(`color/`, `depth/`, `odometry.log`, `camera_primesense.json`). Depth is 16 bit millimetres, 0 = no reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.camera.rectification import depth_to_metres
from handeye.robot.errors import CameraError, TransformError
from handeye.robot.transforms import nearest_transform
from handeye.robot.types import Frame
from handeye.vision.images import natural_order

# Recorded poses are printed with few digits; a rotation is accepted up to this and then made exact.
_POSE_TOLERANCE = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class RecordedFrame:
    """Where one frame's images lie and where the camera was: p_world = T_world_camera @ p_camera (m)."""

    color_path: Path
    depth_path: Path
    T_world_camera: Float[np.ndarray, "4 4"]


@dataclass(frozen=True, slots=True, eq=False)
class RgbdRecording:
    """Frames in order of time, from one camera without distortion."""

    frames: tuple[RecordedFrame, ...]
    intrinsics: Intrinsics


class RecordedCamera:
    """A `robot.interfaces.Camera` that gives the frames of a recording one by one.

    Frame i is stamped start_s + i / rate_hz. The pose of the frame read last is T_world_camera.
    """

    def __init__(self, recording: RgbdRecording, *, rate_hz: float = 10.0, start_s: float = 0.0) -> None:
        self.recording = recording
        self._rate_hz = rate_hz
        self._start_s = start_s
        self._next: int | None = None

    def __enter__(self) -> RecordedCamera:
        if not self.recording.frames:
            raise CameraError("the recording holds no frames")
        self._next = 0
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._next = None

    def __len__(self) -> int:
        return len(self.recording.frames)

    @property
    def T_world_camera(self) -> Float[np.ndarray, "4 4"]:
        """Pose of the frame read last. Raises CameraError before the first read."""
        if not self._next:
            raise CameraError("no frame has been read yet")
        return self.recording.frames[self._next - 1].T_world_camera

    def read(self) -> Frame:
        """The next frame. Raises CameraError at the end, outside of the `with` block and for unreadable images."""
        if self._next is None:
            raise CameraError("read a recording inside of its `with` block")
        if self._next >= len(self):
            raise CameraError(f"the recording has ended after {len(self)} frames")
        frame = self.recording.frames[self._next]
        image_rgb = _read_color(frame.color_path, self.recording.intrinsics.size_hw)
        depth_m = _read_depth(frame.depth_path, self.recording.intrinsics.size_hw)
        stamp_s = self._start_s + self._next / self._rate_hz
        self._next += 1
        return Frame(image_rgb, depth_m, self.recording.intrinsics.K, stamp_s)


def load_rgbd_recording(folder: Path) -> RgbdRecording:
    """Read a folder in either layout. Raises CameraError for anything else and for broken files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CameraError(f"{folder}: expected a folder with a recording, there is none")
    if poses := natural_order(folder.rglob("*.pose.txt")):
        return _load_seven_scenes(folder, poses)
    if (folder / "odometry.log").is_file():
        return _load_open3d(folder)
    raise CameraError(f"{folder}: expected *.pose.txt files (7-Scenes) or odometry.log (Open3D), found neither")


def _load_seven_scenes(folder: Path, poses: list[Path]) -> RgbdRecording:
    frames = []
    for pose_path in poses:
        stem = pose_path.name.removesuffix(".pose.txt")
        T_world_camera = _exact_pose(_read_numbers(pose_path, (4, 4)), str(pose_path))
        color_path, depth_path = (pose_path.with_name(f"{stem}.{kind}.png") for kind in ("color", "depth"))
        frames.append(RecordedFrame(color_path, depth_path, T_world_camera))
    K = _read_numbers(folder / "camera-intrinsics.txt", (3, 3))
    return RgbdRecording(tuple(frames), Intrinsics(K, _size_hw(frames[0].color_path)))


def _load_open3d(folder: Path) -> RgbdRecording:
    path = folder / "odometry.log"
    # Five lines a frame: three counters, then the pose.
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows or len(rows) % 5 or any(len(row) != 4 for i, row in enumerate(rows) if i % 5):
        raise CameraError(f"{path}: expected groups of five lines, counters and a 4 x 4 pose")
    poses = [_exact_pose(np.array(rows[i + 1 : i + 5], dtype=np.float64), str(path)) for i in range(0, len(rows), 5)]
    colors, depths = (natural_order((folder / kind).iterdir()) for kind in ("color", "depth"))
    if not len(poses) == len(colors) == len(depths):
        raise CameraError(f"{folder}: {len(poses)} poses, {len(colors)} colour and {len(depths)} depth images")
    frames = tuple(RecordedFrame(*images) for images in zip(colors, depths, poses, strict=True))
    return RgbdRecording(frames, _read_open3d_intrinsics(folder / "camera_primesense.json"))


def _read_open3d_intrinsics(path: Path) -> Intrinsics:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # Open3D writes matrices column by column.
        K = np.array(content["intrinsic_matrix"], dtype=np.float64).reshape(3, 3).T
        size_hw = (int(content["height"]), int(content["width"]))
    except (OSError, KeyError, ValueError) as error:
        raise CameraError(f"{path}: expected width, height and intrinsic_matrix: {error}") from error
    return Intrinsics(K, size_hw)


def _read_numbers(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        numbers = np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise CameraError(f"{path}: cannot be read as numbers: {error}") from error
    if numbers.shape != shape:
        raise CameraError(f"{path}: expected {shape[0]} x {shape[1]} numbers, got shape {numbers.shape}")
    return numbers


def _exact_pose(T: np.ndarray, origin: str) -> np.ndarray:
    """The nearest rigid transform to a rounded one; CameraError when it is none to begin with."""
    try:
        return nearest_transform(T, _POSE_TOLERANCE, origin)
    except TransformError as error:
        raise CameraError(str(error)) from error


def _size_hw(path: Path) -> tuple[int, int]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise CameraError(f"{path}: cannot be read as an image")
    return image.shape[0], image.shape[1]


def _read_color(path: Path, size_hw: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    image_bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image_bgr is None or image_bgr.shape[:2] != size_hw:
        found = "nothing readable" if image_bgr is None else f"{image_bgr.shape[:2]}"
        raise CameraError(f"{path}: expected a colour image of {size_hw} (height, width), got {found}")
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)


def _read_depth(path: Path, size_hw: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """16 bit millimetres to metres, NaN where there is no reading (REP 118)."""
    depth_mm = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if depth_mm is None or depth_mm.dtype != np.uint16 or depth_mm.shape != size_hw:
        found = "nothing readable" if depth_mm is None else f"{depth_mm.dtype} {depth_mm.shape}"
        raise CameraError(f"{path}: expected 16 bit depth of {size_hw} (height, width), got {found}")
    return depth_to_metres(depth_mm, origin=str(path))

"""Real and rendered recordings: points lifted from one frame must lie where the other frames saw them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.camera.recorded_camera import RecordedCamera, load_rgbd_recording
from handeye.robot.errors import CameraError
from handeye.robot.interfaces import Camera
from handeye.robot.transforms import apply_transform, inverse
from handeye.robot.types import Frame
from tests.robot.perception.ray_scene import SIZE_HW, K, cast, cube, look_at

OPEN3D = "rgbd/open3d"
"""Frames 0, 2 and 4 of the five of the data set."""


def frames_and_poses(camera: RecordedCamera) -> tuple[list[Frame], list[np.ndarray]]:
    frames, poses = [], []
    with camera:
        for _ in range(len(camera)):
            frames.append(camera.read())
            poses.append(camera.T_world_camera)
    return frames, poses


def median_depth_error(first: Frame, second: Frame, T_second_first: np.ndarray) -> float:
    """Median |dz| in m of points of the first frame, carried into the second, against what that one measured."""
    height, width = first.depth_m.shape
    lens = Intrinsics(first.K, (height, width))
    v, u = np.nonzero(np.isfinite(first.depth_m))
    pixels = np.stack([u, v], axis=1).astype(np.float64)
    points = apply_transform(T_second_first, lens.unproject(pixels, first.depth_m[v, u].astype(np.float64)))
    landed = lens.project(points)
    is_inside = ((landed >= 0) & (landed <= [width - 1, height - 1])).all(axis=1)
    column, row = np.round(landed[is_inside]).astype(int).T
    return float(np.nanmedian(np.abs(second.depth_m[row, column] - points[is_inside, 2])))


def errors_mm(folder: Path, first: int, second: int) -> tuple[float, float]:
    """Median depth error in mm with the recorded poses, and as if the camera had stood still."""
    frames, poses = frames_and_poses(RecordedCamera(load_rgbd_recording(folder)))
    motions = inverse(poses[second]) @ poses[first], np.eye(4)
    moved, still = (1e3 * median_depth_error(frames[first], frames[second], T) for T in motions)
    return moved, still


# Frames compared, error in mm of the recorded poses and of no motion at all (from the data's own record).
@pytest.mark.parametrize(("pair", "error_mm", "still_mm"), [((0, 1), 7.0, 91.0), ((0, 9), 20.0, 452.0)])
def test_points_carried_by_the_poses_of_a_real_recording_agree_with_the_other_frame(
    shared: Callable[[str], Path], pair: tuple[int, int], error_mm: float, still_mm: float
):
    expected = pytest.approx((error_mm, still_mm), rel=0.1)
    assert errors_mm(shared("data/rgbd_tsdf_fusion"), *pair) == expected


def test_points_carried_by_the_poses_agree_with_the_other_frame(sample: Callable[[str], Path]):
    assert errors_mm(sample(OPEN3D), 0, 2) == pytest.approx((5.3, 41.0), rel=0.1)


def test_a_drawn_recording_in_the_layout_of_7_scenes_agrees_to_its_millimetres(tmp_path: Path):
    """Exact depth of boxes on a table from two places; what is left is the millimetres and the pixels of the files."""
    boxes = [cube(0.55, -0.1, 0.2), cube(0.7, 0.12, 0.3, yaw=0.4)]
    places = (
        look_at(np.array([0.3, -0.1, 0.9]), np.array([0.6, 0.0, 0.0])),
        look_at(np.array([0.3, 0.05, 1.0]), np.array([0.6, 0.0, 0.0]), roll=0.1),
    )
    for number, T_base_camera in enumerate(places):
        depth_m, _ = cast(boxes, T_base_camera)
        color = np.full((*SIZE_HW, 3), 128, np.uint8)
        depth = np.round(1e3 * np.nan_to_num(depth_m)).astype(np.uint16)
        write_frame(tmp_path, number, color, depth, T_base_camera)
    np.savetxt(tmp_path / "camera-intrinsics.txt", K)
    moved, still = errors_mm(tmp_path, 0, 1)
    assert moved < 1.0
    assert still > 50.0


def test_frames_are_stamped_in_order_and_end_with_an_error(sample: Callable[[str], Path]):
    camera = RecordedCamera(load_rgbd_recording(sample(OPEN3D)), rate_hz=30.0, start_s=5.0)
    frames, _ = frames_and_poses(camera)
    np.testing.assert_allclose([frame.stamp_s for frame in frames], 5.0 + np.arange(3) / 30.0)
    assert frames[0].image_rgb.shape == (480, 640, 3)
    with camera:
        for _ in range(3):
            camera.read()
        with pytest.raises(CameraError, match="ended after 3"):
            camera.read()


def write_frame(folder: Path, number: int, color: np.ndarray, depth: np.ndarray, pose: np.ndarray) -> None:
    cv2.imwrite(str(folder / f"frame-{number}.color.png"), color)
    cv2.imwrite(str(folder / f"frame-{number}.depth.png"), depth)
    np.savetxt(folder / f"frame-{number}.pose.txt", pose)


def write_recording(folder: Path, num: int = 2, **changes: np.ndarray) -> None:
    values = {
        "color": np.full((48, 64, 3), (10, 20, 30), np.uint8),
        "depth": np.full((48, 64), 700, np.uint16),
        "pose": np.eye(4),
        "K": np.array([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]),
    } | changes
    for i in range(num):
        write_frame(folder, i, values["color"], values["depth"], values["pose"])
    np.savetxt(folder / "camera-intrinsics.txt", values["K"])


def test_a_recording_is_a_camera_with_metres_rgb_and_holes(tmp_path: Path):
    depth = np.full((48, 64), 700, np.uint16)
    depth[0, 0], depth[0, 1] = 0, 65535
    write_recording(tmp_path, depth=depth)
    camera: Camera = RecordedCamera(load_rgbd_recording(tmp_path))
    with camera:
        frame = camera.read()
    assert np.isnan(frame.depth_m[0, :2]).all()
    np.testing.assert_allclose(frame.depth_m[1:], 0.7, rtol=1e-6)
    assert frame.image_rgb[0, 0].tolist() == [30, 20, 10]  # OpenCV writes BGR


def test_reading_needs_the_with_block(tmp_path: Path):
    write_recording(tmp_path)
    camera = RecordedCamera(load_rgbd_recording(tmp_path))
    with pytest.raises(CameraError, match="with"):
        camera.read()
    with pytest.raises(CameraError, match="no frame"):
        _ = camera.T_world_camera


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pose": np.diag([1.0, 1.0, -1.0, 1.0])}, "mirrored"),
        ({"pose": 2.0 * np.eye(4)}, "expected a rotation"),
        ({"pose": np.full((4, 4), np.nan)}, "finite"),
        ({"pose": np.eye(3)}, "4 x 4"),
        ({"K": np.array([[50.0, 0, 64], [0, 50, 48], [0, 0, 1]])}, "another resolution"),
    ],
)
def test_a_broken_recording_is_refused_when_loaded(tmp_path: Path, changes: dict, words: str):
    write_recording(tmp_path, **changes)
    with pytest.raises(CameraError, match=words):
        load_rgbd_recording(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"depth": np.full((48, 64), 7, np.uint8)}, {"depth": np.full((24, 32), 700, np.uint16)}]
)
def test_depth_of_another_kind_or_size_is_refused_when_read(tmp_path: Path, changes: dict):
    write_recording(tmp_path, **changes)
    with RecordedCamera(load_rgbd_recording(tmp_path)) as camera, pytest.raises(CameraError, match="16 bit depth"):
        camera.read()


def test_folders_without_a_recording_are_refused(tmp_path: Path):
    with pytest.raises(CameraError, match="there is none"):
        load_rgbd_recording(tmp_path / "absent")
    with pytest.raises(CameraError, match="found neither"):
        load_rgbd_recording(tmp_path)
    (tmp_path / "odometry.log").write_text("0 0 1\n1 0 0 0\n")
    with pytest.raises(CameraError, match="five lines"):
        load_rgbd_recording(tmp_path)


def test_frames_numbered_without_zeros_come_in_the_order_of_their_numbers(tmp_path: Path):
    write_recording(tmp_path, num=12)
    names = [frame.color_path.name for frame in load_rgbd_recording(tmp_path).frames]
    assert names == [f"frame-{number}.color.png" for number in range(12)]

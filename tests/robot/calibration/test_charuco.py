"""The board found and placed: in rendered images against the truth, in a real photo against its published pose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handeye.robot.calibration.board import BoardConfig, BoardDetector, MarkerDictionary, board_pose, draw_board
from handeye.robot.calibration.hand_eye import transform_errors
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CameraError
from handeye.robot.transforms import apply_transform, make_transform, rotvec_to_rotation
from handeye.vision.config import validate_config
from handeye.vision.errors import ConfigError
from handeye.vision.images import read_image
from tests.robot.calibration.hand_eye_scene import BOARD, INTRINSICS
from tests.robot.calibration.simulated_session import BoardRenderer, SensorFaults

PHOTO = "calibration/handeye_moveit/test_charuco_board_detection.jpg"
PHOTO_K = np.array([[590.6972346, 0.0, 322.33104773], [0.0, 592.84676713, 247.40030325], [0.0, 0.0, 1.0]])
PHOTO_LENS = np.array([0.15405498, -0.24916842, 0.00350791, -0.00110041, 0.0])
PHOTO_BOARD = BoardConfig(
    columns=5,
    rows=7,
    square_m=0.1971 / 7,
    marker_m=0.0176,
    dictionary=MarkerDictionary.DICT_5X5_250,
)
# As the photo's own test has it, with the board's origin of OpenCV before 4.6: lower left corner, y up.
PUBLISHED_M, PUBLISHED_XYZ_RAD = np.array([0.09752, 0.102848, 0.325596]), [2.88409, -0.147996, 1.13757]


def centre(T: np.ndarray, board: BoardConfig, height_sign: float = 1.0) -> np.ndarray:
    width, height = board.size_m
    return apply_transform(T, np.array([width / 2, height_sign * height / 2, 0.0]))


def test_the_real_photos_pose_is_the_published_one(sample: Callable[[str], Path]):
    view = BoardDetector(PHOTO_BOARD)(read_image(sample(PHOTO)))
    assert view is not None
    assert len(view) >= 20
    pose = board_pose(view, Intrinsics(PHOTO_K, (480, 640), PHOTO_LENS))
    assert pose.rms_px < 0.4
    R = Rotation.from_euler("XYZ", PUBLISHED_XYZ_RAD).as_matrix()
    published = make_transform(R, PUBLISHED_M)
    distance_m = np.linalg.norm(centre(pose.T_camera_board, PHOTO_BOARD) - centre(published, PHOTO_BOARD))
    assert distance_m < 2e-3
    normals = abs(pose.T_camera_board[:3, 2] @ published[:3, 2])
    assert np.rad2deg(np.arccos(min(1.0, normals))) < 1.0


def test_rendered_corners_lie_where_they_are_projected():
    T = make_transform(rotvec_to_rotation(np.array([0.3, -0.2, 0.4])), np.array([-0.05, -0.14, 0.42]))
    image = BoardRenderer(BOARD, INTRINSICS).render(T, SensorFaults(), np.random.default_rng(0))
    view = BoardDetector(BOARD)(image)
    assert view is not None
    assert len(view) > 0.9 * BOARD.num_corners
    projected = INTRINSICS.project(apply_transform(T, view.points_board))
    assert np.sqrt(((projected - view.pixels_uv) ** 2).sum(axis=1).mean()) < 0.15
    np.testing.assert_allclose((view.pixels_uv - projected).mean(axis=0), 0.0, atol=0.04)
    distance, angle = transform_errors(board_pose(view, INTRINSICS).T_camera_board, T)
    assert distance < 5e-4
    assert np.rad2deg(angle) < 0.1


def test_an_image_without_the_board_or_with_another_gives_nothing():
    detector = BoardDetector(BOARD)
    assert detector(np.full((480, 640, 3), 128, dtype=np.uint8)) is None
    other = BoardConfig(dictionary=MarkerDictionary.DICT_6X6_250)
    T = make_transform(np.eye(3), np.array([-0.09, -0.12, 0.4]))
    image = BoardRenderer(other, INTRINSICS).render(T, SensorFaults(), np.random.default_rng(0))
    assert detector(image) is None


PLAIN = BoardConfig(columns=6, rows=8, square_m=0.03, marker_m=0.02, dictionary=MarkerDictionary.DICT_4X4_50)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"legacy_pattern": True}, "with legacy_pattern: true it shows"),
        ({"columns": 8, "rows": 6}, "with columns: 8, rows: 6 it shows"),
        ({"columns": 8, "rows": 6, "legacy_pattern": True}, "columns: 8, rows: 6, legacy_pattern: true it shows"),
        ({"columns": 5, "rows": 9}, "are columns, rows, square_m and marker_m those of the print?"),
    ],
)
def test_a_board_of_another_pattern_is_told_from_one_that_is_absent(changes: dict[str, object], told: str):
    printed = PLAIN.model_copy(update=changes)
    image = np.repeat(np.pad(draw_board(printed, 60), 30, constant_values=255)[..., None], 3, axis=2)
    detector = BoardDetector(PLAIN)
    assert detector.explain() is None
    assert detector(np.full((480, 640, 3), 128, dtype=np.uint8)) is None
    assert detector.explain() is None, "an image without markers says nothing about the board"
    assert detector(image, "07.jpg") is None
    reason = detector.explain()
    assert reason is not None
    assert reason.startswith("07.jpg shows")
    assert told in reason


@pytest.mark.parametrize("dictionary", MarkerDictionary)
def test_every_dictionary_is_one_of_opencvs(dictionary: MarkerDictionary):
    board = BoardConfig(columns=5, rows=5, dictionary=dictionary)
    picture = np.pad(draw_board(board, 60), 30, constant_values=255)
    view = BoardDetector(board)(np.repeat(picture[..., None], 3, axis=2))
    assert view is not None
    assert len(view) == board.num_corners


def test_corners_are_those_of_opencvs_board():
    expected = np.asarray(BOARD.build().getChessboardCorners())
    np.testing.assert_allclose(BOARD.corners_board(), expected, atol=1e-7)


def test_intrinsics_of_another_resolution_are_refused():
    with pytest.raises(CameraError, match="another resolution"):
        Intrinsics(PHOTO_K, (960, 1280), PHOTO_LENS)
    with pytest.raises(CameraError, match="640 x 480"):
        Intrinsics(PHOTO_K, (480, 640), PHOTO_LENS).check_image(np.zeros((960, 1280, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"marker_m": 0.03}, "0.4 to 0.9"),
        ({"columns": 20, "rows": 20}, "need 200 markers"),
        ({"squares": 3}, "unknown key"),
    ],
)
def test_boards_that_cannot_be_printed_are_refused(content: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        validate_config(BoardConfig, content, "board.yaml")

"""Read and write calibration files: samples (images with tool poses, or pairs of poses) in, results as YAML out."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from pydantic import Field

from handeye.robot.calibration.board import BoardConfig, BoardDetector, board_pose
from handeye.robot.calibration.foreign_files import easy_camera, easy_hand_eye, foreign_intrinsics
from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting, place_board
from handeye.robot.calibration.refinement import BoardMeasurement, measure, measure_pose
from handeye.robot.calibration.sample_files import Rotation, read_pairs, read_pose
from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.config import PoseConfig, Vector3
from handeye.robot.errors import CalibrationError, CameraError, TransformError
from handeye.robot.transforms import rotation_to_quat_wxyz
from handeye.vision.config import Config, dump_config, load_config, read_yaml, validate_config
from handeye.vision.errors import ConfigError, UserError
from handeye.vision.files import replacing
from handeye.vision.images import read_image

POSES_FILE = "poses.yaml"


class Provenance(Config):
    """What a calibration was made from."""

    source: str
    """Folder of images, or recording."""
    samples: tuple[str, ...]
    """Their names."""
    board: BoardConfig | None = None
    """The board that was seen; none where only its poses were recorded."""
    created: str = Field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"))
    opencv: str = cv2.__version__


class LensFile(Config):
    """Camera matrix and distortion of one image size (camera.yaml)."""

    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    K: tuple[Vector3, Vector3, Vector3]
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    lens: Lens = Lens.PINHOLE
    rms_px: float | None = None
    """Root mean square distance between corners seen and explained."""
    provenance: Provenance | None = None

    def intrinsics(self) -> Intrinsics:
        """Raises ConfigError for what is no camera, or one of another resolution."""
        try:
            return Intrinsics(
                np.array(self.K), (self.height_px, self.width_px), np.array(self.distortion), lens=self.lens
            )
        except CameraError as error:
            raise ConfigError(str(error)) from error


class GuessFile(Config):
    """Where camera and board are; T_a_b maps points of frame b into frame a."""

    setting: Setting
    camera: PoseConfig
    """T_tool_camera for eye-in-hand, T_base_camera for eye-to-hand."""
    board: PoseConfig
    """T_base_board for eye-in-hand, T_tool_board for eye-to-hand."""

    def hand_eye(self) -> HandEye:
        """The solution as matrices."""
        return HandEye(self.setting, self.camera.matrix(), self.board.matrix())


class HandEyeFile(Config):
    """A solved calibration (hand_eye.yaml)."""

    setting: Setting
    camera: PoseConfig
    """T_tool_camera for eye-in-hand, T_base_camera for eye-to-hand."""
    board: PoseConfig | None = None
    """T_base_board for eye-in-hand, T_tool_board for eye-to-hand; none where points were touched."""
    std_m: Vector3
    """Standard deviation of the camera's place, along the axes of the tool or base frame."""
    std_rad: Vector3
    """Of its orientation, about the same axes."""
    leave_one_out_m: float
    """Median distance between each board or point and its place as predicted from all other samples."""
    leave_one_out_rad: float
    provenance: Provenance

    def hand_eye(self) -> HandEye:
        """The solution as matrices. Raises ConfigError for one without a board."""
        if self.board is None:
            raise ConfigError("expected a board, this calibration was made from points")
        return HandEye(self.setting, self.camera.matrix(), self.board.matrix())


class PosesFile(Config):
    """poses.yaml in a folder of images."""

    poses: dict[str, PoseConfig]
    """T_base_tool at the moment of each image, by the image's file name."""


def pose_config(T: Float[np.ndarray, "4 4"]) -> PoseConfig:
    """A transform as numbers for a file. Raises TransformError for what is no transform."""
    x, y, z = T[:3, 3].tolist()
    w, i, j, k = rotation_to_quat_wxyz(T[:3, :3]).tolist()
    return PoseConfig(translation_m=(x, y, z), quat_wxyz=(w, i, j, k))


def lens_file(intrinsics: Intrinsics, rms_px: float, provenance: Provenance) -> LensFile:
    """The content of camera.yaml."""
    height, width = intrinsics.size_hw
    first, second, third = ((float(a), float(b), float(c)) for a, b, c in intrinsics.K)
    return LensFile(
        width_px=width,
        height_px=height,
        K=(first, second, third),
        distortion=tuple(intrinsics.distortion.tolist()),
        lens=intrinsics.lens,
        rms_px=rms_px,
        provenance=provenance,
    )


def load_intrinsics(path: Path) -> Intrinsics:
    """The camera of a camera.yaml, a ROS camera_info or Kalibr's camchain. Raises UserError naming the file."""
    foreign = foreign_intrinsics(read_yaml(path), str(path))
    if foreign is not None:
        return foreign
    try:
        return load_config(LensFile, path).intrinsics()
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error


def load_guess(path: Path) -> HandEye:
    """Where camera and board are about; poses in any form. Raises UserError naming the file."""
    content, origin = read_yaml(path), str(path)
    poses = {key: content[key] for key in ("camera", "board") if key in content}
    read = _with_poses(poses, origin, None)
    return validate_config(GuessFile, {**content, **(read if isinstance(read, dict) else {})}, origin).hand_eye()


def load_setting(path: Path) -> Setting:
    """Where the camera of a hand_eye.yaml or easy_handeye's result is. Raises UserError naming the file."""
    foreign = easy_camera(read_yaml(path), str(path))
    return load_config(HandEyeFile, path).setting if foreign is None else foreign[0]


def load_hand_eye(path: Path, pairs: PosePairs) -> HandEye:
    """A hand_eye.yaml or easy_handeye's result. Where it lacks the board, that is where these samples see it.

    Raises UserError naming the file.
    """
    foreign = easy_hand_eye(read_yaml(path), pairs, str(path))
    if foreign is not None:
        return foreign
    file = load_config(HandEyeFile, path)
    return place_board(pairs, file.setting, file.camera.matrix()) if file.board is None else file.hand_eye()


def save_config(path: Path, config: Config) -> None:
    """Write as YAML, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(dump_config(config), encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Pairs of poses with what the camera measured, and the images in which no board was found."""

    pairs: PosePairs
    measurements: tuple[BoardMeasurement, ...]
    without_board: tuple[str, ...]


def load_images_with_poses(
    folder: Path, board: BoardConfig, intrinsics: Intrinsics, rotation: Rotation | None = None
) -> Samples:
    """Images and poses.yaml from a folder. Raises UserError for files that are missing, broken or do not fit."""
    path = folder / POSES_FILE
    content = read_yaml(path)
    read = {key: _with_poses(value, str(path), rotation) if key == "poses" else value for key, value in content.items()}
    poses = validate_config(PosesFile, read, str(path)).poses
    detector, names, without = BoardDetector(board), [], []
    T_base_tool, T_camera_board, measurements = [], [], []
    for name, pose in poses.items():
        image = read_image(folder / name)
        intrinsics.check_image(image)
        view = detector(image, name)
        if view is None:
            without.append(name)
            continue
        names.append(name)
        T_base_tool.append(pose.matrix())
        T_camera_board.append(board_pose(view, intrinsics).T_camera_board)
        measurements.append(measure(view.points_board, view.pixels_uv, intrinsics))
    if not names:
        reason = detector.explain() or "is it the right --board?"
        raise UserError(f"{folder}: none of its {len(poses)} images shows the board; {reason}")
    pairs = PosePairs(np.stack(T_base_tool), np.stack(T_camera_board), tuple(names))
    return Samples(pairs, tuple(measurements), tuple(without))


def load_pose_pairs(path: Path, setting: Setting, rotation: Rotation | None = None) -> Samples:
    """Pairs of poses as JSON or YAML, ours, MoveIt's or easy_handeye's; see sample_files. Raises UserError."""
    recorded = read_pairs(path, setting, rotation)
    pairs = PosePairs(recorded[:, 0], recorded[:, 1], tuple(str(number) for number in range(len(recorded))))
    measurements = []
    for name, T in zip(pairs.names, pairs.T_camera_board, strict=True):
        try:
            measurements.append(measure_pose(T))
        except CalibrationError as error:
            raise CalibrationError(f"{path}: sample {name}: {error}") from error
    return Samples(pairs, tuple(measurements), ())


def _with_poses(poses: object, origin: str, rotation: Rotation | None) -> object:
    """Poses by name in any form as those of a configuration."""
    if not isinstance(poses, dict):
        return poses
    read = {}
    for name, pose in poses.items():
        try:
            read[name] = pose_config(read_pose(pose, rotation)).model_dump()
        except (TypeError, ValueError, TransformError) as error:
            raise ConfigError(f"{origin}: {name}: {error}") from error
    return read

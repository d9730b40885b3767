"""What a calibration leaves on disk, as YAML: the numbers, how good they are, and what they were made of."""

from __future__ import annotations

import datetime
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float
from pydantic import Field

from robot.calibration.board import BoardConfig
from robot.calibration.hand_eye import HandEye, Setting
from robot.camera.distortion import Lens
from robot.camera.intrinsics import Intrinsics
from robot.config import PoseConfig, Vector3
from robot.errors import CameraError
from robot.transforms import rotation_to_quat_wxyz
from vision.config import Config, dump_config, load_config
from vision.errors import ConfigError
from vision.files import replacing


class Provenance(Config):
    """Where the numbers come from."""

    source: str
    """Pictures or recordings."""
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


class HandEyeFile(GuessFile):
    """A solved calibration (hand_eye.yaml)."""

    std_m: Vector3
    """Standard deviation of the camera's place, along the axes of the tool or base frame."""
    std_rad: Vector3
    """Of its orientation, about the same axes."""
    leave_one_out_m: float
    """Median distance between each board and its place as told by all other samples."""
    leave_one_out_rad: float
    provenance: Provenance


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
    """The camera of a camera.yaml. Raises ConfigError naming the file."""
    try:
        return load_config(LensFile, path).intrinsics()
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error


def save_config(path: Path, config: Config) -> None:
    """Write as YAML, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(dump_config(config), encoding="utf-8")

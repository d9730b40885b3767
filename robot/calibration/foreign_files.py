"""Read files of other programs: ROS camera_info, Kalibr's camchain, easy_handeye's result.

Each is recognised by its own keys. Pixels are counted alike in all of them: the centre of the first is (0, 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting, place_board
from handeye.robot.calibration.sample_files import easy_setting, read_pose
from handeye.robot.camera.intrinsics import Intrinsics, Lens
from handeye.robot.errors import CameraError
from handeye.vision.errors import UserError

ROS_LENSES = {"plumb_bob": Lens.PINHOLE, "rational_polynomial": Lens.PINHOLE, "equidistant": Lens.FISHEYE}
KALIBR_LENSES = {"radtan": Lens.PINHOLE, "equidistant": Lens.FISHEYE, "none": Lens.PINHOLE}
RATIONAL = 8
"""OpenCV's coefficients beyond these are of a thin prism and a tilted sensor, which are not modelled here."""


def foreign_intrinsics(content: Mapping[str, Any], origin: str) -> Intrinsics | None:
    """The camera of a camera_info or camchain; None for other content. Raises UserError for one that is unusable."""
    try:
        if {"camera_matrix", "image_width"} <= content.keys():
            return _from_camera_info(content)
        cameras = {name: row for name, row in content.items() if isinstance(row, dict) and "camera_model" in row}
        if len(cameras) > 1:
            raise ValueError(f"holds the cameras {', '.join(cameras)}: keep one of them")
        return _from_camchain(next(iter(cameras.values()))) if cameras else None
    except (KeyError, TypeError, ValueError, CameraError) as error:
        missing = "is missing" if isinstance(error, KeyError) else ""
        raise UserError(f"{origin}: {error} {missing}".rstrip()) from error


def _from_camera_info(content: Mapping[str, Any]) -> Intrinsics:
    model = content["distortion_model"] or "plumb_bob"
    if model not in ROS_LENSES:
        raise ValueError(f"distortion_model {model!r}: expected one of {', '.join(ROS_LENSES)}")
    given = content.get("distortion_coefficients") or {"data": []}
    distortion = np.array(given["data"] or [0.0] * 5, dtype=np.float64)
    if len(distortion) > RATIONAL and not distortion[RATIONAL:].any():
        distortion = distortion[:RATIONAL]
    K = np.array(content["camera_matrix"]["data"], dtype=np.float64).reshape(3, 3)
    return Intrinsics(
        K, (int(content["image_height"]), int(content["image_width"])), distortion, lens=ROS_LENSES[model]
    )


def _from_camchain(camera: Mapping[str, Any]) -> Intrinsics:
    if camera["camera_model"] != "pinhole":
        raise ValueError(f"camera_model {camera['camera_model']!r}: expected pinhole")
    model = camera["distortion_model"]
    if model not in KALIBR_LENSES:
        raise ValueError(f"distortion_model {model!r}: expected one of {', '.join(KALIBR_LENSES)}")
    fx, fy, cx, cy = (float(value) for value in camera["intrinsics"])
    width, height = camera["resolution"]
    distortion = np.array(camera.get("distortion_coeffs") or [0.0] * 4, dtype=np.float64)
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return Intrinsics(K, (int(height), int(width)), distortion, lens=KALIBR_LENSES[model])


def easy_hand_eye(content: Mapping[str, Any], pairs: PosePairs, origin: str) -> HandEye | None:
    """The result of easy_handeye or easy_handeye2, with the board where these samples see it; None for other content.

    Raises UserError naming the file.
    """
    found = easy_camera(content, origin)
    return None if found is None else place_board(pairs, *found)


def easy_camera(content: Mapping[str, Any], origin: str) -> tuple[Setting, Float[np.ndarray, "4 4"]] | None:
    """The setting and X of such a result; None for other content. Raises UserError naming the file."""
    if "parameters" not in content or not {"transformation", "transform"} & content.keys():
        return None
    try:
        setting = easy_setting(content["parameters"])
        if setting is None:
            raise KeyError("eye_on_hand or calibration_type")
        if "transform" in content:
            return setting, read_pose(content["transform"], None)
        numbers = content["transformation"]
        place, turn = [numbers[axis] for axis in "xyz"], [numbers[f"q{axis}"] for axis in "wxyz"]
        return setting, read_pose({"translation_m": place, "quat_wxyz": turn}, None)
    except KeyError as error:
        raise UserError(f"{origin}: expected a result of easy_handeye: {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{origin}: expected a result of easy_handeye: {error}") from error

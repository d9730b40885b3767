"""Files of ROS, Kalibr, MoveIt and easy_handeye mean here what they mean there, and faults are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from handeye.robot.calibration.files import load_hand_eye, load_intrinsics, load_pose_pairs, pose_config
from handeye.robot.calibration.hand_eye import Setting
from handeye.robot.camera.intrinsics import Lens
from handeye.tools.command_line import run_command
from handeye.vision.errors import UserError
from tests.robot.calibration.hand_eye_scene import EXACT, make_samples

K = [600.0, 0.0, 320.5, 0.0, 602.0, 238.0, 0.0, 0.0, 1.0]


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def camera_info(model: str, distortion: list[float]) -> dict[str, Any]:
    return {
        "image_width": 640,
        "image_height": 480,
        "camera_name": "head",
        "camera_matrix": {"rows": 3, "cols": 3, "data": K},
        "distortion_model": model,
        "distortion_coefficients": {"rows": 1, "cols": len(distortion), "data": distortion},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": [1.0, 0, 0, 0, 1, 0, 0, 0, 1]},
    }


def camchain(**changes: object) -> dict[str, Any]:
    camera = {
        "camera_model": "pinhole",
        "intrinsics": [600.0, 602.0, 320.5, 238.0],
        "distortion_model": "radtan",
        "distortion_coeffs": [-0.05, 0.06, -0.0007, 0.0004],
        "resolution": [640, 480],
        "rostopic": "/cam0",
    }
    return {"cam0": camera | changes}


@pytest.mark.parametrize(
    ("content", "lens", "distortion"),
    [
        (camera_info("plumb_bob", [0.1, -0.2, 0.001, -0.002, 0.01]), Lens.PINHOLE, [0.1, -0.2, 0.001, -0.002, 0.01]),
        (camera_info("rational_polynomial", [0.1] * 8 + [0.0] * 6), Lens.PINHOLE, [0.1] * 8),
        (camera_info("equidistant", [0.1, 0.02, 0.0, 0.0]), Lens.FISHEYE, [0.1, 0.02, 0.0, 0.0]),
        (camchain(), Lens.PINHOLE, [-0.05, 0.06, -0.0007, 0.0004]),
        (camchain(distortion_model="equidistant"), Lens.FISHEYE, [-0.05, 0.06, -0.0007, 0.0004]),
        (camchain(distortion_model="none", distortion_coeffs=[]), Lens.PINHOLE, [0.0] * 4),
    ],
)
def test_cameras(tmp_path: Path, content: dict[str, Any], lens: Lens, distortion: list[float]):
    found = load_intrinsics(written(tmp_path / "camera.yaml", content))
    np.testing.assert_array_equal(found.K, np.reshape(K, (3, 3)))
    assert (found.size_hw, found.lens) == ((480, 640), lens)
    np.testing.assert_array_equal(found.distortion, distortion)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (camera_info("plumb_bob", [0.1] * 3), "distortion coefficients"),
        (camera_info("rational_polynomial", [0.1] * 12), "distortion coefficients"),
        (camera_info("division", [0.1]), "distortion_model 'division': expected one of plumb_bob"),
        ({**camera_info("plumb_bob", [0.1] * 5), "image_width": 1280, "image_height": 960}, "another resolution"),
        (camchain(camera_model="omni"), "camera_model 'omni': expected pinhole"),
        (camchain(intrinsics=[600.0]), "not enough values"),
        (camchain() | {"cam1": camchain()["cam0"]}, "holds the cameras cam0, cam1: keep one of them"),
        ({"cam0": {"camera_model": "pinhole"}}, "'distortion_model' is missing"),
    ],
)
def test_cameras_that_cannot_be_used_are_named(tmp_path: Path, content: dict[str, Any], told: str):
    path = written(tmp_path / "camera.yaml", content)
    with pytest.raises(UserError, match=told) as error:
        load_intrinsics(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_samples_that_moveit_saved(tmp_path: Path):
    _, pairs, _ = make_samples(Setting.EYE_TO_HAND, 5, EXACT, seed=1)
    rows = [
        {"effector_wrt_world": tool.ravel().tolist(), "object_wrt_sensor": board.ravel().tolist()}
        for tool, board in zip(pairs.T_base_tool, pairs.T_camera_board, strict=True)
    ]
    found = load_pose_pairs(written(tmp_path / "samples.yaml", rows), Setting.EYE_TO_HAND).pairs
    np.testing.assert_allclose(found.T_base_tool, pairs.T_base_tool, atol=1e-12)
    np.testing.assert_allclose(found.T_camera_board, pairs.T_camera_board, atol=1e-12)
    for wrong, told in (
        ([{"effector_wrt_world": [1.0] * 16}], "sample 0: object_wrt_sensor is missing, as MoveIt saves it"),
        (
            [{**rows[0], "object_wrt_sensor": [1.0] * 15}],
            "sample 0, T_camera_board: expected 4 x 4 numbers, or 6 or 7, got 15",
        ),
        ({"a": 1}, "or samples as MoveIt or easy_handeye saves them"),
    ):
        with pytest.raises(UserError, match=told):
            load_pose_pairs(written(tmp_path / "wrong.yaml", wrong), Setting.EYE_TO_HAND)


@pytest.mark.parametrize("setting", Setting)
def test_a_result_of_easy_handeye_is_checked(tmp_path: Path, setting: Setting):
    truth, pairs, _ = make_samples(setting, 6, EXACT, seed=2)
    pose = pose_config(truth.X)
    numbers = dict(zip(("qw", "qx", "qy", "qz"), pose.quat_wxyz, strict=True)) | dict(
        zip("xyz", pose.translation_m, strict=True)
    )
    parameters = {"eye_on_hand": setting is Setting.EYE_IN_HAND, "move_group": "manipulator"}
    path = written(tmp_path / "easy.yaml", {"parameters": parameters, "transformation": numbers})
    found = load_hand_eye(path, pairs)
    assert found.setting is setting
    np.testing.assert_allclose(found.X, truth.X, atol=1e-9)
    np.testing.assert_allclose(found.Z, truth.Z, atol=1e-9)
    rows = [
        {"effector_wrt_world": tool.ravel().tolist(), "object_wrt_sensor": board.ravel().tolist()}
        for tool, board in zip(pairs.T_base_tool, pairs.T_camera_board, strict=True)
    ]
    samples = str(written(tmp_path / "samples.yaml", rows))
    assert run_command(["calibrate", "check", samples, "--hand-eye", str(path)]) == 0
    moved = written(tmp_path / "moved.yaml", {"parameters": parameters, "transformation": numbers | {"x": 5.0}})
    assert run_command(["calibrate", "check", samples, "--hand-eye", str(moved)]) == 1
    del numbers["qw"]
    broken = written(tmp_path / "broken.yaml", {"parameters": parameters, "transformation": numbers})
    with pytest.raises(UserError, match="'qw' is missing"):
        load_hand_eye(broken, pairs)

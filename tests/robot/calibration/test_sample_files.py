"""Every way to write a pose means the same transform, and what is ambiguous or wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation as ScipyRotation

from handeye.robot.calibration.files import (
    load_guess,
    load_hand_eye,
    load_images_with_poses,
    load_pose_pairs,
    load_setting,
)
from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting, transform_errors
from handeye.robot.calibration.sample_files import Rotation, read_pose
from handeye.robot.transforms import inverse, make_transform
from handeye.tools.command_line import run_command
from handeye.vision.errors import UserError
from tests.robot.calibration.hand_eye_scene import BOARD, EXACT, INTRINSICS, make_samples

PLACE, ROTVEC = [0.4, -0.2, 0.3], [1.2, -2.0, 0.5]
TURN = ScipyRotation.from_rotvec(ROTVEC)
T = make_transform(TURN.as_matrix(), np.array(PLACE))
XYZW = TURN.as_quat().tolist()
WXYZ = [XYZW[3], *XYZW[:3]]


@pytest.mark.parametrize(
    ("given", "rotation"),
    [
        (T.tolist(), None),
        (T.ravel().tolist(), None),
        ({"translation_m": PLACE, "rotvec": ROTVEC}, None),
        ({"translation_m": PLACE, "quat_xyzw": XYZW}, None),
        ({"translation_m": PLACE, "quat_wxyz": WXYZ}, None),
        ({"translation": dict(zip("xyz", PLACE, strict=True)), "rotation": dict(zip("xyzw", XYZW, strict=True))}, None),
        ("p[0.4, -0.2, 0.3, 1.2, -2.0, 0.5]", None),
        (" p[0.4,-0.2,3e-1,1.2,-2,0.5] ", Rotation.QUAT_WXYZ),
        ([*PLACE, *ROTVEC], Rotation.ROTVEC),
        ([*PLACE, *XYZW], Rotation.QUAT_XYZW),
        ([*PLACE, *WXYZ], Rotation.QUAT_WXYZ),
    ],
)
def test_every_form_is_the_same_transform(given: object, rotation: Rotation | None):
    np.testing.assert_allclose(read_pose(given, rotation), T, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "rotation", "told"),
    [
        ([*PLACE, *ROTVEC], None, "6 numbers do not say how they turn"),
        ([*PLACE, *XYZW], None, "7 numbers do not say how they turn"),
        ([*PLACE, *ROTVEC], Rotation.QUAT_XYZW, "x, y, z and quat_xyzw: expected 7 finite numbers"),
        ([*PLACE, *XYZW], Rotation.ROTVEC, "x, y, z and rotvec: expected 6 finite numbers"),
        ([*PLACE, 90.0, 0.0, 0.0], Rotation.ROTVEC, "rotvec has length 90, more than a turn in radians: degrees?"),
        ({"translation_m": PLACE, "rotvec": [0.0, 0.0, 6.3]}, None, "degrees?"),
        ("p[0.4, -0.2, 0.3, 180, 0, 0]", None, "degrees?"),
        ("p[0.4, -0.2, 0.3, 1, 0]", None, "expected 6 finite numbers"),
        ("[0.4, -0.2, 0.3, 1, 0, 0]", None, "as a UR writes it"),
        ({"translation_m": PLACE, "rotvec": ROTVEC, "quat_wxyz": WXYZ}, None, "has rotvec and quat_wxyz"),
        ({"translation_m": PLACE, "rotvec_deg": ROTVEC}, None, "unknown rotvec_deg"),
        ({"translation_m": PLACE, "quat_xyzw": [0, 0, 0, 2]}, None, "must have length 1, has 2"),
        ({"translation_m": PLACE, "rotvec": [0.0, float("nan"), 1.0]}, None, "expected 3 finite numbers"),
        ((T * [[-1], [1], [1], [1]]).tolist(), None, "mirrored"),
        ([1.0] * 5, Rotation.ROTVEC, "expected 4 x 4 numbers, or 6 or 7, got 5"),
        (None, None, "expected a pose"),
    ],
)
def test_what_is_ambiguous_or_wrong_is_named(given: object, rotation: Rotation | None, told: str):
    with pytest.raises(ValueError, match=told.replace("?", r"\?").replace("[", r"\[")) as error:
        read_pose(given, rotation)
    assert "\n" not in str(error.value)


def message(pose: np.ndarray) -> dict[str, Any]:
    """geometry_msgs/Transform."""
    turn = ScipyRotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return {
        "translation": dict(zip("xyz", pose[:3, 3].tolist(), strict=True)),
        "rotation": dict(zip("xyzw", turn, strict=True)),
    }


def scene(setting: Setting) -> tuple[HandEye, PosePairs, np.ndarray]:
    """The truth, the samples, and the robot's poses as easy_handeye keeps them."""
    truth, pairs, _ = make_samples(setting, 6, EXACT, seed=2)
    return truth, pairs, inverse(pairs.T_base_tool) if setting is Setting.EYE_TO_HAND else pairs.T_base_tool


def easy2(setting: Setting, kind: str) -> dict[str, Any]:
    _, pairs, robot = scene(setting)
    rows = [{"robot": message(a), "tracking": message(b)} for a, b in zip(robot, pairs.T_camera_board, strict=True)]
    return {"parameters": {"name": "", "calibration_type": kind, "move_group": "manipulator"}, "samples": rows}


def written(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("setting", Setting)
def test_samples_and_result_of_easy_handeye2(setting: Setting, tmp_path: Path):
    truth, pairs, _ = scene(setting)
    kind = "eye_in_hand" if setting is Setting.EYE_IN_HAND else "eye_on_base"
    output = tmp_path / "hand_eye.yaml"
    for said in ("", kind):
        path = written(tmp_path / f"cell{said}.samples", easy2(setting, said))
        found = load_pose_pairs(path, setting).pairs
        np.testing.assert_allclose(found.T_base_tool, pairs.T_base_tool, atol=1e-9)
        np.testing.assert_allclose(found.T_camera_board, pairs.T_camera_board, atol=1e-9)
    words = ["calibrate", "hand-eye", str(path), "--setting", setting.value, "--output", str(output)]
    assert run_command(words) == 0
    assert max(transform_errors(load_hand_eye(output, pairs).X, truth.X)) < 1e-5
    result = written(tmp_path / "cell.calib", {"parameters": {"calibration_type": kind}, "transform": message(truth.X)})
    assert load_setting(result) is setting
    np.testing.assert_allclose(load_hand_eye(result, pairs).Z, truth.Z, atol=1e-9)
    assert run_command(["calibrate", "check", str(path), "--hand-eye", str(result)]) == 0
    other = next(one for one in Setting if one is not setting)
    with pytest.raises(UserError, match=f"its parameters say {setting.value}, not {other.value}"):
        load_pose_pairs(path, other)


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"header": {}, "transforms": rows}])
@pytest.mark.parametrize("setting", Setting)
def test_the_sample_list_of_easy_handeye(setting: Setting, wrap: Callable[[Any], Any], tmp_path: Path):
    _, pairs, robot = scene(setting)
    hand, marker = [message(pose) for pose in robot], [message(pose) for pose in pairs.T_camera_board]
    content = {"hand_world_samples": wrap(hand), "camera_marker_samples": wrap(marker)}
    for name, whole in (("plain.yaml", content), ("reply.yaml", {"samples": content})):
        found = load_pose_pairs(written(tmp_path / name, whole), setting).pairs
        np.testing.assert_allclose(found.T_base_tool, pairs.T_base_tool, atol=1e-9)
        np.testing.assert_allclose(found.T_camera_board, pairs.T_camera_board, atol=1e-9)
    content["camera_marker_samples"] = wrap(marker[1:])
    with pytest.raises(UserError, match="6 hand_world_samples and 5 camera_marker_samples"):
        load_pose_pairs(written(tmp_path / "short.yaml", content), setting)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[2].pop("tracking"), "sample 2: tracking is missing, as easy_handeye saves it"),
        (lambda rows: rows[1]["robot"].pop("rotation"), "sample 1, T_base_tool: unknown translation"),
        (lambda rows: rows[3]["tracking"]["rotation"].pop("w"), "sample 3, T_camera_board: rotation x, y, z, w"),
        (lambda rows: rows[3]["robot"].update(rotation=5), "sample 3, T_base_tool: rotation x, y, z, w: expected 4"),
        (lambda rows: rows.insert(0, "text"), "sample 0: expected"),
    ],
)
def test_broken_samples_are_named(change: Callable[[Any], Any], told: str, tmp_path: Path):
    content = easy2(Setting.EYE_IN_HAND, "eye_in_hand")
    change(content["samples"])
    path = written(tmp_path / "cell.samples", content)
    with pytest.raises(UserError, match=told) as error:
        load_pose_pairs(path, Setting.EYE_IN_HAND)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_bare_rotation_vectors_need_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, pairs, _ = scene(Setting.EYE_IN_HAND)

    def bare(pose: np.ndarray) -> list[float]:
        return [*pose[:3, 3].tolist(), *ScipyRotation.from_matrix(pose[:3, :3]).as_rotvec().tolist()]

    rows = [
        [f"p[{', '.join(map(str, bare(a)))}]", bare(b)]
        for a, b in zip(pairs.T_base_tool, pairs.T_camera_board, strict=True)
    ]
    path, output = tmp_path / "samples.json", str(tmp_path / "hand_eye.yaml")
    path.write_text(json.dumps(rows), encoding="utf-8")
    words = ["calibrate", "hand-eye", str(path), "--setting", "eye-in-hand", "--output", output]
    assert run_command(words) == 2
    error = capsys.readouterr().err
    assert "sample 0, T_camera_board: 6 numbers do not say how they turn" in error
    assert len(error.splitlines()) == 1
    assert run_command([*words, "--rotation", "rotvec"]) == 0
    assert run_command(["calibrate", "check", str(path), "--hand-eye", output, "--rotation", "rotvec"]) == 0


def test_a_guess_may_have_rotation_vectors(tmp_path: Path):
    content = {
        "setting": "eye-in-hand",
        "camera": {"translation_m": PLACE, "rotvec": ROTVEC},
        "board": "p[0.4, -0.2, 0.3, 1.2, -2.0, 0.5]",
    }
    guess = load_guess(written(tmp_path / "guess.yaml", content))
    np.testing.assert_allclose(guess.X, T, atol=1e-12)
    np.testing.assert_allclose(guess.Z, T, atol=1e-12)
    path = written(tmp_path / "wrong.yaml", content | {"camera": {"translation_m": PLACE, "rotvec": [0, 0, 90]}})
    with pytest.raises(UserError, match=r"wrong.yaml: camera: rotvec has length 90, .* degrees\?"):
        load_guess(path)
    del content["board"]
    with pytest.raises(UserError, match="board"):
        load_guess(written(tmp_path / "half.yaml", content))


def test_the_poses_of_images_are_read_alike(tmp_path: Path):
    written(tmp_path / "poses.yaml", {"poses": {"00.png": "p[0, 0, 0.5, 0, 180, 0]"}})
    with pytest.raises(UserError, match=r"poses.yaml: 00.png: rotvec has length 180, .* degrees\?"):
        load_images_with_poses(tmp_path, BOARD, INTRINSICS)
    written(tmp_path / "poses.yaml", {"poses": {"00.png": [*PLACE, *ROTVEC]}})
    with pytest.raises(UserError, match=r"poses.yaml: 00.png: 6 numbers do not say how they turn"):
        load_images_with_poses(tmp_path, BOARD, INTRINSICS)
    with pytest.raises(UserError, match=r"00.png"):  # the pose is read, its image is missing
        load_images_with_poses(tmp_path, BOARD, INTRINSICS, Rotation.ROTVEC)
    written(tmp_path / "poses.yaml", {"poses": [1, 2]})
    with pytest.raises(UserError, match=r"poses.yaml.*poses"):
        load_images_with_poses(tmp_path, BOARD, INTRINSICS)


def test_a_frame_that_is_not_the_optical_one_is_named(tmp_path: Path):
    # ROS has x forward in camera_link and z forward in camera_optical_frame.
    content = easy2(Setting.EYE_IN_HAND, "eye_in_hand")
    optical = ScipyRotation.from_euler("xyz", [-90, 0, -90], degrees=True).as_matrix()
    _, pairs, _ = scene(Setting.EYE_IN_HAND)
    link = make_transform(optical, np.zeros(3)) @ pairs.T_camera_board
    for row, pose in zip(content["samples"], link, strict=True):
        row["tracking"] = message(pose)
    path = written(tmp_path / "cell.samples", content)
    with pytest.raises(UserError, match=r"cell.samples: sample \d: .* not in front .* its frame not the optical one"):
        load_pose_pairs(path, Setting.EYE_IN_HAND)

"""`handeye calibrate`: samples in, files out, a camera that moved is noticed, and wrong input ends in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from handeye.robot.calibration.files import (
    HandEyeFile,
    LensFile,
    PosesFile,
    Provenance,
    lens_file,
    load_intrinsics,
    pose_config,
    save_config,
)
from handeye.robot.calibration.hand_eye import Setting, transform_errors
from handeye.robot.calibration.poses import ViewSpread, random_views
from handeye.robot.calibration.refinement import NoiseLevels
from handeye.robot.transforms import make_transform, translation
from handeye.tools.command_line import run_command
from handeye.vision.config import load_config
from tests.robot.calibration.hand_eye_scene import BOARD, EXACT, INTRINSICS, make_samples
from tests.robot.calibration.simulated_session import BoardRenderer, SensorFaults


def write_pairs(path: Path, T_base_tool: np.ndarray, T_camera_board: np.ndarray) -> str:
    path.write_text(json.dumps(np.stack([T_base_tool, T_camera_board], axis=1).tolist()), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("setting", Setting)
def test_samples_become_a_file_that_check_believes_until_the_camera_moves(setting: Setting, tmp_path: Path):
    truth, pairs, _ = make_samples(setting, 6, EXACT, seed=8)
    samples = write_pairs(tmp_path / "pairs.json", pairs.T_base_tool, pairs.T_camera_board)
    output, report = tmp_path / "hand_eye.yaml", tmp_path / "report.json"
    words = [
        "calibrate",
        "hand-eye",
        samples,
        "--setting",
        setting.value,
        "--output",
        str(output),
        "--json",
        str(report),
    ]
    assert run_command(words) == 0
    file = load_config(HandEyeFile, output)
    distance, angle = transform_errors(file.hand_eye().X, truth.X)
    assert distance < 1e-5
    assert angle < 1e-5
    assert len(file.provenance.samples) == 6
    assert json.loads(report.read_text(encoding="utf-8"))["leave_one_out_m"] < 1e-5
    assert run_command(["calibrate", "check", samples, "--hand-eye", str(output)]) == 0
    moved = write_pairs(tmp_path / "moved.json", pairs.T_base_tool, translation(0.02, 0.0, 0.0) @ pairs.T_camera_board)
    assert run_command(["calibrate", "check", moved, "--hand-eye", str(output)]) == 1


def _xyzw_as_wxyz(T: np.ndarray) -> np.ndarray:
    numbers = Rotation.from_matrix(T[:, :3, :3]).as_quat()
    return make_transform(Rotation.from_quat(numbers, scalar_first=True).as_matrix(), T[:, :3, 3])


@pytest.mark.parametrize(
    ("setting", "change", "told"),
    [
        (
            Setting.EYE_IN_HAND,
            lambda tool, board: (np.linalg.inv(tool), board),
            "it fits if the setting is eye-to-hand",
        ),
        (
            Setting.EYE_TO_HAND,
            lambda tool, board: (np.linalg.inv(tool), board),
            "it fits if the setting is eye-in-hand",
        ),
        (
            Setting.EYE_TO_HAND,
            lambda tool, board: (_xyzw_as_wxyz(tool), board),
            "the tool's quaternions are xyzw, read",
        ),
        (Setting.EYE_IN_HAND, lambda tool, board: (tool, _xyzw_as_wxyz(board)), "the board's quaternions are xyzw"),
        (Setting.EYE_IN_HAND, lambda tool, board: (tool[1:], board[:-1]), "belongs to the image after it"),
        (Setting.EYE_TO_HAND, lambda tool, board: (tool[:-1], board[1:]), "belongs to the image before it"),
        (Setting.EYE_TO_HAND, lambda tool, board: (tool[::-1], board), "none of the usual mistakes explains it"),
    ],
)
def test_samples_that_fit_nothing_are_not_written_and_the_mistake_is_named(
    setting: Setting,
    change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    _, pairs, _ = make_samples(setting, 7, NoiseLevels(), seed=3)
    samples = write_pairs(tmp_path / "pairs.json", *change(pairs.T_base_tool, pairs.T_camera_board))
    output = tmp_path / "hand_eye.yaml"
    words = ["calibrate", "hand-eye", samples, "--setting", setting.value, "--output", str(output)]
    assert run_command(words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "no calibration fits" in error
    assert len(error.splitlines()) == 1
    assert not output.exists()


def test_a_calibration_that_does_not_hold_is_written_when_forced(tmp_path: Path):
    _, pairs, _ = make_samples(Setting.EYE_TO_HAND, 5, NoiseLevels(), seed=3)
    samples = write_pairs(tmp_path / "pairs.json", np.linalg.inv(pairs.T_base_tool), pairs.T_camera_board)
    output = tmp_path / "hand_eye.yaml"
    words = ["calibrate", "hand-eye", samples, "--setting", "eye-to-hand", "--output", str(output)]
    assert run_command(words) == 2
    assert not output.exists()
    assert run_command([*words, "--force"]) == 0
    assert load_config(HandEyeFile, output).leave_one_out_m > 10e-3
    assert run_command([*words, "--limit-mm", "0"]) == 2


def test_check_names_the_mistake_in_new_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, pairs, _ = make_samples(Setting.EYE_IN_HAND, 8, EXACT, seed=8)
    output = tmp_path / "hand_eye.yaml"
    samples = write_pairs(tmp_path / "pairs.json", pairs.T_base_tool, pairs.T_camera_board)
    words = ["--setting", "eye-in-hand", "--output", str(output)]
    assert run_command(["calibrate", "hand-eye", samples, *words]) == 0
    wrong = write_pairs(tmp_path / "wrong.json", np.linalg.inv(pairs.T_base_tool), pairs.T_camera_board)
    assert run_command(["calibrate", "check", wrong, "--hand-eye", str(output)]) == 1
    assert "it would if the tool's poses are T_tool_base" in capsys.readouterr().out


def test_mirrored_and_sheared_samples_and_other_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, pairs, _ = make_samples(Setting.EYE_IN_HAND, 4, EXACT, seed=8)
    mirrored, sheared = pairs.T_camera_board.copy(), pairs.T_camera_board.copy()
    mirrored[1, :3, 0] *= -1.0
    sheared[1, 0, 1] += 0.2
    cases = {"mirrored": (mirrored, "it is mirrored"), "sheared": (sheared, "expected a rotation")}
    for name, (poses, words) in cases.items():
        path = write_pairs(tmp_path / f"{name}.json", pairs.T_base_tool, poses)
        assert run_command(["calibrate", "hand-eye", path, "--setting", "eye-in-hand"]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "flat.json").write_text("[1, 2]", encoding="utf-8")
    assert run_command(["calibrate", "hand-eye", str(tmp_path / "flat.json"), "--setting", "eye-in-hand"]) == 2
    assert run_command(["calibrate", "hand-eye", str(tmp_path), "--setting", "eye-in-hand"]) == 2


def test_camera_files_come_back_and_those_of_another_resolution_do_not(tmp_path: Path):
    path = tmp_path / "camera.yaml"
    save_config(path, lens_file(INTRINSICS, 0.2, Provenance(source="test", samples=("a",))))
    np.testing.assert_array_equal(load_intrinsics(path).K, INTRINSICS.K)
    np.testing.assert_array_equal(load_intrinsics(path).distortion, INTRINSICS.distortion)
    doubled = load_config(LensFile, path).model_copy(update={"width_px": 1280, "height_px": 960})
    save_config(path, doubled)
    with pytest.raises(ValueError, match="another resolution"):
        load_intrinsics(path)


def test_the_board_is_drawn_to_scale(tmp_path: Path):
    assert run_command(["calibrate", "board", str(tmp_path / "board.png"), "--square-px", "30"]) == 0
    picture = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert picture.shape == (300, 210)


@pytest.mark.slow
def test_pictures_become_a_lens_and_with_poses_a_hand_eye(tmp_path: Path):
    renderer, noise = BoardRenderer(BOARD, INTRINSICS), NoiseLevels(0.1, 0.5e-3, 1.7e-3)
    rng = np.random.default_rng(0)
    lens, session = tmp_path / "lens", tmp_path / "session"
    lens.mkdir()
    session.mkdir()
    for number, T in enumerate(random_views(BOARD, INTRINSICS, ViewSpread(offset=0.3), 12, rng)):
        cv2.imwrite(str(lens / f"{number:02d}.png"), renderer.render(T, SensorFaults(), rng))
    truth, pairs, _ = make_samples(Setting.EYE_IN_HAND, 10, noise, seed=4)
    names = [f"{name}.png" for name in pairs.names]
    for name, T in zip(names, pairs.T_camera_board, strict=True):
        cv2.imwrite(str(session / name), renderer.render(T, SensorFaults(), rng))
    poses = {name: pose_config(T) for name, T in zip(names, pairs.T_base_tool, strict=True)}
    save_config(session / "poses.yaml", PosesFile(poses=poses))
    camera, output, picture = (str(tmp_path / name) for name in ("camera.yaml", "hand_eye.yaml", "residuals.png"))
    words = ["calibrate", "intrinsics", str(lens), "--output", camera, "--residuals", picture]
    assert run_command(words) == 0
    found = load_intrinsics(Path(camera))
    np.testing.assert_allclose(found.K, INTRINSICS.K, atol=3.0)
    assert cv2.imread(picture) is not None
    words = ["calibrate", "hand-eye", str(session), "--setting", "eye-in-hand", "--camera", camera, "--output", output]
    assert run_command(words) == 0
    distance, angle = transform_errors(load_config(HandEyeFile, Path(output)).hand_eye().X, truth.X)
    assert distance < 4e-3
    assert np.rad2deg(angle) < 0.3
    assert run_command(["calibrate", "check", str(session), "--camera", camera, "--hand-eye", output]) == 0

"""`handeye calibrate points`: exact on exact points, honest about noise, and wrong pairs end in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from handeye.robot.calibration.files import HandEyeFile, Provenance, lens_file, load_hand_eye, save_config
from handeye.robot.calibration.hand_eye import Setting, transform_errors
from handeye.robot.calibration.points import PointPairs, fit_points
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import apply_transform, inverse, make_transform
from handeye.tools.command_line import run_command
from handeye.vision.config import load_config
from tests.robot.calibration.hand_eye_scene import EXACT, INTRINSICS, make_samples

TRUTH = make_transform(np.array([[0.0, -0.8, -0.6], [-1.0, 0.0, 0.0], [0.0, 0.6, -0.8]]), np.array([0.9, -0.1, 0.75]))


def workspace(number: int, seed: int, noise_m: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Points in the camera and in the base frame, with noise on both."""
    rng = np.random.default_rng(seed)
    base = rng.uniform([0.3, -0.3, 0.0], [0.7, 0.3, 0.35], (number, 3))
    camera = apply_transform(inverse(TRUTH), base)
    return camera + rng.normal(0.0, noise_m, camera.shape), base + rng.normal(0.0, noise_m, base.shape)


def rows(camera: np.ndarray, base: np.ndarray) -> list[dict[str, Any]]:
    return [{"camera": a.tolist(), "base": b.tolist()} for a, b in zip(camera, base, strict=True)]


def calibrate(tmp_path: Path, content: object, *words: str) -> tuple[int, Path]:
    path, output = tmp_path / "pairs.yaml", tmp_path / "hand_eye.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return run_command(["calibrate", "points", str(path), "--output", str(output), *words]), output


@pytest.mark.parametrize("number", [3, 4, 8])
def test_exact_points_give_the_camera_exactly(number: int, tmp_path: Path):
    code, output = calibrate(tmp_path, {"pairs": rows(*workspace(number, seed=number))})
    assert code == 0
    file = load_config(HandEyeFile, output)
    assert file.setting is Setting.EYE_TO_HAND
    np.testing.assert_allclose(file.camera.matrix(), TRUTH, atol=1e-9)
    assert max(*file.std_m, *file.std_rad, file.leave_one_out_m, file.leave_one_out_rad) < 1e-9


def test_csv_json_and_pixels_say_the_same(tmp_path: Path):
    camera, base = workspace(6, seed=1)
    pixels = INTRINSICS.project(camera)
    lens = tmp_path / "camera.yaml"
    save_config(lens, lens_file(INTRINSICS, 0.1, Provenance(source="test", samples=())))
    columns = ["name", "pixel_u", "pixel_v", "depth_m", "base_x", "base_y", "base_z"]
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for number in range(6):
            writer.writerow([f"p{number}", *pixels[number], camera[number, 2], *base[number]])
    mixed = rows(camera, base)
    mixed[2] = {"pixel": pixels[2].tolist(), "depth_m": float(camera[2, 2]), "base": base[2].tolist(), "name": "far"}
    (tmp_path / "pairs.json").write_text(json.dumps(mixed), encoding="utf-8")
    for name in ("pairs.csv", "pairs.json"):
        output = tmp_path / f"{name}.yaml"
        words = [str(tmp_path / name), "--camera", str(lens), "--output", str(output)]
        assert run_command(["calibrate", "points", *words]) == 0
        np.testing.assert_allclose(load_config(HandEyeFile, output).camera.matrix(), TRUTH, atol=1e-7)


@pytest.mark.slow
def test_standard_deviations_are_those_of_repeated_calibrations():
    camera, base = workspace(8, seed=2)
    rng, errors, claimed = np.random.default_rng(0), [], []
    for _ in range(400):
        fit = fit_points(PointPairs(camera, base + rng.normal(0.0, 2e-3, base.shape), tuple("abcdefgh")))
        turn = Rotation.from_matrix(fit.T_base_camera[:3, :3] @ TRUTH[:3, :3].T).as_rotvec()
        errors.append(np.concatenate([fit.T_base_camera[:3, 3] - TRUTH[:3, 3], turn]))
        claimed.append(np.diag(fit.covariance))
    # 400 draws know a standard deviation to 3.5 %: four times that is never seen by chance.
    np.testing.assert_allclose(np.std(errors, axis=0), np.sqrt(np.mean(claimed, axis=0)), rtol=0.14)


def test_check_reads_the_result_with_the_board_where_the_samples_see_it(tmp_path: Path):
    truth, pairs, _ = make_samples(Setting.EYE_TO_HAND, 5, EXACT, seed=4)
    base = pairs.T_base_tool[:, :3, 3]
    camera = np.random.default_rng(0).uniform([-0.3, -0.3, 0.5], [0.3, 0.3, 1.0], (5, 3))
    code, output = calibrate(tmp_path, rows(camera, apply_transform(truth.X, camera)))
    assert code == 0
    found = load_hand_eye(output, pairs)
    assert max(*transform_errors(found.X, truth.X), *transform_errors(found.Z, truth.Z)) < 1e-7
    samples = tmp_path / "samples.json"
    samples.write_text(json.dumps(np.stack([pairs.T_base_tool, pairs.T_camera_board], axis=1).tolist()))
    assert run_command(["calibrate", "check", str(samples), "--hand-eye", str(output)]) == 0
    assert base.shape == (5, 3)


def test_an_outlier_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    camera, base = workspace(10, seed=3, noise_m=3e-4)
    base[4] += [0.02, 0.0, 0.015]
    assert calibrate(tmp_path, rows(camera, base))[0] == 0
    marked = [line for line in capsys.readouterr().out.splitlines() if "outlier: touch it again" in line]
    assert len(marked) == 1
    assert marked[0].split()[1] == "5"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c, b: (0.1 * c, b), "the camera's points are multiplied by 10 (units or depth scale)"),
        (lambda c, b: (c * [-1, 1, 1], b), "one frame is left-handed"),
        (lambda c, b: (c, b[:, [1, 0, 2]]), "one frame is left-handed"),
        (lambda c, b: (c[:-1], b[1:]), "each base point belongs to the pair after it"),
        (lambda c, b: (c[1:], b[:-1]), "each base point belongs to the pair before it"),
        (lambda c, b: (c, b[::-1]), "reverse order"),
        (lambda c, b: (c, b + np.eye(8)[:, [3]] * [0.4, 0.3, 0.0]), "pair 4 is left out"),
        (lambda c, b: (c, b[[3, 0, 5, 1, 7, 2, 4, 6]]), "none of the usual mistakes explains it"),
    ],
)
def test_pairs_that_fit_nothing_are_not_written_and_the_mistake_is_named(
    change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    content = rows(*change(*workspace(8, seed=5, noise_m=1e-3)))
    code, output = calibrate(tmp_path, content)
    error = capsys.readouterr().err
    assert code == 2
    assert told in error
    assert len(error.splitlines()) == 1
    assert not output.exists()
    assert calibrate(tmp_path, content, "--force")[0] == 0


def test_an_orientation_that_few_near_points_leave_open_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    camera, base = workspace(6, seed=6)
    near = camera.mean(axis=0) + 0.05 * (camera - camera.mean(axis=0))
    noise = np.random.default_rng(1).normal(0.0, 1e-3, near.shape)
    code, output = calibrate(tmp_path, rows(near, apply_transform(TRUTH, near) + noise))
    assert (code, output.exists()) == (2, False)
    assert "the orientation is undetermined by" in capsys.readouterr().err
    assert base.shape == near.shape


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda pairs: pairs[:2], "expected at least 3 pairs"),
        (lambda pairs: [], "expected at least 3 pairs"),
        (lambda pairs: {"points": pairs}, "expected `pairs`"),
        (lambda pairs: [[1, 2]], "expected `pairs`"),
        (lambda pairs: [*pairs, {**pairs[0], "base": [1.0, 2.0]}], "pair 9: base: expected 3 finite numbers"),
        (lambda pairs: [*pairs, {**pairs[0], "camera": "1 2 3"}], "pair 9: camera: expected 3 finite numbers"),
        (lambda pairs: [*pairs, {**pairs[0], "camera": [0, 0, float("nan")]}], "pair 9: camera: expected 3 finite"),
        (lambda pairs: [*pairs, {"base": [0.1, 0.2, 0.3]}], "pair 9: expected camera"),
        (lambda pairs: [*pairs, {**pairs[0], "Base": [0.1, 0.2, 0.3]}], "pair 9: unknown Base"),
        (lambda pairs: [{**pairs[0], "name": "tip"}, {**pairs[1], "name": "tip"}], "pair tip: the name is given twice"),
        (lambda pairs: [*pairs, {"pixel": [3, 4], "depth_m": 1.0, "base": [0, 0, 0]}], "pair 9: has a pixel"),
        (
            lambda pairs: [{**p, "camera": [1e3 * v for v in p["camera"]]} for p in pairs],
            "pair 1, camera: 9.* are these millimetres",
        ),
        (
            lambda pairs: [{"camera": p["base"], "base": p["camera"]} for p in pairs],
            "are base and camera exchanged",
        ),
        (
            lambda pairs: [{**p, "camera": p["camera"][::-1]} for p in pairs],
            "the axes in another order",
        ),
        (lambda pairs: [pairs[0]] * 4, "all in one place"),
        (
            lambda pairs: [{"camera": [0, 0.1 * i, 1], "base": [0.1 * i, 0, 0]} for i in range(4)],
            "the camera points are on one line",
        ),
    ],
)
def test_broken_pairs_are_named(
    change: Callable[[list[Any]], object], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = np.array([[x, y, z] for x in (0.3, 0.7) for y in (-0.3, 0.3) for z in (0.02, 0.3)])
    code, output = calibrate(tmp_path, change(rows(apply_transform(inverse(TRUTH), base), base)))
    error = capsys.readouterr().err
    assert (code, output.exists()) == (2, False)
    assert re.search(told, error), error
    assert len(error.splitlines()) == 1
    assert "pairs.yaml" in error


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"pixel": [320, 240], "depth_m": 800}, "pair 1: depth_m is 800: .* millimetres"),
        ({"pixel": [320, 240], "depth_m": 0}, "pair 1: depth_m is 0"),
        ({"pixel": [320, 240]}, "pair 1: depth_m: expected a finite number, got None"),
        ({"pixel": [700, 240], "depth_m": 1}, "pair 1: pixel .* is outside the image of 640 x 480"),
        ({"pixel": [320, 240], "depth_m": 1, "camera": [0, 0, 1]}, "pair 1: has camera and pixel"),
    ],
)
def test_broken_pixels_are_named(row: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lens = tmp_path / "camera.yaml"
    save_config(lens, lens_file(INTRINSICS, 0.1, Provenance(source="test", samples=())))
    assert calibrate(tmp_path, [{**row, "base": [0, 0, 0]}], "--camera", str(lens))[0] == 2
    assert re.search(told, capsys.readouterr().err)


def test_points_in_a_plane_suffice_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = np.array([[0.3, -0.3, 0.0], [0.7, -0.3, 0.0], [0.7, 0.3, 0.0], [0.3, 0.3, 0.0]])
    code, output = calibrate(tmp_path, rows(apply_transform(inverse(TRUTH), base), base))
    assert code == 0
    np.testing.assert_allclose(load_config(HandEyeFile, output).camera.matrix(), TRUTH, atol=1e-9)
    assert "a mirrored camera frame would not be noticed" in capsys.readouterr().out


def test_a_point_that_holds_the_others_off_a_line_cannot_be_left_out():
    camera = np.array([[0.0, 0.0, 1.0], [0.1, 0.0, 1.0], [0.2, 0.0, 1.0], [0.0, 0.2, 1.0]])
    fit = fit_points(PointPairs(camera, apply_transform(TRUTH, camera), tuple("abcd")))
    np.testing.assert_array_equal(np.isnan(fit.leave_one_out_m), [False, False, False, True])
    with pytest.raises(CalibrationError, match="on one line"):
        PointPairs(camera[:3], apply_transform(TRUTH, camera[:3]), tuple("abc"))

"""Solve the hand-eye calibration AX = ZB and its uncertainty: `handeye calibrate hand-eye`.

A calibration beyond the limits is not written, exit code 2; the error names the mistake that explains the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from handeye.robot.calibration.board import BoardConfig
from handeye.robot.calibration.diagnosis import Limits, explain_samples
from handeye.robot.calibration.files import (
    HandEyeFile,
    Provenance,
    Samples,
    load_images_with_poses,
    load_intrinsics,
    load_pose_pairs,
    pose_config,
    save_config,
)
from handeye.robot.calibration.hand_eye import ClosedForm, PosePairs, Setting, solve_hand_eye, transform_errors
from handeye.robot.calibration.refinement import Refinement, leave_one_out, refine_hand_eye
from handeye.robot.calibration.sample_files import SUFFIXES, Rotation
from handeye.robot.errors import CalibrationError
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import write_json

SUSPICIOUS_FACTOR = 4.0
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Arguments:
    """Solve for camera and board in closed form, then by maximum likelihood, with leave-one-out errors."""

    samples: Positional[Path]
    """Folder of images with poses.yaml, or pairs [T_base_tool, T_camera_board]; also MoveIt's and easy_handeye's."""
    setting: Literal["eye-in-hand", "eye-to-hand"]
    """Where the camera is: on the tool, or beside the arm with the board on the tool."""
    camera: Path | None = None
    """The camera's file, from `handeye calibrate intrinsics`; needed for images."""
    board: Path | None = None
    """Squares and markers of the board (YAML; default: 7 x 10 squares of 25 mm)."""
    rotation: Literal["rotvec", "quat_xyzw", "quat_wxyz"] | None = None
    """How bare numbers after x, y, z turn: a rotation vector (rad) or a quaternion."""
    output: Path = Path("hand_eye.yaml")
    """Calibration file to write."""
    limit_mm: float = 10.0
    """Largest median leave-one-out distance with which it is written, in millimetres."""
    limit_deg: float = 1.0
    """Largest median leave-one-out angle, in degrees."""
    force: bool = False
    """Write it beyond these limits too."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Load, solve, refine, leave one out, write, and list outliers."""
    limits = Limits.from_mm_deg(arguments.limit_mm, arguments.limit_deg)
    setting = Setting(arguments.setting)
    rotation = None if arguments.rotation is None else Rotation(arguments.rotation)
    samples, board = load_samples(arguments.samples, setting, rotation, arguments.camera, arguments.board)
    pairs = samples.pairs
    closed = {method.value: solve_hand_eye(pairs, setting, method) for method in ClosedForm}
    refined = refine_hand_eye(closed[ClosedForm.PARK_MARTIN.value], pairs.T_base_tool, samples.measurements)
    predicted = leave_one_out(refined, pairs, samples.measurements)
    errors_m, errors_rad = transform_errors(predicted, pairs.T_camera_board)
    X = refined.hand_eye.X
    apart = {name: transform_errors(solution.X, X) for name, solution in closed.items()}
    file = _file(
        refined, errors_m, errors_rad, Provenance(source=str(arguments.samples), samples=pairs.names, board=board)
    )
    result = {
        **file.model_dump(mode="json", exclude={"provenance"}),
        refined.hand_eye.names[0]: X.tolist(),
        refined.hand_eye.names[1]: refined.hand_eye.Z.tolist(),
        "samples": len(pairs),
        "without_board": list(samples.without_board),
        "closed_forms_apart": {name: [float(m), float(rad)] for name, (m, rad) in apart.items()},
        "tool_std_m": refined.noise.tool_m,
        "tool_std_rad": refined.noise.tool_rad,
        "leave_one_out": {
            name: [float(m), float(rad)] for name, m, rad in zip(pairs.names, errors_m, errors_rad, strict=True)
        },
    }
    show(result, refined.hand_eye.names[0])
    if not (arguments.force or limits.hold(errors_m, errors_rad)):
        raise CalibrationError(f"{arguments.samples}: {_misfit(file, pairs, limits)}")
    save_config(arguments.output, file)
    console.print(f"written: {arguments.output}")
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 0


def load_samples(
    path: Path, setting: Setting, rotation: Rotation | None, camera: Path | None, board: Path | None
) -> tuple[Samples, BoardConfig | None]:
    """Samples of either kind, and the board where images show it. Raises UserError for images without a camera file."""
    if path.suffix.lower() in SUFFIXES:
        return load_pose_pairs(path, setting, rotation), None
    if not path.is_dir():
        raise UserError(
            f"{path}: expected a folder of images with poses.yaml, or pairs of poses as {', '.join(SUFFIXES)}"
        )
    if camera is None:
        raise UserError("--camera: images need the camera's file; make it with `handeye calibrate intrinsics`")
    config = load_config(BoardConfig, board)
    return load_images_with_poses(path, config, load_intrinsics(camera), rotation), config


def show(result: dict[str, Any], name: str) -> None:
    """Print the camera's pose, how well the methods agree, and the leave-one-out error of each sample."""
    pose = result["camera"]
    console.print(
        f"{name}: translation {_list(pose['translation_m'], 5)} m, quaternion wxyz {_list(pose['quat_wxyz'], 5)}"
    )
    millimetres, degrees = 1e3 * np.array(result["std_m"]), np.rad2deg(result["std_rad"])
    console.print(f"standard deviation {_list(millimetres, 2)} mm, {_list(degrees, 3)} degrees")
    for method, (m, rad) in result["closed_forms_apart"].items():
        console.print(f"  {method} is {1e3 * m:.2f} mm, {np.rad2deg(rad):.3f} degrees away")
    table = Table("sample", "leave-one-out error mm", "degrees", "")
    for sample, (m, rad) in result["leave_one_out"].items():
        is_odd = (
            m > SUSPICIOUS_FACTOR * result["leave_one_out_m"] or rad > SUSPICIOUS_FACTOR * result["leave_one_out_rad"]
        )
        table.add_row(sample, f"{1e3 * m:.2f}", f"{np.rad2deg(rad):.3f}", "outlier: record it again" if is_odd else "")
    console.print(table)
    for sample in result["without_board"]:
        console.print(f"left out, no board in it: {sample}")


def _misfit(file: HandEyeFile, pairs: PosePairs, limits: Limits) -> str:
    """What is wrong, in one line."""
    found = explain_samples(pairs, file.setting, limits)
    advice = "; or: ".join(map(str, found)) if found else "none of the usual mistakes explains it"
    return (
        f"no calibration fits: predicted from the others, a board is {1e3 * file.leave_one_out_m:.0f} mm and "
        f"{math.degrees(file.leave_one_out_rad):.1f} degrees off (median); "
        f"{'it fits if ' if found else ''}{advice}; --force writes it all the same"
    )


def _file(refined: Refinement, errors_m: np.ndarray, errors_rad: np.ndarray, provenance: Provenance) -> HandEyeFile:
    x, y, z, a, b, c = np.sqrt(np.diag(refined.covariance)).tolist()
    return HandEyeFile(
        setting=refined.hand_eye.setting,
        camera=pose_config(refined.hand_eye.X),
        board=pose_config(refined.hand_eye.Z),
        std_m=(x, y, z),
        std_rad=(a, b, c),
        leave_one_out_m=float(np.median(errors_m)),
        leave_one_out_rad=float(np.median(errors_rad)),
        provenance=provenance,
    )


def _list(values: Any, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)

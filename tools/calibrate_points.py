"""Find a camera beside the arm from points that the tool touched: `handeye calibrate points`.

A calibration beyond the limits is not written, exit code 2; the error names the mistake that explains the pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from handeye.robot.calibration.diagnosis import Limits
from handeye.robot.calibration.files import HandEyeFile, Provenance, load_intrinsics, pose_config, save_config
from handeye.robot.calibration.hand_eye import Setting
from handeye.robot.calibration.point_files import load_point_pairs
from handeye.robot.calibration.points import PointFit, PointPairs, explain_points, fit_points, is_flat
from handeye.robot.errors import CalibrationError
from handeye.tools.command_line import Positional
from handeye.vision.files import write_json

SUSPICIOUS_FACTOR = 4.0
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Arguments:
    """Solve for T_base_camera from points in the camera's frame and the same points in the base frame."""

    pairs: Positional[Path]
    """YAML, JSON or CSV: for each point `base` (x, y, z in m), and `camera` (x, y, z) or `pixel` and `depth_m`."""
    camera: Path | None = None
    """The camera's file, from `handeye calibrate intrinsics`; needed for pixels."""
    output: Path = Path("hand_eye.yaml")
    """Calibration file to write."""
    limit_mm: float = 10.0
    """Largest median leave-one-out distance with which it is written, in millimetres."""
    limit_deg: float = 1.0
    """Largest standard deviation of the orientation, and median turn by leaving a pair out, in degrees."""
    force: bool = False
    """Write it beyond these limits too."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Load, fit, leave one out, write, and list outliers."""
    limits = Limits.from_mm_deg(arguments.limit_mm, arguments.limit_deg)
    intrinsics = None if arguments.camera is None else load_intrinsics(arguments.camera)
    pairs = load_point_pairs(arguments.pairs, intrinsics)
    fit = fit_points(pairs)
    file = _file(fit, Provenance(source=str(arguments.pairs), samples=pairs.names))
    show(file, pairs, fit)
    if not (arguments.force or fit.holds(limits)):
        raise CalibrationError(f"{arguments.pairs}: {_misfit(file, pairs, fit, limits)}")
    save_config(arguments.output, file)
    console.print(f"written: {arguments.output}")
    if arguments.json is not None:
        result = file.model_dump(mode="json") | {
            "residuals_m": dict(zip(pairs.names, fit.residuals_m.tolist(), strict=True)),
            "pair_leave_one_out_m": dict(zip(pairs.names, map(_or_none, fit.leave_one_out_m.tolist()), strict=True)),
        }
        write_json(arguments.json, result)
    return 0


def show(file: HandEyeFile, pairs: PointPairs, fit: PointFit) -> None:
    """Print the camera's pose, its standard deviation, and the errors of each pair."""
    place, quat = (_list(values, 5) for values in (file.camera.translation_m, file.camera.quat_wxyz))
    console.print(f"T_base_camera: translation {place} m, quaternion wxyz {quat}")
    millimetres, degrees = 1e3 * np.array(file.std_m), np.rad2deg(file.std_rad)
    console.print(f"standard deviation {_list(millimetres, 2)} mm, {_list(degrees, 3)} degrees")
    table = Table("pair", "residual mm", "leave-one-out error mm", "")
    for name, residual, left in zip(pairs.names, fit.residuals_m, fit.leave_one_out_m, strict=True):
        is_odd = left > max(SUSPICIOUS_FACTOR * file.leave_one_out_m, 1e-6)
        shown = f"{1e3 * left:.2f}" if np.isfinite(left) else "the others determine nothing"
        table.add_row(name, f"{1e3 * residual:.2f}", shown, "outlier: touch it again" if is_odd else "")
    console.print(table)
    if is_flat(pairs):
        console.print("all points are in one plane, so a mirrored camera frame would not be noticed: touch one off it")
    if not np.isfinite(fit.leave_one_out_m).any():
        console.print("no pair can be left out of so few: touch more points")


def _misfit(file: HandEyeFile, pairs: PointPairs, fit: PointFit, limits: Limits) -> str:
    """What is wrong, in one line."""
    if float(np.median(fit.errors_m)) <= limits.distance_m:
        return (
            f"the orientation is undetermined by {math.degrees(max(file.std_rad)):.1f} degrees (standard deviation): "
            "touch more points, farther apart; --force writes it all the same"
        )
    found = explain_points(pairs, limits)
    advice = "; or: ".join(f"{reading.mistake} ({1e3 * reading.error_m:.1f} mm)" for reading in found[:3])
    return (
        f"no calibration fits: predicted from the others, a point is {1e3 * file.leave_one_out_m:.0f} mm off (median); "
        f"{f'it fits if {advice}' if found else 'none of the usual mistakes explains it'}; "
        "--force writes it all the same"
    )


def _file(fit: PointFit, provenance: Provenance) -> HandEyeFile:
    x, y, z, a, b, c = np.sqrt(np.diag(fit.covariance)).tolist()
    return HandEyeFile(
        setting=Setting.EYE_TO_HAND,
        camera=pose_config(fit.T_base_camera),
        std_m=(x, y, z),
        std_rad=(a, b, c),
        leave_one_out_m=float(np.median(fit.errors_m)),
        leave_one_out_rad=float(np.median(fit.turns_rad)),
        provenance=provenance,
    )


def _list(values: tuple[float, ...] | np.ndarray, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None

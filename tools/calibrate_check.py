"""Check whether a hand-eye calibration still holds, with new samples: `handeye calibrate check`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from handeye.robot.calibration.diagnosis import Limits, explain_check
from handeye.robot.calibration.files import load_hand_eye, load_setting
from handeye.robot.calibration.hand_eye import transform_errors
from handeye.robot.calibration.sample_files import Rotation
from handeye.tools.calibrate_hand_eye import load_samples
from handeye.tools.command_line import Positional
from handeye.vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Predict the board pose of new samples; the board must not have moved. Exit code 1 for large errors."""

    samples: Positional[Path]
    """Folder of images with poses.yaml, or pairs [T_base_tool, T_camera_board]; also MoveIt's and easy_handeye's."""
    hand_eye: Path = Path("hand_eye.yaml")
    """The calibration, from `handeye calibrate hand-eye` or easy_handeye."""
    camera: Path | None = None
    """The camera's file; needed for images."""
    board: Path | None = None
    """Squares and markers of the board (YAML; default: 7 x 10 squares of 25 mm)."""
    rotation: Literal["rotvec", "quat_xyzw", "quat_wxyz"] | None = None
    """How bare numbers after x, y, z turn: a rotation vector (rad) or a quaternion."""
    limit_mm: float = 5.0
    """Largest median distance that passes, in millimetres."""
    limit_deg: float = 0.5
    """Largest median angle that passes, in degrees."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Compare with the limits."""
    limits = Limits.from_mm_deg(arguments.limit_mm, arguments.limit_deg)
    rotation = None if arguments.rotation is None else Rotation(arguments.rotation)
    setting = load_setting(arguments.hand_eye)
    samples, _ = load_samples(arguments.samples, setting, rotation, arguments.camera, arguments.board)
    hand_eye = load_hand_eye(arguments.hand_eye, samples.pairs)
    errors_m, errors_rad = transform_errors(hand_eye.predict(samples.pairs.T_base_tool), samples.pairs.T_camera_board)
    median_mm, median_deg = 1e3 * float(np.median(errors_m)), float(np.rad2deg(np.median(errors_rad)))
    worst = samples.pairs.names[int(np.argmax(errors_m))]
    passes = limits.hold(errors_m, errors_rad)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{len(samples.pairs)} samples: median {median_mm:.2f} mm, {median_deg:.3f} degrees")
    console.print(f"worst: {1e3 * errors_m.max():.2f} mm, {np.rad2deg(errors_rad.max()):.3f} degrees; {worst}")
    mistakes = [] if passes else explain_check(samples.pairs, hand_eye, limits)
    reason = f"it would if {'; or: '.join(map(str, mistakes))}" if mistakes else "camera or board has moved"
    console.print("the calibration holds" if passes else f"the calibration does not hold: {reason}")
    if arguments.json is not None:
        result = {"passes": passes, "samples": len(samples.pairs), "median_mm": median_mm, "median_deg": median_deg}
        write_json(arguments.json, {**result, "worst_mm": 1e3 * float(errors_m.max()), "worst_sample": worst})
    return 0 if passes else 1

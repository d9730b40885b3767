"""Calibrate camera intrinsics and the hand-eye transform, step by step, and check both.

Every step explains itself with --help and writes its result with --json FILE.

examples:
  handeye calibrate board board.png
  handeye calibrate intrinsics images/ --output camera.yaml
  handeye calibrate hand-eye samples/ --setting eye-in-hand --camera camera.yaml
  handeye calibrate points pairs.csv
"""

from __future__ import annotations

from typing import Annotated

from typing_extensions import assert_never

from handeye.robot.errors import RobotError
from handeye.tools import (
    calibrate_board,
    calibrate_check,
    calibrate_hand_eye,
    calibrate_intrinsics,
    calibrate_points,
    calibrate_poses,
)
from handeye.tools.command_line import step
from handeye.vision.errors import UserError

Arguments = (
    Annotated[calibrate_board.Arguments, step("board")]
    | Annotated[calibrate_intrinsics.Arguments, step("intrinsics")]
    | Annotated[calibrate_poses.Arguments, step("poses")]
    | Annotated[calibrate_hand_eye.Arguments, step("hand-eye")]
    | Annotated[calibrate_points.Arguments, step("points")]
    | Annotated[calibrate_check.Arguments, step("check")]
)


def run(arguments: Arguments) -> int:
    """Run the step."""
    try:
        match arguments:
            case calibrate_board.Arguments():
                return calibrate_board.run(arguments)
            case calibrate_intrinsics.Arguments():
                return calibrate_intrinsics.run(arguments)
            case calibrate_poses.Arguments():
                return calibrate_poses.run(arguments)
            case calibrate_hand_eye.Arguments():
                return calibrate_hand_eye.run(arguments)
            case calibrate_points.Arguments():
                return calibrate_points.run(arguments)
            case calibrate_check.Arguments():
                return calibrate_check.run(arguments)
            case _:
                assert_never(arguments)
    except RobotError as error:
        raise UserError(str(error)) from error

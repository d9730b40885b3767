"""Suggest tool poses for a hand-eye calibration from a rough guess: `handeye calibrate poses`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from handeye.robot.calibration.board import BoardConfig
from handeye.robot.calibration.files import PosesFile, load_guess, load_intrinsics, pose_config, save_config
from handeye.robot.calibration.poses import ReachablePoses, ViewSpread, reachable_candidates, suggest_poses
from handeye.robot.config import WorkCellConfig
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Suggest tool poses that minimise the uncertainty of the camera's pose.

    They are within reach and joint limits and keep clear of the table; other obstacles are not known.
    """

    guess: Positional[Path]
    """YAML with setting, camera and board, each to a few centimetres and degrees."""
    camera: Path
    """Intrinsics of the camera, from `handeye calibrate intrinsics`."""
    output: Path = Path("poses.yaml")
    """Tool poses to write, keyed by the name of the image to take there."""
    number: int = 15
    """Number of poses."""
    distance_m: tuple[float, float] = (0.3, 0.55)
    """Nearest and farthest distance between camera and board."""
    board: Path | None = None
    """Squares and markers of the board (YAML; default: 7 x 10 squares of 25 mm)."""
    arm: Literal["ur10e", "any"] = "ur10e"
    """Arm whose reach and joint limits count; `any` has none, so check the poses by hand."""
    cell: Path | None = None
    """Work cell (YAML) with joint limits, table and home position (default: that of the simulator)."""
    seed: int = 0
    """Seed of the candidate poses."""
    json: Path | None = None
    """Write the poses as 4 x 4 matrices to this file."""


def run(arguments: Arguments) -> int:
    """Choose the poses and write them."""
    if arguments.number < 1 or arguments.seed < 0:
        raise UserError("expected --number of at least 1 and --seed of at least 0")
    board, intrinsics = load_config(BoardConfig, arguments.board), load_intrinsics(arguments.camera)
    guess = load_guess(arguments.guess)
    reach = ReachablePoses(load_config(WorkCellConfig, arguments.cell), guess, board)
    is_reachable = reach if arguments.arm == "ur10e" else lambda _: True
    candidates = reachable_candidates(
        guess,
        board,
        intrinsics,
        ViewSpread(distance_m=arguments.distance_m),
        8 * arguments.number,
        np.random.default_rng(arguments.seed),
        is_reachable=is_reachable,
    )
    poses = suggest_poses(guess, board, intrinsics, candidates, arguments.number)
    named = {f"{number:02d}.png": T for number, T in enumerate(poses)}
    save_config(arguments.output, PosesFile(poses={name: pose_config(T) for name, T in named.items()}))
    Console(highlight=False, soft_wrap=True).print(
        f"{arguments.output}: {len(named)} tool poses; move there slowly, the guess may be wrong, and save an image at "
        "each under its name"
    )
    if arguments.json is not None:
        write_json(arguments.json, {name: T.tolist() for name, T in named.items()})
    return 0

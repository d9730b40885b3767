"""Draw the ChArUco calibration board as an image to print: `handeye calibrate board`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
from rich.console import Console

from handeye.robot.calibration.board import BoardConfig, draw_board
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import replacing, write_json


@dataclass(frozen=True)
class Arguments:
    """Draw the board; print it at 100 %, glue it to a flat plate, and measure a square."""

    output: Positional[Path]
    """Image to write (.png)."""
    board: Path | None = None
    """Squares and markers of the board (YAML; default: 7 x 10 squares of 25 mm, which fill a sheet of A4)."""
    square_px: int = 200
    """Pixels per square."""
    json: Path | None = None
    """Write the board's dimensions to this file."""


def run(arguments: Arguments) -> int:
    """Write the image and print the size that it must have on paper."""
    if arguments.square_px < 20:
        raise UserError(f"--square-px {arguments.square_px}: expected at least 20, fewer leave no markers to read")
    if arguments.output.suffix.lower() != ".png":
        raise UserError(f"{arguments.output}: expected a name that ends in .png")
    board = load_config(BoardConfig, arguments.board)
    with replacing(arguments.output) as beside:
        cv2.imwrite(str(beside), draw_board(board, arguments.square_px))
    width, height = (1e3 * size for size in board.size_m)
    Console(highlight=False, soft_wrap=True).print(
        f"{arguments.output}: print it {width:g} x {height:g} mm large, and measure a square: "
        f"{1e3 * board.square_m:g} mm"
    )
    if arguments.json is not None:
        write_json(arguments.json, board.model_dump(mode="json"))
    return 0

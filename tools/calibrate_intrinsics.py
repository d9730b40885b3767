"""Calibrate camera matrix and distortion from images of a ChArUco board: `handeye calibrate intrinsics`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from handeye.robot.calibration.board import BoardConfig, BoardDetector, BoardView
from handeye.robot.calibration.files import Provenance, lens_file, save_config
from handeye.robot.calibration.lens import (
    MIN_VIEWS,
    Coverage,
    LensCalibration,
    calibrate_lens,
    draw_residuals,
    measure_coverage,
    rough_intrinsics,
)
from handeye.robot.camera.intrinsics import Lens
from handeye.robot.errors import CalibrationError
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.files import write_json
from handeye.vision.images import write_image
from handeye.vision.runtime.sources import open_stream

SUSPICIOUS_FACTOR = 3.0
console = Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Arguments:
    """Calibrate intrinsics from images, a video or a live camera, which suggests the views that are missing."""

    source: Positional[str]
    """Folder, pattern, video, or a camera by index or address."""
    output: Path = Path("camera.yaml")
    """File for the intrinsics."""
    board: Path | None = None
    """Squares and markers of the board (YAML; default: 7 x 10 squares of 25 mm)."""
    lens: Literal["pinhole", "fisheye"] = "pinhole"
    """Distortion model; fisheye for lenses wider than about 100 degrees."""
    residuals: Path | None = None
    """Draw the residual of every corner into this image (.png)."""
    min_shift: float = 0.05
    """Skip frames of a video or camera in which the board moved by less than this fraction of the width."""
    seconds: float = 120.0
    """Longest time with a live camera; it ends earlier when no view is missing."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Collect views, fit, report quality and missing views, write."""
    board = load_config(BoardConfig, arguments.board)
    views, size_hw, num_images = collect_views(arguments, board)
    calibration = calibrate_lens(views, size_hw, Lens(arguments.lens))
    coverage = measure_coverage(views, calibration.intrinsics)
    names = tuple(view.name for view in views)
    provenance = Provenance(source=arguments.source, samples=names, board=board)
    save_config(arguments.output, lens_file(calibration.intrinsics, calibration.rms_px, provenance))
    if arguments.residuals is not None:
        write_image(arguments.residuals, draw_residuals(calibration))
    show(calibration, coverage, names, num_images)
    console.print(f"written: {arguments.output}")
    if arguments.json is not None:
        write_json(arguments.json, summarise(calibration, coverage, names, num_images))
    return 0


def collect_views(arguments: Arguments, board: BoardConfig) -> tuple[tuple[BoardView, ...], tuple[int, int], int]:
    """The views of the board, the size of the images (height, width), and the number of images read.

    Raises CalibrationError for images of different sizes and SourceError for a source that gives none.
    """
    detector, views, size_hw, num_images, shown = BoardDetector(board), [], None, 0, ""
    with open_stream(arguments.source) as stream:
        moves, is_live = stream.fps is not None, arguments.source.isdecimal() or "://" in arguments.source
        end_s = time.monotonic() + arguments.seconds
        for name, image_rgb, _ in stream:
            size_hw = size_hw or image_rgb.shape[:2]
            if image_rgb.shape[:2] != size_hw:
                raise CalibrationError(
                    f"{name} has another size than the images before it: calibrate one size at a time"
                )
            num_images += 1
            view = detector(image_rgb, name)
            if view is not None and not (moves and _is_like_another(view, views, arguments.min_shift * size_hw[1])):
                views.append(view)
            if not is_live:
                continue
            advice = measure_coverage(tuple(views), rough_intrinsics(size_hw)).advice() if views else ["show the board"]
            if not advice or time.monotonic() > end_s:
                break
            if advice[0] != shown:
                shown = advice[0]
                console.print(f"{len(views)} views; {shown}")
    if size_hw is None:
        raise CalibrationError(f"{arguments.source}: gave no image")
    reason = detector.explain() if len(views) < MIN_VIEWS else None
    if reason is not None:
        raise CalibrationError(f"{arguments.source}: the board is in {len(views)} images; {reason}")
    return tuple(views), (size_hw[0], size_hw[1]), num_images


def summarise(
    calibration: LensCalibration, coverage: Coverage, names: tuple[str, ...], num_images: int
) -> dict[str, Any]:
    """The result as --json has it."""
    intrinsics = calibration.intrinsics
    return {
        "images": num_images,
        "views": len(names),
        "K": intrinsics.K.tolist(),
        "distortion": intrinsics.distortion.tolist(),
        "size_hw": list(intrinsics.size_hw),
        "rms_px": calibration.rms_px,
        "view_rms_px": dict(zip(names, calibration.view_rms_px.tolist(), strict=True)),
        "coverage": coverage.fraction,
        "advice": coverage.advice(),
    }


def show(calibration: LensCalibration, coverage: Coverage, names: tuple[str, ...], num_images: int) -> None:
    """Print the camera, the error of each image, and what would make it better."""
    K, (fx_std, fy_std) = calibration.intrinsics.K, calibration.focal_std_px
    table = Table("image", "rms px", "")
    usual = sorted(calibration.view_rms_px)[len(names) // 2]
    for name, rms in zip(names, calibration.view_rms_px, strict=True):
        table.add_row(name, f"{rms:.3f}", "outlier: blurred?" if rms > SUSPICIOUS_FACTOR * usual else "")
    console.print(table)
    console.print(f"{len(names)} of {num_images} images used, rms {calibration.rms_px:.3f} px")
    console.print(
        f"fx {K[0, 0]:.2f} +- {fx_std:.2f}, fy {K[1, 1]:.2f} +- {fy_std:.2f}, cx {K[0, 2]:.2f}, cy {K[1, 2]:.2f}"
    )
    console.print(f"distortion {', '.join(f'{value:.5f}' for value in calibration.intrinsics.distortion)}")
    console.print(f"corners in {coverage.fraction:.0%} of the image")
    for line in coverage.advice():
        console.print(f"better: {line}")


def _is_like_another(view: BoardView, others: list[BoardView], limit_px: float) -> bool:
    """Whether the common corners nearly coincide with those of an earlier view."""
    for other in others:
        places = dict(zip(other.corner_ids.tolist(), other.pixels_uv, strict=True))
        both = [(at, places[i]) for i, at in zip(view.corner_ids.tolist(), view.pixels_uv, strict=True) if i in places]
        if both and sum(float(abs(a - b).max()) for a, b in both) / len(both) < limit_px:
            return True
    return False

"""Write deployment artefacts of a checkpoint and prove that they compute what was trained.

The ONNX file holds everything: decoded boxes in the graph, class names, preprocessing and thresholds in its
metadata. Its outputs are compared with torch's in every engine that is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from tools.command_line import Positional
from vision.errors import UserError
from vision.evaluation.torch_session import CHECKPOINT_SUFFIX
from vision.files import write_json
from vision.runtime.image_detector import ImageDetector

if TYPE_CHECKING:
    from export.parity import EngineParity

FORMATS = ("onnx",)
PARITY_LIMIT = 1e-3
"""Worst difference that rounding may explain, as a fraction; torch in float32 is itself 1e-4 off its float64."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `handeye export` takes."""

    model: Positional[Path]
    """Native checkpoint (.safetensors)."""
    format: str = "onnx"
    """Formats to write, separated by commas: onnx."""
    output: Path = Path("runs/export")
    """Folder for the artefacts."""
    classes: str | None = None
    """Classes to keep, separated by commas, in this order; all of them by default."""
    score_threshold: float | None = None
    """Detections below are dropped by whoever runs the file, unless told otherwise."""
    iou_threshold: float | None = None
    """Suppression threshold that the file is run with, unless told otherwise."""
    annotations: Path | None = None
    """COCO file on which to measure the AP of each artefact."""
    images: Path | None = None
    """Folder of the images that --annotations names; they join the parity test."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Export, compare and, with annotations, evaluate; 1 when the file does not compute what torch does."""
    _check(arguments)
    from export.classes import keep_classes
    from export.onnx_export import export_onnx
    from export.parity import measure_parity
    from vision.checkpoints.native import load_detector

    detector = load_detector(arguments.model)
    if arguments.classes is not None:
        detector = keep_classes(detector, [name.strip() for name in arguments.classes.split(",")])
    path = arguments.output / f"{arguments.model.stem}.onnx"
    export_onnx(
        detector,
        path,
        made_by=_origin(arguments.model),
        score_threshold=arguments.score_threshold,
        iou_threshold=arguments.iou_threshold,
    )
    parities = measure_parity(detector, path)
    average_precision = _average_precision(arguments, path)
    _print_report(path, parities, average_precision)
    worst = max(parity.worst for parity in parities)
    if arguments.json is not None:
        result: dict[str, Any] = {
            "files": {"float32": str(path)},
            "bytes": {"float32": path.stat().st_size},
            "parity": {"float32": worst},
            "engines": [asdict(parity) for parity in parities],
        }
        write_json(arguments.json, result | ({"AP": average_precision} if average_precision else {}))
    return 0 if worst <= PARITY_LIMIT and not any(parity.unmatched for parity in parities) else 1


def _check(arguments: Arguments) -> None:
    asked = [name.strip() for name in arguments.format.split(",")]
    if unknown := [name for name in asked if name not in FORMATS]:
        raise UserError(f"--format {unknown[0]}: this version writes {', '.join(FORMATS)}")
    if arguments.model.suffix.lower() != CHECKPOINT_SUFFIX:
        raise UserError(f"{arguments.model}: expected a native checkpoint (.safetensors)")
    if (arguments.annotations is None) != (arguments.images is None):
        raise UserError("--annotations and --images belong together")


def _origin(checkpoint: Path) -> str:
    """Program, version and checkpoint with its hash: what a file was made from can be told years later."""
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    try:
        program = f"handeye {version('handeye')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        program = "handeye"
    return f"{program} from {checkpoint.name} (sha256 {digest})"


def _average_precision(arguments: Arguments, path: Path) -> dict[str, float]:
    if arguments.annotations is None or arguments.images is None:
        return {}
    from tools.evaluate import detect_in_images
    from vision.evaluation.average_precision import GroundTruth, evaluate_boxes

    ground_truth = GroundTruth(arguments.annotations)
    detector = ImageDetector.load(path, score_threshold=0.001, iou_threshold=0.65, clip_boxes=False)
    found, _ = detect_in_images(detector, ground_truth, arguments.images)
    return {"float32": evaluate_boxes(ground_truth, found).AP}


def _print_report(path: Path, parities: Sequence[EngineParity], average_precision: dict[str, float]) -> None:
    console = Console()
    title = f"{path} ({path.stat().st_size / 1e6:.2f} MB): worst difference from torch"
    table = Table(title=title, title_justify="left")
    for heading in ("engine", "boxes px", "scores", "detections px", "unmatched"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for parity in parities:
        figures = (f"{parity.boxes_px:.1e}", f"{parity.scores:.1e}", f"{parity.detections_px:.1e}")
        table.add_row(parity.engine, *figures, str(parity.unmatched))
    console.print(table)
    for precision, figure in average_precision.items():
        console.print(f"AP {precision}: {figure:.4f}", highlight=False)

"""Pack a detector for an edge device: models, golden images with their detections, and how to run it there.

`handeye verify` checks the bundle on the device.

examples:
  handeye bundle model.onnx --int8 model.int8.onnx --output model.handeye.zip
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.evaluation.torch_session import CHECKPOINT_SUFFIX
from handeye.vision.files import write_json
from handeye.vision.images import list_images, read_image
from handeye.vision.runtime.engine_file import sha256_of
from handeye.vision.runtime.manifest import read_manifest

if TYPE_CHECKING:
    from handeye.export.bundle.index import BundleIndex, Precision

DEFAULT_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `handeye bundle` takes."""

    model: Positional[Path]
    """The float32 ONNX file that handeye exported, or a native checkpoint (.safetensors), which is exported first."""
    output: Path = Path("model.handeye.zip")
    """The bundle to write."""
    fp16: Path | None = None
    """The float16 ONNX file of the same detector."""
    int8: Path | None = None
    """The int8 ONNX file of the same detector."""
    images: Path | None = None
    """Folder of golden images; without it the simulator renders some, which suits the tabletop detector."""
    count: int = DEFAULT_IMAGES
    """How many golden images."""
    seed: int = 7
    """Seed of the rendered scenes."""
    wheel: Path | None = None
    """handeye's own wheel (pip wheel --no-deps --wheel-dir dist .), for devices that cannot download it."""
    json: Path | None = None
    """Write what was packed to this file."""


def run(arguments: Arguments) -> int:
    """Pack and print what is inside."""
    from handeye.export.bundle.pack import make_bundle

    console = Console()
    if arguments.count < 1:
        raise UserError(f"--count must be at least 1, got {arguments.count}")
    with tempfile.TemporaryDirectory() as folder:
        models = _models(arguments, Path(folder))
        images = _golden_images(arguments, read_manifest(models["float32"]).class_names)
        index = make_bundle(arguments.output, models, images, wheel=arguments.wheel)
    _report(arguments, index, console)
    return 0


def _models(arguments: Arguments, folder: Path) -> dict[Precision, Path]:
    models: dict[Precision, Path] = {"float32": _float32_model(arguments.model, folder)}
    if arguments.fp16 is not None:
        models["float16"] = arguments.fp16
    if arguments.int8 is not None:
        models["int8"] = arguments.int8
    return models


def _float32_model(model: Path, folder: Path) -> Path:
    if model.suffix.lower() != CHECKPOINT_SUFFIX:
        return model
    from handeye.export.graph.onnx_export import export_onnx
    from handeye.vision.checkpoints.native import load_detector

    path = folder / f"{model.stem}.onnx"
    export_onnx(load_detector(model), path, made_by=model.name)
    return path


def _golden_images(arguments: Arguments, class_names: Sequence[str]) -> list[UInt8[np.ndarray, "h w 3"]]:
    if arguments.images is None:
        return _render(class_names, arguments.count, arguments.seed)
    if not arguments.images.is_dir():
        raise UserError(f"--images {arguments.images}: is no folder")
    paths = list_images(arguments.images)
    if not paths:
        raise UserError(f"--images {arguments.images}: the folder holds no image")
    return [read_image(path) for path in paths[: arguments.count]]


def _render(class_names: Sequence[str], count: int, seed: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Images from the simulator; UserError when the detector knows none of its objects."""
    from handeye.robot.simulator.objects import CUBE_CLASSES, Profile

    if not set(class_names) & set(CUBE_CLASSES):
        raise UserError(
            f"the simulator renders {', '.join(CUBE_CLASSES)}; this detector knows {', '.join(class_names[:5])}; "
            "give a folder of golden images: --images"
        )
    from handeye.robot.config import WorkCellConfig
    from handeye.robot.simulator.renderers import RendererKind
    from handeye.robot.simulator.samples import SampleRenderer

    renderer = SampleRenderer(WorkCellConfig(), Profile.HELD_OUT, RendererKind.RAYS)
    try:
        return [renderer.render(seed, number).image_rgb for number in range(count)]
    finally:
        renderer.close()


def _report(arguments: Arguments, index: BundleIndex, console: Console) -> None:
    precisions = [model.precision for model in index.models]
    found = {model.precision: sum(len(one.scores) for one in model.golden.values()) for model in index.models}
    size = arguments.output.stat().st_size
    summary = f"{arguments.output} ({size / 1e6:.2f} MB): {', '.join(precisions)}; {len(index.images)} golden images"
    console.print(f"{summary} with {found['float32']} detections", highlight=False, soft_wrap=True)
    if "int8" not in precisions:
        console.print("no int8 model inside; add it with --int8 FILE", highlight=False, soft_wrap=True)
    console.print(f"check it with: handeye verify {arguments.output}", highlight=False, soft_wrap=True)
    if arguments.json is not None:
        content: dict[str, object] = {
            "bundle": str(arguments.output),
            "bytes": size,
            "sha256": sha256_of(arguments.output.read_bytes()),
            "models": precisions,
            "images": len(index.images),
            "detections": found,
            "made_by": index.made_by,
        }
        write_json(arguments.json, content)

"""Convert a published checkpoint into a native one: safetensors with the configuration inside.

examples:
  handeye import yolox_nano yolox_nano.pth --output yolox_nano.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.checkpoints.published import load_official, read_published_file
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass
class Arguments:
    """Arguments of `handeye import`."""

    name: Positional[str]
    """The published detector, for example yolox_nano; `handeye models` lists them."""
    checkpoint: Positional[Path]
    """The file as its authors publish it: .pth, .pt or .safetensors."""
    output: Path
    """Native checkpoint to write (.safetensors)."""
    num_classes: int | None = None
    """Number of classes of weights that were not trained on COCO; names become class_0, class_1, ..."""
    class_names: tuple[str, ...] = ()
    """Class names in order, when they are not COCO's."""
    json: Path | None = None
    """Write a summary as JSON to this file."""


def run(arguments: Arguments) -> int:
    """Read, check, rename, write."""
    if arguments.output.suffix != ".safetensors":
        raise UserError(f"--output {arguments.output}: expected a file name that ends in .safetensors")
    weights = read_published_file(arguments.checkpoint)
    detector = load_official(arguments.name, weights, _class_names(arguments))
    save_detector(arguments.output, detector, {"imported_as": arguments.name, "source": arguments.checkpoint.name})
    parameters = sum(weight.numel() for weight in detector.parameters())
    Console().print(
        f"{arguments.output}: {arguments.name}, {parameters:,} parameters, {detector.config.num_classes} classes",
        highlight=False,
        soft_wrap=True,
    )
    if arguments.json is not None:
        summary = {"name": arguments.name, "output": str(arguments.output), "parameters": parameters}
        write_json(arguments.json, {**summary, "class_names": list(detector.config.class_names)})
    return 0


def _class_names(arguments: Arguments) -> tuple[str, ...] | None:
    names, num_classes = arguments.class_names, arguments.num_classes
    if names and num_classes is not None and len(names) != num_classes:
        raise UserError(f"--num-classes is {num_classes} but --class-names gives {len(names)}")
    if names:
        return names
    if num_classes is None:
        return None
    if num_classes < 1:
        raise UserError(f"--num-classes {num_classes}: expected at least 1")
    return tuple(f"class_{index}" for index in range(num_classes))

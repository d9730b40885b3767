"""Convert a data set to COCO JSON, Pascal VOC or YOLO text: a new folder with annotations and images.

The source's format is recognised: a .json file (COCO), a folder or image list (VOC), a data.yaml or folder (YOLO).
Class ids, boxes and, in COCO, masks are kept; what a format cannot hold is counted.

examples:
  handeye convert-dataset voc/ --to coco --output coco
  handeye convert-dataset data.yaml --split val --to coco --output coco_val
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.vision.files import write_json


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of `handeye convert-dataset`."""

    source: Positional[Path]
    """COCO file, VOC folder or image list, YOLO data.yaml or folder."""
    to: Literal["coco", "voc", "yolo"]
    """Format to write."""
    output: Path
    """New folder for annotations and images; it must not exist."""
    images: Path | None = None
    """Folder of the images; found automatically in a usual layout."""
    place: Literal["link", "copy"] = "link"
    """Link the images into the new folder, or copy them."""
    split: str = "train"
    """Which split of a data.yaml to read."""
    skip_broken: bool = False
    """Skip and list broken entries instead of rejecting the data set."""
    json: Path | None = None
    """Write the counts to this file."""


def run(arguments: Arguments) -> int:
    """Convert and report counts."""
    from handeye.vision.data.formats import convert, find_images, format_of, read_annotations
    from handeye.vision.data.image_files import without_missing

    images = find_images(arguments.source, arguments.images, arguments.split)
    annotations = read_annotations(
        arguments.source,
        images,
        split=arguments.split,
        keep_masks=arguments.to == "coco",
        skip_broken=arguments.skip_broken,
    )
    if arguments.skip_broken:
        annotations = without_missing(annotations, images)
    unsaid = convert(annotations, images, arguments.to, arguments.output, arguments.place)
    left_out = {reason: count for reason, count in annotations.dropped.items()}
    for omission in unsaid.left_out:
        left_out[omission.reason] = left_out.get(omission.reason, 0) + 1
    result = {
        "source_format": format_of(arguments.source),
        "format": arguments.to,
        "output": str(arguments.output),
        "images": len(annotations),
        "boxes": annotations.num_boxes() - len(unsaid.left_out),
        "classes": list(annotations.categories.names),
        "left_out": left_out,
    }
    _print(result, [f"{item.item}: {item.reason}" for item in (*annotations.left_out, *unsaid.left_out)])
    if arguments.json is not None:
        write_json(arguments.json, result)
    return 0


def _print(result: dict[str, object], items: list[str]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{result['output']}: {result['images']} images, {result['boxes']} boxes as {result['format']}")
    if not result["boxes"]:
        console.print("none of these images has a box")
    for item in items[:10]:
        console.print(f"left out: {item}", markup=False)
    if len(items) > 10:
        console.print(f"left out: {len(items) - 10} more")

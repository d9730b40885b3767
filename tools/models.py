"""List the model zoo: parameters, GFLOPs, published accuracy, licences and the address of the weights.

Parameters and GFLOPs are counted in our networks; accuracies are as published.

examples:
  handeye models
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from handeye.vision.backbones.build import count_parameters
from handeye.vision.checkpoints.torchvision_backbones import (
    LICENCE,
    TOP1_SOURCE,
    PublishedBackbone,
    published_backbones,
)
from handeye.vision.checkpoints.zoo import PublishedModel, published_models
from handeye.vision.files import write_json


@dataclass
class Arguments:
    """Arguments of `handeye models`."""

    json: Path | None = None
    """Write the table as JSON to this file."""


def run(arguments: Arguments) -> int:
    """Print the table, and write it when asked to."""
    rows = [describe(model) for model in published_models().values()]
    backbones = [describe_backbone(backbone) for backbone in published_backbones().values()]
    console = Console(highlight=False, soft_wrap=True)
    print_models(rows, console)
    print_backbones(backbones, console)
    if arguments.json is not None:
        write_json(arguments.json, {"models": rows, "backbones": backbones})
    return 0


def describe(model: PublishedModel) -> dict[str, Any]:
    """One row of the table."""
    height, width = model.config.preprocessing.size_hw
    return {
        "name": model.name,
        **asdict(model.cost),
        "input_hw": [height, width],
        "classes": model.config.num_classes,
        "coco_ap": model.coco_ap,
        "coco_ap_source": model.ap_source,
        "code_licence": model.code_licence,
        "weights_licence": model.weights_licence,
        "weights": model.weights.address,
        "weights_sha256_start": model.weights.sha256_start,
    }


def describe_backbone(backbone: PublishedBackbone) -> dict[str, Any]:
    """One row of the table of backbones."""
    return {
        "name": backbone.name,
        "parameters": count_parameters(backbone.config),
        "imagenet_top1": backbone.imagenet_top1,
        "imagenet_top1_source": TOP1_SOURCE,
        "code_licence": LICENCE,
        "weights_licence": LICENCE,
        "weights": backbone.weights.address,
        "weights_sha256_start": backbone.weights.sha256_start,
    }


def print_models(rows: list[dict[str, Any]], console: Console) -> None:
    """The detectors for the eye, and how to bring published weights in."""
    table = _table("Detectors whose published weights can be imported", "name", "param.", "GFLOPs", "input", "AP")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['gflops']:.2f}",
            "{}x{}".format(*row["input_hw"]),
            f"{row['coco_ap']:.3f}",
            _licence(row),
        )
    console.print(table)
    sources = sorted({row["coco_ap_source"] for row in rows})
    console.print(f"GFLOPs of one image at its input size; AP as published ({'; '.join(sources)}). Published weights:")
    _print_addresses(rows, console)
    console.print(
        "Bring them in with: handeye download NAME, then handeye import NAME FILE --output NAME.safetensors\n"
    )


def print_backbones(rows: list[dict[str, Any]], console: Console) -> None:
    """The backbones for the eye."""
    table = _table("Backbones whose published weights can be read", "name", "param.", "top-1")
    for row in rows:
        size, accuracy = f"{row['parameters'] / 1e6:.2f} M", f"{row['imagenet_top1']:.4f}"
        table.add_row(row["name"], size, accuracy, _licence(row))
    console.print(table)
    console.print(f"Top-1 on ImageNet at 224x224 as published ({TOP1_SOURCE}). Published weights:")
    _print_addresses(rows, console)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in (*headings, "licence"):
        is_number = heading in {"param.", "GFLOPs", "AP", "top-1"}
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    return table


def _licence(row: dict[str, Any]) -> str:
    """Of code and weights; both are said where they differ."""
    code, weights = row["code_licence"], row["weights_licence"]
    return code if code == weights else f"{code}, weights {weights}"


def _print_addresses(rows: list[dict[str, Any]], console: Console) -> None:
    """A star marks a file of which no part of the hash is published: what comes then cannot be checked."""
    for row in rows:
        mark = " " if row["weights_sha256_start"] else "*"
        console.print(f"  {row['name']:<16} {mark} {row['weights']}")
    if not all(row["weights_sha256_start"] for row in rows):
        console.print("  * its authors publish no hash, so a download of it cannot be checked against one")

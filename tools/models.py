"""List the model zoo: size, cost, published accuracy, licences and where the weights come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vision.checkpoints.zoo import PublishedModel, count_cost, published_models
from vision.files import write_json


@dataclass
class Arguments:
    """What `handeye models` takes."""

    json: Path | None = None
    """Write the table as JSON to this file."""


def run(arguments: Arguments) -> int:
    """Print the table, and write it when asked to."""
    rows = [describe(model) for model in published_models().values()]
    print_table(rows)
    if arguments.json is not None:
        write_json(arguments.json, {"models": rows})
    return 0


def describe(model: PublishedModel) -> dict[str, Any]:
    """One row of the table."""
    height, width = model.config.preprocessing.size_hw
    return {
        "name": model.name,
        **asdict(count_cost(model.config)),
        "input_hw": [height, width],
        "classes": model.config.num_classes,
        "coco_ap": model.coco_ap,
        "coco_ap_source": model.ap_source,
        "code_licence": model.code_licence,
        "weights_licence": model.weights_licence,
        "weights": model.weights_address,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows for the eye, and how to bring published weights in."""
    table = Table(title="Detectors whose published weights can be imported", title_justify="left")
    for heading in ("name", "param.", "GFLOPs", "input", "AP", "code", "weights"):
        table.add_column(heading, justify="right" if heading in {"param.", "GFLOPs", "AP"} else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['gflops']:.2f}",
            "{}x{}".format(*row["input_hw"]),
            f"{row['coco_ap']:.3f}",
            row["code_licence"],
            row["weights_licence"],
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    sources = sorted({row["coco_ap_source"] for row in rows})
    console.print(f"GFLOPs of one image at its input size; AP as published ({'; '.join(sources)}). Published weights:")
    for row in rows:
        console.print(f"  {row['name']:<11} {row['weights']}")
    console.print("Bring them in with: handeye import NAME CHECKPOINT --output FILE.safetensors")

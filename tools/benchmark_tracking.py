"""Tracking metrics (HOTA, IDF1, position error) on the simulated tabletop, where the ground truth is exact.

Cubes are pushed, are occluded by the arm and pass look-alikes; depth has a stereo camera's noise, boxes are jittered.

examples:
  handeye benchmark-tracking --scenes 2 --renderer rays
  handeye benchmark-tracking --scenario push --json tracking.json
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from handeye.vision.errors import ConfigError
from handeye.vision.files import write_json

console = Console(highlight=False)


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye benchmark-tracking`. Scene i of a scenario depends on its number and the renderer only."""

    scenes: int = 5
    """Scenes of each scenario."""
    seed: int = 0
    """Number of the first scene."""
    scenario: Literal["all", "push", "arm", "crossing"] = "all"
    """Run only this scenario."""
    visibility: Literal["arm", "depth", "none"] = "arm"
    """What the tracker knows of occlusion: depth and the arm's joints, depth alone, or nothing."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """auto takes OpenGL where it works; rays needs none."""
    json: Path | None = None
    """Write the metrics to this file."""


def run(arguments: Arguments) -> int:
    """Print the metrics of each scenario and of all together."""
    from handeye.robot.config import WorkCellConfig
    from handeye.robot.simulator.renderers import RendererKind
    from handeye.robot.simulator.tracking_benchmark import Visibility, run_scenarios, summarise
    from handeye.robot.simulator.tracking_scenarios import ScenarioKind

    if arguments.scenes < 1 or arguments.seed < 0:
        raise ConfigError("expected --scenes of at least 1 and --seed of at least 0")
    kinds = tuple(ScenarioKind) if arguments.scenario == "all" else (ScenarioKind(arguments.scenario),)
    seeds = range(arguments.seed, arguments.seed + arguments.scenes)
    results = list(
        run_scenarios(
            kinds,
            seeds,
            visibility=Visibility(arguments.visibility),
            renderer=RendererKind(arguments.renderer),
            cell=WorkCellConfig(),
        )
    )
    rows = {kind.value: _scores(summarise([result for result in results if result.kind is kind])) for kind in kinds}
    rows["all"] = _scores(summarise(results))
    _print(rows)
    if arguments.json is not None:
        write_json(
            arguments.json,
            {"visibility": arguments.visibility, "scenes": len(results), **rows["all"], "scenarios": rows},
        )
    return 0


def _scores(summary: Any) -> dict[str, float | int]:
    figures = asdict(summary)
    return {**figures.pop("scores"), **figures}


def _print(rows: dict[str, dict[str, float | int]]) -> None:
    names = {
        "HOTA": "HOTA",
        "IDF1": "IDF1",
        "MOTA": "MOTA",
        "id_switches": "switches",
        "hidden": "hidden",
        "false_lost": "lost while hidden",
        "error_mm_median": "median mm",
        "error_mm_p95": "95 % mm",
        "hidden_error_mm_median": "hidden, median mm",
    }
    table = Table("scenario", "frames", *names.values())
    for scenario, figures in rows.items():
        cells = [figures[key] for key in names]
        shown = [f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        table.add_row(scenario, str(figures["frames"]), *shown)
    console.print(table)

"""Pick a cube and drop it in the bin, again and again: simulated episodes, judged, timed and reported.

Any value of the configuration can be given behind it: `timeout_s=30`, `--skill.grasp.max-attempts 2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from robot.control.episode import EpisodeResult
from robot.pick import SHIPPED_DETECTOR, Output, PickConfig, run_episodes
from robot.simulator.rendering import RendererKind
from robot.viewer.episode_files import describe_result
from robot.viewer.report import summarise_episodes
from tools.command_line import Positional
from vision.config import dump_config, load_config
from vision.errors import UserError
from vision.files import replacing, write_json


@dataclass(frozen=True)
class Arguments:
    """What `handeye pick` is told."""

    config: Positional[Path | None] = None
    """Configuration of the cell, for example configs/robot/pick.yaml; without one all defaults hold."""
    episodes: int = 1
    """How many episodes to run."""
    seed: int = 0
    """Seed of the first episode; episode k has seed + k."""
    detector: Path | None = None
    """Detector as ONNX file; by default the one that comes with handeye."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How the simulated camera draws: with OpenGL, with rays and no OpenGL, or whichever works."""
    workers: int = 1
    """Processes that share the episodes; the results do not depend on it."""
    output: Path | None = None
    """Folder for the report, the configuration and a folder of files for each episode."""
    video: bool = True
    """With --output: film each episode and lay it out on a contact sheet."""
    json: Path | None = None
    """Write the report to this file too."""
    arm: Literal["simulator", "ur"] = "simulator"
    """Which arm moves."""
    camera: Literal["simulator", "realsense"] = "simulator"
    """Which camera looks."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Run the episodes; 0 when at least one of them succeeded, 1 when none did or Ctrl-C cut the run short."""
    _check(arguments)
    detector = _find_detector(arguments)
    config = read_pick_config(arguments, overrides)
    console = Console(highlight=False, soft_wrap=True)
    output = None if arguments.output is None else Output(arguments.output, arguments.video)
    if output is not None:
        with replacing(output.folder / "config.yaml") as beside:
            beside.write_text(dump_config(config), encoding="utf-8")
    results = _run_and_show(config, arguments, detector, output, console)
    report = summarise_episodes(results) | {
        "seed": arguments.seed,
        "detector": detector.name,
        "renderer": config.simulator.renderer.value,
    }
    for path in _report_paths(arguments):
        write_json(path, report)
    show_report(report, console)
    if output is not None:
        kinds = "ticks.jsonl, film.mp4, contact_sheet.png" if output.video else "ticks.jsonl"
        console.print(
            f"report: {output.folder / 'report.json'}; for each episode {output.folder}/episode_SEED/: {kinds}"
        )
    return 0 if report["successes"] and len(results) == arguments.episodes else 1


def read_pick_config(arguments: Arguments, overrides: Sequence[str]) -> PickConfig:
    """The configuration file or the defaults, with overrides; a renderer named on the command line wins."""
    words = list(overrides)
    if arguments.renderer != RendererKind.AUTO.value:
        words.append(f"simulator.renderer={arguments.renderer}")
    return load_config(PickConfig, arguments.config, words)


def show_report(report: dict[str, Any], console: Console) -> None:
    """Print success with its interval, the cycle time, what went wrong, and the time of each stage."""
    rate, low, high = (f"{100 * report[key]:.1f}" for key in ("success_rate", "wilson_low", "wilson_high"))
    console.print(f"\n{report['successes']} of {report['episodes']} placed: {rate} % (95 % interval {low} to {high} %)")
    if report["cycle_s_median"] is not None:
        median_s, mean_s = report["cycle_s_median"], report["cycle_s_mean"]
        console.print(f"cycle time, simulated: median {median_s:.2f} s, mean {mean_s:.2f} s")
    console.print(f"gate violations: {report['gate_violations']}")
    for reason, count in report["failures"].items():
        console.print(f"failed, {reason}: {count}")
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", "runs", title="time per stage, real clock")
    for name, stage in report["stages"].items():
        table.add_row(name, *(f"{stage[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")), str(stage["count"]))
    console.print(table)


def _run_and_show(
    config: PickConfig, arguments: Arguments, detector: Path, output: Output | None, console: Console
) -> list[EpisodeResult]:
    seeds = range(arguments.seed, arguments.seed + arguments.episodes)
    results = []
    try:
        for result in run_episodes(config, seeds, detector, output=output, workers=arguments.workers):
            console.print(describe_result(result))
            results.append(result)
    except KeyboardInterrupt:
        if not results:
            raise
        console.print(f"interrupted: the report is of the first {len(results)} of {len(seeds)} episodes")
    return results


def _check(arguments: Arguments) -> None:
    """Raise UserError for what cannot be run."""
    if arguments.arm != "simulator" or arguments.camera != "simulator":
        raise UserError(
            f"--arm {arguments.arm} --camera {arguments.camera}: only the simulator can pick so far; "
            "leave both out, or give --arm simulator --camera simulator"
        )
    for name, value in (("episodes", arguments.episodes), ("workers", arguments.workers)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: expected 0 or more")


def _find_detector(arguments: Arguments) -> Path:
    """The file to use. Raises UserError, saying how to make one, where it does not exist."""
    detector = arguments.detector or SHIPPED_DETECTOR
    if not detector.is_file():
        raise UserError(
            f"{detector}: there is no such detector; name one with --detector FILE.onnx, or make it with "
            "`handeye train configs/detector/tabletop_nano.yaml` and `handeye export`"
        )
    return detector


def _report_paths(arguments: Arguments) -> list[Path]:
    """Where the report goes, each place once."""
    paths = [] if arguments.output is None else [arguments.output / "report.json"]
    return paths if arguments.json is None or arguments.json in paths else [*paths, arguments.json]

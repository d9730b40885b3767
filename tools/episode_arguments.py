"""What the verbs that play simulated episodes share: their arguments, a line per episode, and the printed report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.viewer.episode_view import describe_result
from handeye.vision.files import write_json


@dataclass(frozen=True, kw_only=True)
class EpisodeArguments:
    """Which episodes, with what, and where their report goes."""

    episodes: int = 1
    """How many episodes to run."""
    seed: int = 0
    """Seed of the first episode; episode k has seed + k."""
    detector: Path | None = None
    """Detector as ONNX file; by default the one that ships with handeye."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How the simulated camera renders: with OpenGL, by ray casting without it, or whichever works."""
    workers: int = 1
    """Processes that share the episodes; the results do not depend on it."""
    output: Path | None = None
    """Folder for the report, the configuration and a folder of files for each recorded episode."""
    json: Path | None = None
    """Write the report to this file too."""

    def finish(self, report: dict[str, Any], console: Console) -> None:
        """Print the report, say where Ctrl-C cut it short, and write --json."""
        if report["episodes"] < self.episodes:
            console.print(f"interrupted: the report is of the first {report['episodes']} of {self.episodes} episodes")
        show_report(report, console)
        if self.json is not None:
            write_json(self.json, report)


def show_episode(result: EpisodeResult) -> None:
    """Print one line."""
    Console(highlight=False, soft_wrap=True).print(describe_result(result))


def show_report(report: dict[str, Any], console: Console) -> None:
    """Print success with its interval, the cycle time, the failures, and the time of each stage."""
    rate, low, high = (f"{100 * report[key]:.1f}" for key in ("success_rate", "wilson_low", "wilson_high"))
    console.print(f"\n{report['successes']} of {report['episodes']} placed: {rate} % (95 % interval {low} to {high} %)")
    if report["cycle_s_median"] is not None:
        median_s, mean_s = report["cycle_s_median"], report["cycle_s_mean"]
        console.print(f"cycle time, simulated: median {median_s:.2f} s, mean {mean_s:.2f} s")
    console.print(f"gate violations: {report['gate_violations']}")
    for title, key in (("limits broken", "limit_breaches"), ("arm touched", "contacts")):
        if report[key]:
            console.print(f"{title}: {', '.join(f'{name} {count}' for name, count in report[key].items())}")
    for reason, count in report["failures"].items():
        console.print(f"failed, {reason}: {count}")
    show_punctuality(report, console)
    table = Table("stage", "p50 ms", "p95 ms", "p99 ms", "runs", title="time per stage, real clock")
    for name, stage in report["stages"].items():
        table.add_row(name, *(f"{stage[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")), str(stage["count"]))
    console.print(table)


def show_punctuality(report: dict[str, Any], console: Console) -> None:
    """Print how well a real clock was kept, and how long a frame takes to become a command."""
    if "period" in report:
        period = report["period"]
        missed = f"{100 * period['missed_fraction']:.3f} % of {period['count']} missed"
        console.print(f"control periods: late by {period['lateness_p99_ms']:.2f} ms (p99), {missed}")
    if "latency_ms" in report:
        latency = report["latency_ms"]
        rate = f"{1e3 / latency['p50']:.0f} a second one after another"
        console.print(f"frame exposure to command: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, so {rate}")

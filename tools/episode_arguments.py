"""What the verbs that play simulated episodes share: their arguments, playing with a line for each, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.pick import SHIPPED_DETECTOR, PickConfig
from handeye.robot.simulator.renderers import RendererKind
from handeye.robot.viewer.episode_view import describe_result
from handeye.robot.viewer.report import summarise_episodes
from handeye.vision.config import dump_config, load_config
from handeye.vision.errors import UserError
from handeye.vision.files import replacing, write_json


@dataclass(frozen=True, kw_only=True)
class EpisodeArguments:
    """Which episodes, on what, and where their report goes."""

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
    """Folder for the report, the configuration and a folder of files for each filmed or recorded episode."""
    json: Path | None = None
    """Write the report to this file too."""

    @property
    def seeds(self) -> range:
        """Of all episodes, in their order."""
        return range(self.seed, self.seed + self.episodes)

    def check(self) -> None:
        """Raise UserError for what cannot be run."""
        for name, value in (("episodes", self.episodes), ("workers", self.workers)):
            if value < 1:
                raise UserError(f"--{name} {value}: expected at least 1")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: expected 0 or more")

    def find_detector(self) -> Path:
        """The file to use. Raises UserError, saying how to make one, where it does not exist."""
        detector = self.detector or SHIPPED_DETECTOR
        if not detector.is_file():
            raise UserError(
                f"{detector}: there is no such detector; name one with --detector FILE.onnx, or make it with "
                "`handeye train configs/detector/tabletop_nano.yaml` and `handeye export`"
            )
        return detector

    def read_config(self, path: Path | None, overrides: Sequence[str]) -> PickConfig:
        """The configuration file or the defaults, with overrides; a renderer named on the command line wins."""
        words = list(overrides)
        if self.renderer != RendererKind.AUTO.value:
            words.append(f"simulator.renderer={self.renderer}")
        return load_config(PickConfig, path, words)

    def save_config(self, config: PickConfig) -> None:
        """Leave the whole configuration in the output folder, if there is one."""
        if self.output is not None:
            with replacing(self.output / "config.yaml") as beside:
                beside.write_text(dump_config(config), encoding="utf-8")

    def describe(self, config: PickConfig, results: Sequence[EpisodeResult]) -> dict[str, Any]:
        """The report, with what it was measured on."""
        return summarise_episodes(results) | {
            "seed": self.seed,
            "detector": self.find_detector().name,
            "renderer": config.simulator.renderer.value,
        }

    def save_report(self, report: dict[str, Any]) -> None:
        """Write the report to each place where it shall go, once."""
        paths = [] if self.output is None else [self.output / "report.json"]
        for path in paths if self.json is None or self.json in paths else [*paths, self.json]:
            write_json(path, report)


def play_and_show(episodes: Iterator[EpisodeResult], wanted: int, console: Console) -> list[EpisodeResult]:
    """The results, each shown in a line when it comes; Ctrl-C keeps those that are there."""
    results = []
    try:
        for result in episodes:
            console.print(describe_result(result))
            results.append(result)
    except KeyboardInterrupt:
        if not results:
            raise
        console.print(f"interrupted: the report is of the first {len(results)} of {wanted} episodes")
    return results


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

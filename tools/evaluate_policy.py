"""How often a trained policy picks: simulated episodes of unseen seeds, judged, with interval, reasons and films.

It sees the cube through the detector, as on a robot. Any value of the configuration can be given behind it:
`learned.blending.kind=synchronous`, `random_faults.nudge_chance=1`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.pick import Output, PickConfig, run_episodes
from handeye.tools.command_line import Positional
from handeye.tools.episode_arguments import EpisodeArguments, play_and_show, show_report
from handeye.vision.errors import ModelFileError, UserError


@dataclass(frozen=True, kw_only=True)
class Arguments(EpisodeArguments):
    """What `handeye evaluate-policy` is told."""

    checkpoint: Positional[Path]
    """A checkpoint of `handeye train-policy` or an exported policy, *.safetensors or *.onnx."""
    config: Path | None = None
    """Configuration of the cell, for example configs/robot/pick.yaml; without one all defaults hold."""
    episodes: int = 200
    """How many episodes to run."""
    seed: int = 1000
    """Seed of the first episode; episode k has seed + k. Demonstrations have their seeds from 0 on."""
    films: int = 5
    """With --output: play so many of the failures again and film them."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Run the episodes; 0 when all were run, however they ended, 1 when Ctrl-C cut the run short."""
    arguments.check()
    if arguments.films < 0:
        raise UserError(f"--films {arguments.films}: expected 0 or more")
    arguments.find_detector()
    config = arguments.read_config(arguments.config, overrides)
    arguments.save_config(config)
    console = Console(highlight=False, soft_wrap=True)
    with as_onnx(arguments.checkpoint) as policy:
        episodes = _play(arguments, config, policy, arguments.seeds, None)
        results = play_and_show(episodes, arguments.episodes, console)
        report = arguments.describe(config, results) | {
            "policy": arguments.checkpoint.name,
            "policy_sha256": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest(),
            "blending": config.learned.blending.model_dump(mode="json"),
            "random_faults": config.random_faults.model_dump(mode="json"),
        }
        show_report(report, console)
        report["films"] = _film_failures(arguments, config, policy, results, console)
    arguments.save_report(report)
    return 0 if len(results) == arguments.episodes else 1


@contextmanager
def as_onnx(checkpoint: Path) -> Iterator[Path]:
    """The policy as ONNX file, which a checkpoint is exported to for as long as the context lasts.

    Raises ModelFileError for what is no policy, and for a checkpoint whose export computes something else.
    """
    if checkpoint.suffix == ".onnx":
        yield checkpoint
        return
    from handeye.tools.export_policy import (  # needs torch, which an exported policy does not
        EXPORTED,
        export_checkpoint,
    )

    with tempfile.TemporaryDirectory() as folder:
        exported = export_checkpoint(checkpoint, Path(folder) / EXPORTED)
        if not exported.is_faithful:
            raise ModelFileError(f"{checkpoint}: its export computes something else: {exported.describe()}")
        yield exported.path


def _play(
    arguments: Arguments, config: PickConfig, policy: Path, seeds: Sequence[int], output: Output | None
) -> Iterator[EpisodeResult]:
    detector, workers = arguments.find_detector(), min(arguments.workers, max(len(seeds), 1))
    return run_episodes(config, seeds, detector, output=output, workers=workers, policy=policy)


def _film_failures(
    arguments: Arguments, config: PickConfig, policy: Path, results: Sequence[EpisodeResult], console: Console
) -> dict[str, str]:
    """Play the first failures again, which goes as before, and film them: seed -> folder of its files."""
    failed = [result.seed for result in results if not result.success][: arguments.films]
    if arguments.output is None or not failed:
        return {}
    output = Output(arguments.output, video=True)
    for _ in _play(arguments, config, policy, failed, output):
        pass
    folders = {str(seed): str(output.episode_folder(seed)) for seed in failed}
    console.print(f"failures on film: {', '.join(folders.values())}")
    return folders

"""Success rate of a trained policy over simulated episodes with unseen seeds, with its 95 % interval.

Reasons of failures are counted; with --output the first failures are recorded as videos. Any value of the
configuration can be overridden behind it: `random_faults.nudge_chance=0.5`.

examples:
  handeye evaluate-policy runs/pick_state/policy.onnx --episodes 200 --workers 4
  handeye evaluate-policy runs/pick_state/best.safetensors --output runs/evaluation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import handeye
from handeye.tools.command_line import Positional
from handeye.tools.episode_arguments import EpisodeArguments, show_episode


@dataclass(frozen=True, kw_only=True)
class Arguments(EpisodeArguments):
    """Arguments of `handeye evaluate-policy`."""

    policy: Positional[Path]
    """A checkpoint of `handeye train-policy` (.safetensors) or an exported policy (.onnx)."""
    config: Path | None = None
    """Configuration of the cell, for example configs/robot/pick.yaml; the defaults without one."""
    episodes: int = 200
    """How many episodes to run."""
    seed: int = 1000
    """Seed of the first episode; episode k has seed + k. Demonstrations have seeds from 0 on."""
    failure_videos: int = 5
    """With --output: how many of the failures to play again and record as videos."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Run the episodes; 0 when all were run, however they ended, 1 when Ctrl-C cut the run short."""
    report = handeye.evaluate_policy(
        arguments.policy,
        arguments.config,
        overrides,
        episodes=arguments.episodes,
        seed=arguments.seed,
        detector=arguments.detector,
        renderer=arguments.renderer,
        workers=arguments.workers,
        output=arguments.output,
        failure_videos=arguments.failure_videos,
        on_episode=show_episode,
        keep_interrupted=True,
    )
    console = Console(highlight=False, soft_wrap=True)
    arguments.finish(report, console)
    if report["failure_videos"]:
        console.print(f"videos of failures: {', '.join(report['failure_videos'].values())}")
    return 0 if report["episodes"] == arguments.episodes else 1

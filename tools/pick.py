"""Pick a cube and place it in the bin: simulated episodes with success rate, cycle time and latency.

Any value of the configuration can be overridden behind it: `timeout_s=30` or `--skill.grasp.max-attempts 2`.

examples:
  handeye pick
  handeye pick configs/robot/pick.yaml --episodes 20 --workers 4 --json report.json
  handeye pick --policy act --episodes 10 --output runs/pick
  handeye pick --faults frozen_camera --episodes 5
  handeye pick --clock real --episodes 3
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

import handeye
from handeye.tools.command_line import Positional
from handeye.tools.episode_arguments import EpisodeArguments, show_episode
from handeye.vision.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments(EpisodeArguments):
    """Arguments of `handeye pick`."""

    config: Positional[Path | None] = None
    """Configuration of the cell, for example configs/robot/pick.yaml; the defaults without one."""
    policy: Literal["scripted", "act"] = "scripted"
    """The policy: a scripted skill, or a network trained on demonstrations."""
    policy_file: Path | None = None
    """With --policy act: an exported policy; by default the one that ships with handeye."""
    video: bool = True
    """With --output: record a video and a contact sheet of each episode."""
    faults: str | None = None
    """Inject a fault into every episode: its name, or all for each kind in turn. The exit code then is 0 when no limit
    was broken, whether the object was placed or not."""
    clock: Literal["lockstep", "real"] = "lockstep"
    """The simulator's clock waits for the loop, and episodes repeat exactly; or everything runs in real time, in
    processes, and latency is measured."""
    arm: Literal["simulator", "ur"] = "simulator"
    """The arm to move."""
    camera: Literal["simulator", "realsense"] = "simulator"
    """The camera to use."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Run the episodes; 0 when at least one of them succeeded, 1 when none did or Ctrl-C cut the run short."""
    _check(arguments)
    report = handeye.pick(
        arguments.config,
        overrides,
        episodes=arguments.episodes,
        seed=arguments.seed,
        policy=arguments.policy_file or arguments.policy,
        detector=arguments.detector,
        renderer=arguments.renderer,
        workers=arguments.workers,
        output=arguments.output,
        video=arguments.video,
        faults=arguments.faults,
        clock=arguments.clock,
        on_episode=show_episode,
        keep_interrupted=True,
    )
    console = Console(highlight=False, soft_wrap=True)
    arguments.finish(report, console)
    if arguments.output is not None:
        kinds = "ticks.jsonl, video.mp4, contact_sheet.png" if arguments.video else "ticks.jsonl"
        folder = arguments.output
        console.print(f"report: {folder / 'report.json'}; for each episode {folder}/episode_SEED/: {kinds}")
    if arguments.faults is not None:
        show_faults(report, console)
        is_whole = report["episodes"] == arguments.episodes * len(report["faults"])
        return 0 if is_whole and not report["limit_breaches"] else 1
    return 0 if report["successes"] and report["episodes"] == arguments.episodes else 1


def show_faults(report: dict[str, Any], console: Console) -> None:
    """Print how the episodes with each fault ended."""
    table = Table("fault", "placed", "stopped by", "gave up", "longest stop s", "limits broken")
    for name, of in report["faults"].items():
        stops = ", ".join(of["stops"])
        gave_up = ", ".join(reason for reason in of["failures"] if reason not in of["stops"])
        longest = "" if of["stop_s_max"] is None else f"{of['stop_s_max']:.2f}"
        breaches = str(sum(of["limit_breaches"].values()))
        table.add_row(name, f"{of['successes']} of {of['episodes']}", stops, gave_up, longest, breaches)
    console.print(table)


def _check(arguments: Arguments) -> None:
    """Raise UserError for options that do not go together."""
    if arguments.arm != "simulator" or arguments.camera != "simulator":
        raise UserError(
            f"--arm {arguments.arm} --camera {arguments.camera}: only the simulator can pick so far; "
            "leave both out, or give --arm simulator --camera simulator"
        )
    if arguments.policy == "scripted" and arguments.policy_file is not None:
        raise UserError(f"--policy-file {arguments.policy_file}: only --policy act reads a file")

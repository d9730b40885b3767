"""Pick a cube and drop it in the bin, again and again: simulated episodes, judged, timed and reported.

Any value of the configuration can be given behind it: `timeout_s=30`, `--skill.grasp.max-attempts 2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from handeye.robot.pick import SHIPPED_POLICY, Output, run_episodes
from handeye.tools.command_line import Positional
from handeye.tools.episode_arguments import EpisodeArguments, play_and_show, show_report
from handeye.vision.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments(EpisodeArguments):
    """What `handeye pick` is told."""

    config: Positional[Path | None] = None
    """Configuration of the cell, for example configs/robot/pick.yaml; without one all defaults hold."""
    policy: Literal["scripted", "act"] = "scripted"
    """Who decides: a script of stages, or a network that was taught by demonstrations."""
    policy_file: Path | None = None
    """With --policy act: an exported policy; by default the one that comes with handeye."""
    video: bool = True
    """With --output: film each episode and lay it out on a contact sheet."""
    arm: Literal["simulator", "ur"] = "simulator"
    """Which arm moves."""
    camera: Literal["simulator", "realsense"] = "simulator"
    """Which camera looks."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Run the episodes; 0 when at least one of them succeeded, 1 when none did or Ctrl-C cut the run short."""
    _require_simulator(arguments)
    arguments.check()
    detector, policy = arguments.find_detector(), _find_policy(arguments)
    config = arguments.read_config(arguments.config, overrides)
    arguments.save_config(config)
    console = Console(highlight=False, soft_wrap=True)
    output = None if arguments.output is None else Output(arguments.output, arguments.video)
    episodes = run_episodes(config, arguments.seeds, detector, output=output, workers=arguments.workers, policy=policy)
    results = play_and_show(episodes, arguments.episodes, console)
    report = arguments.describe(config, results) | {"policy": "scripted" if policy is None else policy.name}
    arguments.save_report(report)
    show_report(report, console)
    if output is not None:
        kinds = "ticks.jsonl, video.mp4, contact_sheet.png" if output.video else "ticks.jsonl"
        console.print(
            f"report: {output.folder / 'report.json'}; for each episode {output.folder}/episode_SEED/: {kinds}"
        )
    return 0 if report["successes"] and len(results) == arguments.episodes else 1


def _require_simulator(arguments: Arguments) -> None:
    if arguments.arm != "simulator" or arguments.camera != "simulator":
        raise UserError(
            f"--arm {arguments.arm} --camera {arguments.camera}: only the simulator can pick so far; "
            "leave both out, or give --arm simulator --camera simulator"
        )


def _find_policy(arguments: Arguments) -> Path | None:
    """The file of the policy, None for the scripted one. Raises UserError where it does not exist."""
    if arguments.policy == "scripted":
        if arguments.policy_file is not None:
            raise UserError(f"--policy-file {arguments.policy_file}: only --policy act reads a file")
        return None
    policy = arguments.policy_file or SHIPPED_POLICY
    if not policy.is_file():
        raise UserError(
            f"{policy}: there is no such policy; name one with --policy-file FILE.onnx, or make it with "
            "`handeye record` and `handeye train-policy configs/policy/pick_state.yaml`"
        )
    return policy

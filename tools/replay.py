"""Replay a recorded episode in the simulator: deviation of the hand from the recording, and success of the pick.

Any value of the configuration can be overridden behind it, for a data set that was recorded with other values.

examples:
  handeye replay runs/demonstrations --episode 3 --output replay.mp4
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.demonstrations import RecordConfig, ReplayResult, read_trajectory, replay
from handeye.tools.command_line import Positional
from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye replay`."""

    dataset: Positional[Path]
    """Folder of the data set."""
    episode: int = 0
    """Episode number, from 0."""
    seed: int | None = None
    """Seed of the scene; by default the recorded one."""
    config: Path | None = None
    """Configuration of the recording; the defaults without one."""
    output: Path | None = None
    """Video of the replay (.mp4)."""
    tolerance_m: float = 0.01
    """Largest allowed deviation of the hand, in metres."""
    json: Path | None = None
    """Write the errors to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Replay and report; 0 when the hand stayed within the tolerance, 1 when it did not."""
    if arguments.tolerance_m <= 0:
        raise UserError(f"--tolerance-m {arguments.tolerance_m}: expected a distance above 0")
    config = load_config(RecordConfig, arguments.config, overrides)
    recorded = read_trajectory(EpisodeDataset.open(arguments.dataset), arguments.episode)
    played = replay(recorded, config, seed=arguments.seed, video=arguments.output)
    result = _summarise(played, arguments.episode)
    if arguments.json is not None:
        write_json(arguments.json, result)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"episode {arguments.episode}, seed {played.seed}, {len(played.tool_m)} frames: the hand is at most "
        f"{1000 * result['worst_tool_m']:.2f} mm from where it was (frame {result['worst_frame']}), on average "
        f"{1000 * result['mean_tool_m']:.2f} mm; joints at most {result['worst_joint_rad']:.4f} rad"
    )
    console.print("the pick succeeds again" if played.check.success else f"no pick: {played.check.reason}")
    if arguments.output is not None:
        console.print(f"video: {arguments.output}", markup=False)
    return 0 if result["worst_tool_m"] <= arguments.tolerance_m else 1


def _summarise(played: ReplayResult, episode: int) -> dict[str, float]:
    """What --json holds."""
    return {
        "episode": episode,
        "seed": played.seed,
        "frames": len(played.tool_m),
        "worst_tool_m": float(played.tool_m.max()),
        "mean_tool_m": float(played.tool_m.mean()),
        "worst_frame": int(played.tool_m.argmax()),
        "worst_joint_rad": float(played.joint_rad.max()),
        "success": played.check.success,
    }

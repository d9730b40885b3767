"""Convert an ACT policy that LeRobot stored into a native checkpoint with its normalisation statistics.

examples:
  handeye import-policy act_aloha/ --output act_aloha.safetensors --fps 50
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.learning.act_policy import ActPolicy
from handeye.robot.learning.checkpoint import save_policy
from handeye.robot.learning.data import signature_of
from handeye.robot.learning.import_lerobot import load_lerobot_policy
from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye import-policy`."""

    folder: Positional[Path]
    """The folder that LeRobot stored: config.json, model.safetensors and the statistics."""
    output: Path
    """Checkpoint to write (.safetensors)."""
    dataset: Path | None = None
    """Data set it was trained on: LeRobot's policies store neither the names of their state nor their rate. A policy
    with an environment may have been given the last numbers of the data set's state as that."""
    fps: int | None = None
    """Actions per second, where the data set does not hold it (ACT's: 50). Without the data set the state is named
    state_0, state_1, ..."""
    json: Path | None = None
    """Write a summary as JSON to this file."""


def run(arguments: Arguments) -> int:
    """Read, check, rename, write."""
    if arguments.output.suffix != ".safetensors":
        raise UserError(f"--output {arguments.output}: expected a file name that ends in .safetensors")
    policy = _load(arguments)
    save_policy(arguments.output, policy, {"source": f"LeRobot's {arguments.folder.name}"})
    parameters = sum(weight.numel() for weight in policy.parameters())
    inputs = ", ".join(f"{key} {shape}" for key, shape in policy.signature.input_shapes().items())
    print(f"{arguments.output}: ACT, {parameters:,} parameters, sees {inputs}")
    if arguments.json is not None:
        summary = {"output": str(arguments.output), "parameters": parameters}
        write_json(arguments.json, summary | {"signature": policy.signature.model_dump(mode="json")})
    return 0


def _load(arguments: Arguments) -> ActPolicy:
    if arguments.fps is not None and arguments.fps < 1:
        raise UserError(f"--fps {arguments.fps}: expected at least 1")
    if arguments.dataset is None:
        if arguments.fps is None:
            raise UserError(
                "expected either --dataset, the data set it was trained on, or --fps, its actions per second"
            )
        return load_lerobot_policy(arguments.folder, fps=arguments.fps, on_note=print)
    # Cameras and their size are in the configuration of the policy.
    named = signature_of(EpisodeDataset.open(arguments.dataset, fps=arguments.fps), (), (1, 1))
    return load_lerobot_policy(arguments.folder, fps=named.fps, named=named, on_note=print)

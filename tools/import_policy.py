"""Turn an ACT policy that LeRobot stored into a native checkpoint: same weights, our names, statistics inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robot.policy.lerobot_checkpoint import load_lerobot_policy
from robot.policy.policy_checkpoint import save_policy
from tools.command_line import Positional
from vision.errors import UserError
from vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """What `handeye import-policy` takes."""

    folder: Positional[Path]
    """The folder that LeRobot stored: config.json, model.safetensors and the statistics."""
    fps: int
    """Actions in a second, the rate of the demonstrations; LeRobot's policies do not tell it."""
    output: Path
    """Where the checkpoint goes; its name ends in .safetensors."""
    json: Path | None = None
    """Write a summary as JSON to this file."""


def run(arguments: Arguments) -> int:
    """Read, check, rename, write."""
    if arguments.output.suffix != ".safetensors":
        raise UserError(f"--output {arguments.output}: expected a file name that ends in .safetensors")
    if arguments.fps < 1:
        raise UserError(f"--fps {arguments.fps}: expected at least 1")
    policy = load_lerobot_policy(arguments.folder, fps=arguments.fps)
    save_policy(arguments.output, policy, {"source": f"LeRobot's {arguments.folder.name}"})
    parameters = sum(weight.numel() for weight in policy.parameters())
    inputs = ", ".join(f"{key} {shape}" for key, shape in policy.signature.input_shapes().items())
    print(f"{arguments.output}: ACT, {parameters:,} parameters, sees {inputs}")
    if arguments.json is not None:
        summary = {"output": str(arguments.output), "parameters": parameters}
        write_json(arguments.json, summary | {"signature": policy.signature.model_dump(mode="json")})
    return 0

"""Coverage and success rate of a Push-T policy in gym-pusht.

gym-pusht brings another build of OpenCV than handeye has: give it a separate environment,
`pip install 'handeye[pusht,cpu]'`.

examples:
  handeye evaluate-pusht runs/pusht_state/policy.onnx --episodes 100
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from handeye.robot.policies.chunk_execution import BlendingConfig, EnsembledConfig, SynchronousConfig
from handeye.robot.policies.onnx_policy import OnnxPolicy
from handeye.robot.pusht import open_pusht, require_pusht_policy, run_pusht_episode, summarise_pusht
from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye evaluate-pusht`."""

    policy: Positional[Path]
    """The policy as ONNX file, as `handeye train-policy configs/policy/pusht_state.yaml` leaves it in its run."""
    episodes: int = 100
    """How many episodes to run."""
    seed: int = 0
    """Seed of the first episode; episode k has seed + k."""
    blending: Literal["synchronous", "ensembled"] = "synchronous"
    """Execute `rows` of a chunk before the next inference, or infer at every step and average all chunks."""
    rows: int = 8
    """Steps between two chunks, synchronous."""
    decay: float = 0.01
    """Exponential decay of the ensemble weights."""
    json: Path | None = None
    """Write the report with a line for each episode to this file."""


def run(arguments: Arguments) -> int:
    """Run the episodes and report; 0 when they have been run, however well."""
    if arguments.episodes < 1 or arguments.seed < 0:
        raise UserError(f"--episodes {arguments.episodes} --seed {arguments.seed}: expected at least 1 and 0")
    policy = OnnxPolicy.load(arguments.policy, num_threads=1)
    signature = policy.signature
    require_pusht_policy(signature.state_names, signature.environment_names, signature.cameras, signature.fps)
    blending, world = _blending(arguments, policy.chunk_size), open_pusht()
    console = Console(highlight=False, soft_wrap=True)
    results = []
    try:
        for seed in range(arguments.seed, arguments.seed + arguments.episodes):
            result = run_pusht_episode(policy, world, blending, seed=seed)
            console.print(f"seed {seed}: {result.max_coverage:.3f} of the target covered, {result.steps} steps")
            results.append(result)
    finally:
        world.close()
    report = summarise_pusht(results) | {"policy": arguments.policy.name, "blending": blending.model_dump()}
    if arguments.json is not None:
        write_json(arguments.json, report)
    console.print(_closing_line(report))
    return 0


def _blending(arguments: Arguments, chunk_size: int) -> BlendingConfig:
    if arguments.blending == "ensembled":
        if arguments.decay < 0:
            raise UserError(f"--decay {arguments.decay}: expected 0 or more")
        return EnsembledConfig(decay=arguments.decay)
    if not 1 <= arguments.rows <= chunk_size:
        raise UserError(f"--rows {arguments.rows}: expected 1 to {chunk_size}, the rows of a chunk")
    return SynchronousConfig(rows=arguments.rows)


def _closing_line(report: dict[str, Any]) -> str:
    rate, low, high = (f"{100 * report[key]:.1f}" for key in ("success_rate", "wilson_low", "wilson_high"))
    error = "" if report["standard_error"] is None else f" (standard error {report['standard_error']:.3f})"
    return (
        f"mean maximum coverage {report['mean_max_coverage']:.3f}{error}; {report['successes']} of "
        f"{report['episodes']} above 0.95: {rate} % (95 % interval {low} to {high} %)"
    )

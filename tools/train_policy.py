"""Train a policy (ACT) on demonstrations, or resume a run that was stopped or killed, and export it to ONNX.

Any value of the configuration can be overridden behind it: `steps=1000`, `--data.root FOLDER`.

examples:
  handeye train-policy configs/policy/pick_state.yaml
  handeye train-policy --resume runs/pick_state
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from handeye._train import open_run
from handeye.robot.learning.config import TrainPolicyConfig
from handeye.robot.learning.train import PolicyTrainingResult, train_policy
from handeye.tools.command_line import Positional
from handeye.tools.export_policy import EXPORTED, PolicyExport, export_checkpoint
from handeye.vision.files import write_json
from handeye.vision.training.distributed import TrainingError


@dataclass(frozen=True)
class Arguments:
    """Arguments of `handeye train-policy`."""

    config: Positional[Path | None] = None
    """Configuration file, for example configs/policy/pusht_state.yaml; a run to resume has its own."""
    output: Path | None = None
    """Folder of the new run; by default runs/NAME, numbered where that exists."""
    resume: Path | None = None
    """Folder of a run to resume from its last saved state."""
    json: Path | None = None
    """Write the run folder, the smallest validation error and the exported file to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Train and export; 0 when the run is finished, 1 when it was stopped or failed."""
    console = Console(stderr=True)
    config, folder = open_run(
        TrainPolicyConfig,
        arguments.config,
        arguments.output,
        arguments.resume,
        overrides,
        "configs/policy/pusht_state.yaml",
    )
    try:
        with nullcontext() if arguments.resume else folder.kept_once_begun():
            result = train_policy(config, folder, console)
    except TrainingError as error:
        console.print(f"handeye: failed: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    exported = None
    if result.is_finished:
        checkpoint = folder.last if result.best_step is None else folder.best
        exported = export_checkpoint(checkpoint, folder.path / EXPORTED)
    if arguments.json is not None:
        write_json(arguments.json, _summary(result, exported))
    print(_closing_line(result, exported))
    return 0 if exported is not None and exported.is_faithful else 1


def _summary(result: PolicyTrainingResult, exported: PolicyExport | None) -> dict[str, object]:
    best = None
    if result.best_error is not None:
        best = {"metric": "validation_error", "value": result.best_error, "step": result.best_step}
    return {
        "run_folder": str(result.run.path),
        "best": best,
        "steps": result.step,
        "finished": result.is_finished,
        "last": str(result.run.last),
        "export": None if exported is None else exported.summary(),
    }


def _closing_line(result: PolicyTrainingResult, exported: PolicyExport | None) -> str:
    if exported is None:
        return f"stopped after step {result.step}; resume with: handeye train-policy --resume {result.run.path}"
    best = ""
    if result.best_error is not None:
        best = f"; smallest validation error {result.best_error:.4f} at step {result.best_step}"
    return f"finished {result.step} steps{best}: {exported.path}"

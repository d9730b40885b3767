"""Export a trained policy to one ONNX file that runs without torch, and compare its outputs with torch's.

examples:
  handeye export-policy runs/pick_state/best.safetensors --output pick_state.onnx
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from handeye.export.graph.operator_support import require_supported
from handeye.export.result import origin_of
from handeye.robot.learning.checkpoint import load_policy
from handeye.robot.learning.export import PolicyParity, export_policy, measure_policy_parity
from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json

EXPORTED = "policy.onnx"
PARITY_LIMIT = 1e-3
"""Largest difference that rounding explains, in standard deviations of an action."""


@dataclass(frozen=True)
class Arguments:
    """What `handeye export-policy` takes."""

    checkpoint: Positional[Path]
    """A checkpoint of `handeye train-policy`: best.safetensors or last.safetensors in its run folder."""
    output: Path
    """The ONNX file to write; its name ends in .onnx."""
    json: Path | None = None
    """Write the file, its size and its differences from torch to this file."""


def run(arguments: Arguments) -> int:
    """Export and compare; 1 when an installed engine differs from torch."""
    if arguments.output.suffix != ".onnx":
        raise UserError(f"--output {arguments.output}: expected a file name that ends in .onnx")
    exported = export_checkpoint(arguments.checkpoint, arguments.output)
    if arguments.json is not None:
        write_json(arguments.json, exported.summary() | {"faithful": exported.is_faithful})
    print(exported.describe())
    return 0 if exported.is_faithful else 1


@dataclass(frozen=True, slots=True)
class PolicyExport:
    """An exported policy and how far it is from torch in each engine."""

    path: Path
    parities: Sequence[PolicyParity]

    @property
    def is_faithful(self) -> bool:
        """Whether all engines agree with torch."""
        return all(parity.worst <= PARITY_LIMIT for parity in self.parities)

    def summary(self) -> dict[str, object]:
        """For --json, in the keys of `handeye export`."""
        return {
            "files": {"float32": str(self.path)},
            "bytes": {"float32": self.path.stat().st_size},
            "parity": {"float32": max(parity.worst for parity in self.parities)},
            "engines": [asdict(parity) for parity in self.parities],
        }

    def describe(self) -> str:
        """One line for the user."""
        engines = ", ".join(f"{parity.engine} {parity.worst:.1e}" for parity in self.parities)
        wrong = [parity.engine for parity in self.parities if not parity.worst <= PARITY_LIMIT]
        verdict = f"; not faithful in {', '.join(wrong)}: expected at most {PARITY_LIMIT:g}" if wrong else ""
        return f"{self.path} ({self.path.stat().st_size / 1e6:.2f} MB), deviations from torch: {engines}{verdict}"


def export_checkpoint(checkpoint: Path, path: Path) -> PolicyExport:
    """Export and compare. Raises ModelFileError when `checkpoint` holds no handeye policy, UserError for a layer
    that TensorRT's parser does not take."""
    policy = load_policy(checkpoint)
    export_policy(policy, path, made_by=origin_of(checkpoint))
    try:
        require_supported(onnx.load(path), path.name)
    except UserError:
        path.unlink()
        raise
    return PolicyExport(path, measure_policy_parity(policy, path))

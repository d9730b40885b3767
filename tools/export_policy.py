"""Write a policy's checkpoint as one ONNX file that runs without torch, with the proof that it computes the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx

from handeye.export.graph.operator_support import require_supported
from handeye.robot.learning.checkpoint import load_policy
from handeye.robot.learning.export import PolicyParity, export_policy, measure_policy_parity
from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json

EXPORTED = "policy.onnx"
PARITY_LIMIT = 1e-3
"""Largest difference that rounding may explain, in deviations of an action."""


@dataclass(frozen=True)
class Arguments:
    """What `handeye export-policy` takes."""

    checkpoint: Positional[Path]
    """A checkpoint of `handeye train-policy`: best.safetensors or last.safetensors in the folder of its run."""
    output: Path
    """Where the policy goes; its name ends in .onnx."""
    json: Path | None = None
    """Write the file, its size and its differences from torch to this file."""


def run(arguments: Arguments) -> int:
    """Export and compare; 1 when an engine here computes something else than torch."""
    if arguments.output.suffix != ".onnx":
        raise UserError(f"--output {arguments.output}: expected a file name that ends in .onnx")
    exported = export_checkpoint(arguments.checkpoint, arguments.output)
    if arguments.json is not None:
        write_json(arguments.json, exported.summary() | {"faithful": exported.is_faithful})
    print(exported.describe())
    return 0 if exported.is_faithful else 1


@dataclass(frozen=True, slots=True)
class PolicyExport:
    """A file and how far each engine's results with it are from torch's."""

    path: Path
    parities: Sequence[PolicyParity]

    @property
    def is_faithful(self) -> bool:
        """Whether all engines compute what was trained."""
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
        return f"{self.path} ({self.path.stat().st_size / 1e6:.2f} MB), deviations from torch: {engines}"


def export_checkpoint(checkpoint: Path, path: Path) -> PolicyExport:
    """Export and compare. Raises ModelFileError when `checkpoint` is no policy of ours, UserError for a layer that
    TensorRT's parser does not take."""
    policy = load_policy(checkpoint)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    try:
        program = f"handeye {version('handeye')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        program = "handeye"
    export_policy(policy, path, made_by=f"{program} from {checkpoint.name} (sha256 {digest})")
    try:
        require_supported(onnx.load(path), path.name)
    except UserError:
        path.unlink()
        raise
    return PolicyExport(path, measure_policy_parity(policy, path))

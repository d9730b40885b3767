"""Export results: the files, their sizes, accuracy, latency and parity, and whether they pass.

Needs neither torch nor onnx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handeye.export.request import Precision

if TYPE_CHECKING:
    from handeye.export.measurement import Latency
    from handeye.export.parity import EngineParity
    from handeye.export.quantization.int8_recipe import Int8Result
    from handeye.export.tensorrt.engine import EngineBuild

PARITY_LIMIT = 1e-3
"""Largest difference that rounding explains, as a fraction; torch's float32 is itself 1e-4 off its float64."""
TARGET_ENGINE: dict[Precision, str] = {
    "float16": "tensorrt",
    "int8": "tensorrt",
    "int8_float16": "tensorrt",
    "int8_x86": "onnxruntime",
    "int8_openvino": "openvino",
}
"""The engine on which each precision must be fast; others execute its casts and Q/DQ pairs one by one."""


@dataclass
class Artefact:
    """One exported file and its measurements."""

    precision: Precision
    path: Path
    num_bytes: int
    sha256: str
    AP: Mapping[str, float] = field(default_factory=dict)
    """By engine."""
    AP50: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    worst_difference: float = 0.0
    """From the float32 file: scores, and boxes as a fraction of the input's longer side."""
    recipe: Int8Result | None = None
    rejected: str = ""
    """Why the file is rejected; empty if it is accepted."""
    remarks: tuple[str, ...] = ()
    label: str = ""
    """Row name of a file that is only compared; empty for the files of this export, whose row is their precision."""
    parameters: int = 0
    """Of the layers of the float32 network."""
    gflops: float | None = None
    """Of that network; None where a dimension is not fixed."""

    @property
    def title(self) -> str:
        """Row name in tables and results."""
        return self.label or self.precision

    @property
    def deciding_engine(self) -> str | None:
        """The engine whose AP counts: its target engine if that was measured, else ONNX Runtime, which follows the Q/DQ
        pairs exactly; None where nothing was measured."""
        names = list(self.AP or self.latency)
        wanted = (TARGET_ENGINE.get(self.precision, ""), "onnxruntime", *names)
        return next((name for name in wanted if name in names), None)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What an export wrote and measured."""

    artefacts: Sequence[Artefact] = ()
    """The float32 file first, then the other precisions, then the files that were compared; empty where an engine was
    built straight from an ONNX file."""
    parity: Sequence[EngineParity] = ()
    """Difference of the float32 file from torch in each installed engine; empty for a model that was ONNX already."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Source, size and conditions, as shown in the report."""
    report: Path | None = None
    """The HTML report, where one was asked for."""
    trtexec: str = ""
    """The command that builds the same engine with trtexec, where an engine was asked for."""
    engine: EngineBuild | None = None

    @property
    def files(self) -> dict[str, Path]:
        """All files by row name; the engine as "engine"."""
        engine = {} if self.engine is None else {"engine": self.engine.path}
        return {artefact.title: artefact.path for artefact in self.artefacts} | engine

    @property
    def ap(self) -> dict[str, float]:
        """AP by row name, in the engine that decides; empty where no annotations were given."""
        return {one.title: one.AP[one.deciding_engine or ""] for one in self.artefacts if one.AP}

    @property
    def rejected(self) -> dict[str, str]:
        """Reasons by row name."""
        return {artefact.title: artefact.rejected for artefact in self.artefacts if artefact.rejected}

    @property
    def worst_difference(self) -> float:
        """The largest difference of the float32 file from torch in any engine."""
        return max((parity.worst for parity in self.parity), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether the file computes what torch does and nothing was rejected (exit code 0, otherwise 1)."""
        is_faithful = self.worst_difference <= PARITY_LIMIT and not any(parity.unmatched for parity in self.parity)
        return is_faithful and not self.rejected

    @property
    def best_for_tensorrt(self) -> Path:
        """The smallest accepted precision that TensorRT takes, else the float32 file."""
        for precision in ("int8_float16", "int8", "float16"):
            for artefact in self.artefacts:
                if artefact.precision == precision and not artefact.rejected:
                    return artefact.path
        return self.artefacts[0].path

    def as_json(self) -> dict[str, Any]:
        """Everything for --json: keyed by quantity, then by row name."""
        files = {title: str(path) for title, path in self.files.items()}
        if not self.artefacts:
            return {"files": files, "bytes": {title: path.stat().st_size for title, path in self.files.items()}}
        parity = {"parity": {"float32": self.worst_difference}, "engines": [asdict(one) for one in self.parity]}
        return artefacts_as_json(self.artefacts) | {"files": files} | parity | {"facts": dict(self.facts)}


def artefacts_as_json(artefacts: Sequence[Artefact]) -> dict[str, Any]:
    """Measurements of the files: keyed by quantity, then by row name."""
    content: dict[str, Any] = {
        "files": {artefact.title: str(artefact.path) for artefact in artefacts},
        "bytes": {artefact.title: artefact.num_bytes for artefact in artefacts},
        "sha256": {artefact.title: artefact.sha256 for artefact in artefacts},
        "parameters": {artefact.title: artefact.parameters for artefact in artefacts},
        "gflops": {artefact.title: artefact.gflops for artefact in artefacts},
        "difference": {artefact.title: artefact.worst_difference for artefact in artefacts if not artefact.label},
        "rejected": {artefact.title: artefact.rejected for artefact in artefacts if artefact.rejected},
        "remarks": {artefact.title: list(artefact.remarks) for artefact in artefacts if artefact.remarks},
        "latency": {
            artefact.title: {engine: asdict(latency) for engine, latency in artefact.latency.items()}
            for artefact in artefacts
        },
        "recipes": {
            artefact.title: _recipe_facts(artefact.recipe) for artefact in artefacts if artefact.recipe is not None
        },
    }
    if any(artefact.AP for artefact in artefacts):
        content["AP"] = {one.title: one.AP[one.deciding_engine or ""] for one in artefacts}
        content["AP50"] = {one.title: one.AP50[one.deciding_engine or ""] for one in artefacts}
        content["AP_by_engine"] = {artefact.title: dict(artefact.AP) for artefact in artefacts}
    return content


def _recipe_facts(recipe: Int8Result) -> dict[str, Any]:
    search = recipe.search
    return {
        "calibrator": recipe.rule,
        "scores": dict(recipe.scores),
        "layers": recipe.num_layers,
        "float_layers": sorted(recipe.keep_float),
        "pinned": dict(recipe.pinned),
        "damage": dict(search.damage) if search else {},
        "trials": [asdict(trial) for trial in search.trials] if search else [],
    }


def program_version() -> str:
    """ "handeye 0.4.0"; without a number where a checkout is not installed."""
    try:
        return f"handeye {version('handeye')}"
    except PackageNotFoundError:
        return "handeye"


def origin_of(source: Path) -> str:
    """Program, version, source file and its SHA-256: provenance of what is made from `source`."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return f"{program_version()} from {source.name} (sha256 {digest})"

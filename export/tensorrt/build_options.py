"""Options of a TensorRT build, the equivalent trtexec command, and TensorRT versions known to compute wrongly.

Needs no TensorRT.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime.engine_file import version_numbers
from handeye.vision.runtime.engines import Shape


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build an engine, whose precision is that of the ONNX file. Raises UserError for unordered batch bounds."""

    batch: tuple[int, int, int] | None = None
    """Smallest, typical and largest batch, for a file with a dynamic batch size."""
    workspace_mib: int | None = None
    """Largest workspace of a layer; by default all GPU memory."""
    timing_cache: Path | None = None
    """Timing cache, which makes the next build on this device short."""
    dla_core: int | None = None
    """Deep learning accelerator (DLA) of a Jetson; layers that it cannot run use the GPU."""
    version_compatible: bool = False
    """The engine also loads in later TensorRT of the same major version, at some cost in speed."""
    hardware_compatible: bool = False
    """The engine runs on every GPU from Ampere on, at some cost in speed; not on a Jetson."""

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise UserError(f"expected batch sizes from smallest to largest, at least 1, got {self.batch}")


def trtexec_command(onnx_path: Path, plan_path: Path, options: BuildOptions, inputs: dict[str, Shape]) -> str:
    """The command that builds the same engine as a plain plan file, for trtexec and C++ programs.

    `inputs` are the file's inputs with None for a dynamic dimension. Options of trtexec 10.3, which 11.x still takes.
    """
    words = ["trtexec", f"--onnx={onnx_path}", f"--saveEngine={plan_path}", "--stronglyTyped", "--skipInference"]
    if options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    if options.dla_core is not None:
        words += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    if options.version_compatible:
        words.append("--versionCompatible")
    if options.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    if options.batch is not None:
        words += [
            f"--{kind}Shapes={_shapes(inputs, size)}"
            for kind, size in zip(("min", "opt", "max"), options.batch, strict=True)
        ]
    return shlex.join(words)


def _shapes(inputs: dict[str, Shape], batch: int) -> str:
    """The inputs with a dynamic batch in trtexec's syntax: "images:4x3x640x640"."""
    free = {name: (batch, *shape[1:]) for name, shape in inputs.items() if shape and shape[0] is None}
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in free.items())


OLDEST = (10, 3)
"""JetPack 6's; the API that handeye uses is the same from here to 11.4."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A silent error of TensorRT: present in `wrong`, absent up to `last_right`; not known to be fixed since."""

    layer: str
    """The TensorRT layer type that it affects."""
    wrong: tuple[tuple[int, int], ...]
    last_right: tuple[int, int]
    effect: str
    report: str
    remedy: str


FAULTS = (
    Fault(
        layer="GRID_SAMPLE",
        wrong=((10, 14), (11, 1)),
        last_right=(10, 13),
        effect="deformable attention by GridSample loses most of its detections",
        report="NVIDIA/TensorRT#4813",
        remedy="export with the gather sampling, which is handeye's default, or use TensorRT 10.13 or older",
    ),
)


def require_supported_version(version: str) -> None:
    """Raise ModelFileError for a TensorRT older than 10.3."""
    if version_numbers(version)[:2] < OLDEST:
        raise ModelFileError(f"TensorRT {version} is too old: expected 10.3 (JetPack 6) or newer")


def faults_of(version: str, layers: frozenset[str]) -> tuple[str, ...]:
    """Warnings about layer types that this version may compute wrongly.

    Raises ModelFileError where it is known to.
    """
    here = version_numbers(version)[:2]
    doubts = []
    for fault in FAULTS:
        if fault.layer not in layers:
            continue
        if here in fault.wrong:
            raise ModelFileError(f"TensorRT {version}: {fault.effect} ({fault.report}); {fault.remedy}")
        if here > fault.last_right:
            doubts.append(
                f"TensorRT {version} may share a fault of neighbouring versions: {fault.effect} ({fault.report})"
            )
    return tuple(doubts)

"""Versions of TensorRT that compute wrongly without saying so, and what they must not be given."""

from __future__ import annotations

from dataclasses import dataclass

from vision.errors import ModelFileError
from vision.runtime.engine_file import version_numbers

OLDEST = (10, 3)
"""JetPack 6's; everything that handeye calls is signed alike from here to 11.4."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Wrong in the versions `wrong`, right up to `last_right`; which later version mends it nobody has shown."""

    layer: str
    """Name of the TensorRT layer type that it concerns."""
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


def refuse_old_version(version: str) -> None:
    """Raise ModelFileError for a TensorRT that is older than anything this was written for."""
    if version_numbers(version)[:2] < OLDEST:
        raise ModelFileError(f"TensorRT {version} is too old: expected 10.3 (JetPack 6) or newer")


def faults_of(version: str, layers: frozenset[str]) -> tuple[str, ...]:
    """Why engines of this version with these layer types are not to be trusted: a warning for each doubt.

    Raises ModelFileError where it is known that they compute wrongly.
    """
    here = version_numbers(version)[:2]
    doubts = []
    for fault in FAULTS:
        if fault.layer not in layers:
            continue
        if here in fault.wrong:
            raise ModelFileError(f"TensorRT {version}: {fault.effect} ({fault.report}); {fault.remedy}")
        if here > fault.last_right:
            doubts.append(f"TensorRT {version} may share a fault of its neighbours: {fault.effect} ({fault.report})")
    return tuple(doubts)

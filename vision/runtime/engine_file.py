"""Read and write TensorRT engine files: magic, length and SHA-256 of the record, record, plan.

TensorRT's plan says neither which classes it detects nor, before it is loaded, which TensorRT and which GPU it was
built for. The record says both, so that loading an engine that does not fit fails with the reason.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from handeye.vision.config import Config
from handeye.vision.errors import ModelFileError
from handeye.vision.files import replacing
from handeye.vision.runtime.manifest import Manifest

ENGINE_SUFFIX = ".engine"
MAGIC = b"handeye\x01"
LENGTH_BYTES, DIGEST_BYTES = 8, 32
AMPERE = (8, 0)
"""The oldest compute capability that hardware-compatible engines run on."""


class EngineRecord(Config):
    """What is known of a plan besides its bytes."""

    format_version: Literal[1] = 1
    manifest: Manifest
    tensorrt: str
    """Version that built the plan."""
    gpu: str
    """Name of the GPU that it was tuned on."""
    compute_capability: tuple[int, int]
    version_compatible: bool = False
    """Loads in later versions of the same major version, too."""
    hardware_compatible: bool = False
    """Runs on every GPU from Ampere on."""
    dla_core: int | None = None
    """The deep learning accelerator that computes what it can; None is the GPU."""
    onnx_sha256: str
    """SHA-256 of the ONNX file that it was built from."""
    plan_sha256: str


@dataclass(frozen=True, slots=True)
class EngineFile:
    """An engine file in memory."""

    path: Path
    record: EngineRecord
    plan: bytes


def write_engine_file(path: Path, record: EngineRecord, plan: bytes) -> None:
    """Write plan and record, whole or not at all."""
    text = record.model_dump_json().encode()
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(MAGIC + len(text).to_bytes(LENGTH_BYTES, "little") + hashlib.sha256(text).digest())
        file.write(text)
        file.write(plan)


def read_engine_file(path: Path) -> EngineFile:
    """Read an engine; ModelFileError when it is missing, cut off, changed, or a plan without a record."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    start = len(MAGIC) + LENGTH_BYTES + DIGEST_BYTES
    if not content.startswith(MAGIC) or len(content) < start:
        raise ModelFileError(
            f"{path}: is no engine that handeye built; build one from the ONNX file: "
            "handeye export model.onnx --format engine"
        )
    length = int.from_bytes(content[len(MAGIC) : start - DIGEST_BYTES], "little")
    text, plan = content[start : start + length], content[start + length :]
    if hashlib.sha256(text).digest() != content[start - DIGEST_BYTES : start]:
        raise ModelFileError(f"{path}: is cut off or damaged: its record is not the one that was written")
    try:
        record = EngineRecord.model_validate_json(text)
    except ValidationError as error:
        raise ModelFileError(f"{path}: its record is of another version of handeye; build it again") from error
    if sha256_of(plan) != record.plan_sha256:
        raise ModelFileError(f"{path}: is cut off or damaged: its plan is not the one that was written")
    return EngineFile(path, record, plan)


def check_engine_fits(file: EngineFile, tensorrt: str, gpu: str, compute_capability: tuple[int, int]) -> None:
    """Raise ModelFileError when this TensorRT or this GPU cannot run the engine, before TensorRT tries."""
    record = file.record
    built, here = version_numbers(record.tensorrt), version_numbers(tensorrt)
    loads = record.tensorrt == tensorrt or (record.version_compatible and built[0] == here[0] and built <= here)
    if not loads:
        raise ModelFileError(_rebuild(file, f"was built by TensorRT {record.tensorrt}, here is {tensorrt}"))
    runs = record.compute_capability == compute_capability
    if not runs and not (record.hardware_compatible and compute_capability >= AMPERE):
        theirs, ours = (".".join(map(str, pair)) for pair in (record.compute_capability, compute_capability))
        raise ModelFileError(
            _rebuild(file, f"was built for {record.gpu} (compute capability {theirs}), here is {gpu} ({ours})")
        )


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.3.0.post1" -> (10, 3, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match.group().split("."))) if match else (0,)


def sha256_of(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def _rebuild(file: EngineFile, reason: str) -> str:
    return f"{file.path}: {reason}; build it here again: handeye export MODEL.onnx --format engine"

"""Engine files come back as they were written, and say so when they did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engine_file import (
    EngineRecord,
    read_engine_file,
    sha256_of,
    version_numbers,
    write_engine_file,
)
from handeye.vision.runtime.manifest import Manifest

PLAN = bytes(range(40))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    write_engine_file(path, record(), PLAN)
    return path


def record() -> EngineRecord:
    return EngineRecord(
        manifest=Manifest(class_names=("cube", "Würfel")),
        tensorrt="10.3.0",
        gpu="Orin",
        compute_capability=(8, 7),
        onnx_sha256="0" * 64,
        plan_sha256=sha256_of(PLAN),
    )


def test_record_and_plan_come_back(path: Path):
    file = read_engine_file(path)
    assert (file.record, file.plan) == (record(), PLAN)


def test_any_changed_byte_and_any_cut_is_rejected(path: Path):
    content = path.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ModelFileError):
            read_engine_file(path)
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            read_engine_file(path)


def test_a_bare_plan_and_a_missing_file_are_rejected(tmp_path: Path):
    (tmp_path / "bare.engine").write_bytes(b"ftrt" + PLAN)
    with pytest.raises(ModelFileError, match="--format engine"):
        read_engine_file(tmp_path / "bare.engine")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_engine_file(tmp_path / "absent.engine")


def test_versions_are_compared_by_number():
    assert version_numbers("10.16.1.11") > version_numbers("10.3.0.post1") == (10, 3, 0)
    assert version_numbers("unknown") == (0,)

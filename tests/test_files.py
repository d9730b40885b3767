"""Files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from handeye.vision.files import replacing, write_json


def test_a_written_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def write_half(path: Path) -> None:
    with replacing(path) as beside:
        beside.write_bytes(b"half")
        raise RuntimeError("disk full")


def test_a_failure_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"good")
    with pytest.raises(RuntimeError, match="disk"):
        write_half(path)
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_others_may_read_of_plain_files(tmp_path: Path) -> None:
    plain, kept = tmp_path / "plain.txt", tmp_path / "kept.bin"
    plain.write_text("x")
    for wanted in (plain.stat().st_mode, 0o100640):
        with replacing(kept) as beside:
            beside.write_bytes(b"x")
            beside.chmod(0o600)
        assert kept.stat().st_mode == wanted
        kept.chmod(0o640)


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "video.mp4") as beside:
        assert beside.suffix == ".mp4"
        beside.write_bytes(b"x")
    assert (tmp_path / "video.mp4").read_bytes() == b"x"

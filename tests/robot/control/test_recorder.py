"""Recordings: they hold what happened, and a killed process leaves a readable file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.control.recorder import EpisodeRecorder, read_recording, tick_to_row
from handeye.vision.errors import SourceError
from tests.robot.control.fake_devices import HOME, Bench, ListedPolicy, slow_turn


def record(path: Path, num_ticks: int) -> Bench:
    bench = Bench(ListedPolicy([*slow_turn(num_ticks - 1), HOME + 1.0]))
    ticks = bench.run(num_ticks)
    with EpisodeRecorder(path) as recorder:
        for tick in ticks:
            recorder.write(tick)
    return bench


def test_a_recording_gives_back_what_happened(tmp_path: Path) -> None:
    bench = record(tmp_path / "ticks.jsonl", 20)
    recording = read_recording(tmp_path / "ticks.jsonl")
    assert len(recording) == 20
    np.testing.assert_allclose(recording.stamp_s, 5.0 + np.arange(20) / 125, atol=1e-6)
    np.testing.assert_allclose(recording.qpos_target[:-1], slow_turn(19), atol=1e-6)
    np.testing.assert_allclose(recording.qpos_command, [tick.qpos_command for tick in bench.sink.ticks], atol=1e-6)
    np.testing.assert_allclose(recording.qpos_measured[1:], recording.qpos_command[:-1], atol=1e-6)
    np.testing.assert_allclose(recording.gripper_target_m, 0.05)
    assert recording.stages == ("listed",) * 20
    assert recording.gates[:-1] == ((),) * 19
    assert "step" in recording.gates[-1]


def test_the_file_is_readable_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ticks.jsonl"
    ticks = Bench(ListedPolicy([HOME])).run(3)
    with EpisodeRecorder(path) as recorder:
        for count, tick in enumerate(ticks, start=1):
            recorder.write(tick)
            assert len(read_recording(path)) == count


@pytest.mark.parametrize("kept_bytes", [1, 40, 200])
def test_a_torn_last_line_is_dropped(tmp_path: Path, kept_bytes: int) -> None:
    path = tmp_path / "ticks.jsonl"
    record(path, 5)
    whole, last = path.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)
    path.write_bytes(whole + b"\n" + last[:kept_bytes])
    assert len(read_recording(path)) == 4


def test_an_empty_recording_has_no_ticks(tmp_path: Path) -> None:
    with EpisodeRecorder(tmp_path / "ticks.jsonl"):
        pass
    recording = read_recording(tmp_path / "ticks.jsonl")
    assert len(recording) == 0
    assert recording.qpos_measured.shape == (0, 6)


def test_damage_in_the_middle_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ticks.jsonl"
    record(path, 5)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2][:30]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"line 3"):
        read_recording(path)


@pytest.mark.parametrize("row", ["[]", "{}", '{"stamp_s": 1.0}'])
def test_a_line_that_is_no_tick_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "ticks.jsonl"
    path.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"line 1"):
        read_recording(path)


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="absent"):
        read_recording(tmp_path / "absent.jsonl")


def test_writing_outside_the_context_is_refused(tmp_path: Path) -> None:
    tick = Bench(ListedPolicy([HOME])).run(1)[0]
    with pytest.raises(RuntimeError, match="with"):
        EpisodeRecorder(tmp_path / "ticks.jsonl").write(tick)


def test_only_ticks_with_a_frame_list_tracks() -> None:
    rows = [tick_to_row(tick) for tick in Bench(ListedPolicy([HOME])).run(14)]
    assert [index for index, row in enumerate(rows) if "tracks" in row] == [0, 13]
    assert json.loads(json.dumps(rows)) == rows

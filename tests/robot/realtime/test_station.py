"""Episodes with a real clock in the simulator: they end by name, whatever is killed, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from handeye.robot.control.recorder import read_recording
from handeye.robot.pick import SHIPPED_DETECTOR, SHIPPED_POLICY, Output, PickConfig
from handeye.robot.realtime.station import RealtimeStation
from handeye.vision.errors import ModelFileError
from tests.robot.realtime.test_child import is_running

pytestmark = pytest.mark.slow

BUSY = (
    *("gate_stale_observation", "gate_lost_observation", "gate_policy_silent", "gate_step", "episode_timeout"),
    *("not_found", "lost", "grasp_failed", "verify_failed", "unreachable", "motion_failed", "timeout", "wrong_success"),
)
"""On a machine that is busy with other things perception may come too late."""


def config(**changes: Any) -> PickConfig:
    return PickConfig.model_validate({"timeout_s": 30.0, "fault_at_s": (1.0, 1.5)} | changes)


@pytest.mark.parametrize("policy", [None, SHIPPED_POLICY])
def test_episodes_in_real_time_end_by_name_within_all_limits(tmp_path: Path, policy: Path | None) -> None:
    with RealtimeStation(config(), SHIPPED_DETECTOR, policy) as station:
        results = [station.run(seed, output=Output(tmp_path, video=True)) for seed in (1000, 1001)]
        pids = station.pids()
    for result in results:
        assert result.success or result.reason is not None
        assert result.success or result.reason in BUSY, result.error
        assert result.limit_breaches == {}
        assert result.punctuality is not None
        assert len(result.punctuality.latency_ms) > 5
        assert {"camera", "perceive", "plan", "handover", "detect", "project", "track"} <= result.stage_ms.keys()
        recording = read_recording(tmp_path / f"episode_{result.seed}" / "ticks.jsonl")
        assert recording.stamp_s[-1] - recording.stamp_s[0] >= result.cycle_s - 0.1
        for name in ("video.mp4", "latency.png"):
            assert (tmp_path / f"episode_{result.seed}" / name).stat().st_size > 1000
    assert not any(map(is_running, pids.values()))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("perception_killed", "perception_killed"),
        ("camera_killed", "camera_killed"),
        ("control_killed", "control_killed"),
        ("policy_nan", "gate_not_finite"),
        ("camera_lost", "camera_error"),
        ("protective_stop", "arm_error"),
    ],
)
def test_what_fails_stops_the_arm_by_name_and_the_next_episode_can_begin(fault: Any, reason: str) -> None:
    with RealtimeStation(config(fault=fault), SHIPPED_DETECTOR) as station:
        results = [station.run(seed) for seed in (1000, 1001)]
    for result in results:
        assert result.reason in (reason, *BUSY)
        assert result.limit_breaches == {}
    if all(result.reason in BUSY for result in results):
        pytest.skip("this machine is too busy to come to the fault in time")
    assert any(result.reason == reason for result in results)


def test_a_recorder_that_dies_harms_nothing_and_keeps_what_it_had(tmp_path: Path) -> None:
    with RealtimeStation(config(fault="recorder_killed"), SHIPPED_DETECTOR) as station:
        result = station.run(1000, output=Output(tmp_path, video=False))
        assert result.success or result.reason in BUSY
        if result.cycle_s < 1.6:
            pytest.skip("this machine is too busy to come to the fault in time")
        assert result.cycle_s > 2.0 or not result.success, "it went on"
        again = station.run(1001)
    assert again.success or again.reason in BUSY
    recording = read_recording(tmp_path / "episode_1000" / "ticks.jsonl")
    assert 0.5 < recording.stamp_s[-1] - recording.stamp_s[0] < 2.0


def test_a_simulator_that_dies_is_an_arm_that_is_gone() -> None:
    """The hardware itself: nobody can be told to stop, and nobody hangs."""
    with RealtimeStation(config(), SHIPPED_DETECTOR) as station:
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(station.run(1000)))
        seen = station._rings.records.count
        thread.start()
        while station._rings.records.count < seen + 125:
            time.sleep(0.01)
        os.kill(station.pids()["simulator"], 9)
        thread.join()
    assert results[0].reason in ("simulator_killed", "gate_lost_observation")
    assert results[0].check_reason == "the simulator has ended"


def test_a_file_that_is_no_detector_is_said_and_nothing_stays(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    station = RealtimeStation(config(), broken)
    with pytest.raises(ModelFileError, match="broken.onnx"), station:
        pass
    assert station.pids() == {}


def test_a_killed_command_leaves_no_process_and_a_recording_up_to_its_last_second(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "handeye.tools.command_line", "pick", "--clock", "real", "--output", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    ticks = tmp_path / "episode_0" / "ticks.jsonl"
    until_s = time.monotonic() + 120.0
    while not (ticks.is_file() and ticks.stat().st_size > 100_000) and time.monotonic() < until_s:
        time.sleep(0.05)
    children = children_of(process.pid)
    assert len(children) >= 5
    process.kill()
    killed_s = time.monotonic()
    process.wait()
    while any(map(is_running, children)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(is_running, children))
    recording = read_recording(ticks)
    assert recording.stamp_s[-1] > killed_s - 1.0


def children_of(pid: int) -> list[int]:
    """The processes that one has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(words[1]) == pid:
            found.append(int(status.parent.name))
    return found

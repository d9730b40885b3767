"""`handeye pick`: what it refuses, and one whole run with the detector that comes with the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import handeye._pick
from handeye.robot.control.episode import EpisodeResult
from handeye.robot.interfaces import Outcome
from handeye.robot.viewer.report import summarise_episodes
from handeye.tools.command_line import run_command
from handeye.tools.episode_arguments import show_report

CONFIG = str(Path(__file__).resolve().parents[2] / "configs" / "robot" / "pick.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arm", "ur"], "only the simulator can pick so far"),
        (["--camera", "realsense"], "only the simulator can pick so far"),
        (["--episodes", "0"], "--episodes 0"),
        (["--workers", "0"], "--workers 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--detector", "absent.onnx"], "absent.onnx"),
        (["--policy", "act", "--policy-file", "absent.onnx"], "absent.onnx: there is no such policy"),
        (["--policy-file", "some.onnx"], "only --policy act reads a file"),
        (["--faults", "frozen"], "--faults frozen: expected all or one of black_image"),
        (["--faults", "perception_killed"], "in lock-step there is one process; add --clock real"),
        (["--clock", "real", "--workers", "2"], "--workers 2: one cell runs in real time"),
        (["absent.yaml"], "absent.yaml"),
        ([CONFIG, "skill.grasp.max_atempts=2"], "did you mean max_attempts"),
        ([CONFIG, "simulator.target=purple_cube"], "simulator.target"),
        ([CONFIG, "timeout_s=-1"], "timeout_s"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    detector = tmp_path / "broken.onnx"
    detector.write_bytes(b"no network")
    given = words if "--detector" in words else [*words, "--detector", str(detector)]
    assert run_command(["pick", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_detector_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    detector = tmp_path / "broken.onnx"
    detector.write_bytes(b"no network")
    assert run_command(["pick", "--detector", str(detector)]) == 2
    assert "broken.onnx" in capsys.readouterr().err


def test_a_fault_that_is_stopped_within_all_limits_is_code_0(tmp_path: Path) -> None:
    report_path = tmp_path / "r.json"
    assert run_command(["pick", "--faults", "policy_nan", "--seed", "7", "--json", str(report_path)]) == 0
    report = json.loads(report_path.read_text(encoding="utf-8"))
    assert report["faults"]["policy_nan"]["stops"] == report["stops"] == {"gate_not_finite": 1}
    assert report["limit_breaches"] == {}
    assert report["successes"] == 0


def test_one_episode_leaves_a_report_with_the_agreed_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, report_path = tmp_path / "run", tmp_path / "r.json"
    words = ["pick", CONFIG, "--seed", "7", "--output", str(output), "--no-video", "--json", str(report_path)]
    assert run_command(words) == 0
    report = json.loads(report_path.read_text(encoding="utf-8"))
    agreed = {"episodes", "successes", "success_rate", "wilson_low", "wilson_high", "gate_violations", "failures"}
    assert agreed | {"cycle_s_median", "stages"} <= report.keys()
    assert (report["episodes"], report["successes"], report["gate_violations"]) == (1, 1, 0)
    assert (report["limit_breaches"], report["contacts"]) == ({}, {})
    for stage in ("camera", "detect", "project", "track", "decide", "interpolate", "gate", "command", "tick"):
        assert {"p50_ms", "p95_ms", "p99_ms"} <= report["stages"][stage].keys()
    assert json.loads((output / "report.json").read_text(encoding="utf-8")) == report
    assert (output / "config.yaml").is_file()
    assert [path.name for path in (output / "episode_7").iterdir()] == ["ticks.jsonl"]
    shown = capsys.readouterr().out
    assert "1 of 1 placed" in shown
    assert str(output) in shown


def test_what_the_arm_touched_and_which_limits_broke_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    result = EpisodeResult(7, True, True, Outcome.SUCCEEDED, None, "", "done", 4.0, 1, {}, {})
    for contacts, breaches, lines in (
        ({}, {}, []),
        (
            {"clutter": 2, "self": 1},
            {"self_contact": 9},
            ["arm touched: clutter 2, self 1", "limits broken: self_contact 9"],
        ),
    ):
        show_report(summarise_episodes([replace(result, contacts=contacts, limit_breaches=breaches)]), Console())
        shown = capsys.readouterr().out
        assert all(line in shown for line in lines)
        assert ("arm touched" in shown) == bool(lines)


def test_ctrl_c_keeps_the_report_of_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = handeye._pick.run_episodes

    def interrupted(*arguments: Any, **settings: Any) -> Iterator[EpisodeResult]:
        yield next(iter(whole(*arguments, **settings)))
        raise KeyboardInterrupt

    monkeypatch.setattr(handeye._pick, "run_episodes", interrupted)
    report_path = tmp_path / "r.json"
    words = ["pick", CONFIG, "timeout_s=0.5", "--seed", "7", "--episodes", "3", "--json", str(report_path)]
    assert run_command(words) == 1
    assert json.loads(report_path.read_text(encoding="utf-8"))["episodes"] == 1
    assert "first 1 of 3 episodes" in capsys.readouterr().out

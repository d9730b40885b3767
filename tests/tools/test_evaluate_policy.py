"""`handeye evaluate-policy`: an untrained policy is judged and filmed, and what cannot be right is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from handeye.robot.learning.checkpoint import save_policy
from handeye.tools.command_line import run_command
from tests.robot.learning.small_policy import small_policy, untrained_pick_policy

PICK_KEYS = {"episodes", "successes", "success_rate", "wilson_low", "wilson_high", "gate_violations", "failures"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_policy(tmp_path / "untrained.safetensors", untrained_pick_policy())
    return tmp_path / "untrained.safetensors"


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line with which a command of code 2 ends."""
    assert run_command(["evaluate-policy", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


QUICK = ["timeout_s=0.3", "random_faults.nudge_chance=1"]


def test_an_untrained_policy_is_judged_and_leaves_a_report_with_the_agreed_keys(
    checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    assert run_command(["evaluate-policy", str(checkpoint), "--episodes", "1", "--json", str(path), *QUICK]) == 0
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report.keys() >= PICK_KEYS | {"cycle_s_median", "stages", "policy_sha256", "blending"}
    assert (report["episodes"], report["successes"], report["failures"]) == (1, 0, {"episode_timeout": 1})
    assert [row["seed"] for row in report["results"]] == [1000]
    assert report["random_faults"]["nudge_chance"] == 1.0
    assert {"p50_ms", "p95_ms", "p99_ms"} <= report["stages"]["policy"].keys()
    assert report["failure_videos"] == {}


@pytest.mark.slow
def test_failures_are_played_again_and_filmed(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ["--episodes", "2", "--failure-videos", "1", "--workers", "2", "--output", str(output)]
    assert run_command(["evaluate-policy", str(checkpoint), *words, *QUICK]) == 0
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert list(report["failure_videos"]) == ["1000"]
    assert {path.name for path in output.iterdir()} == {"config.yaml", "report.json", "episode_1000"}
    assert {path.name for path in (output / "episode_1000").iterdir()} >= {"video.mp4", "ticks.jsonl"}


def test_wrong_use_is_told_in_one_line(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--episodes 0" in refusal(capsys, str(checkpoint), "--episodes", "0")
    assert "--failure-videos -1" in refusal(capsys, str(checkpoint), "--failure-videos", "-1")
    assert "absent.safetensors" in refusal(capsys, str(tmp_path / "absent.safetensors"))
    assert "absent.onnx" in refusal(capsys, str(tmp_path / "absent.onnx"))
    told = refusal(capsys, str(checkpoint), "learned.blending.kind=averaged")
    assert "synchronous" in told
    told = refusal(capsys, str(checkpoint), "learned.blending.kind=asynchronous")
    assert "learned.blending.simulated_latency_s is not given" in told


def test_weights_that_are_not_finite_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = untrained_pick_policy()
    policy.act.predict_action.bias.data[2] = torch.nan
    save_policy(tmp_path / "spoilt.safetensors", policy)
    assert "act.predict_action.bias holds numbers that are not finite" in refusal(
        capsys, str(tmp_path / "spoilt.safetensors")
    )


def test_a_policy_for_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_policy(tmp_path / "other.safetensors", small_policy())
    assert "its state has q1, q2, grip; picking has qpos_1" in refusal(capsys, str(tmp_path / "other.safetensors"))

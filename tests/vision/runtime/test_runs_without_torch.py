"""A robot computer has neither torch nor the training packages: detection runs there, it does not only import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

WITHOUT_TRAINING = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "safetensors", "onnx", "faster_coco_eval", "matplotlib"}:
            raise ModuleNotFoundError(f"{name} is not to be had here", name=name)

sys.meta_path.insert(0, Refuse())
from handeye.tools.command_line import run_command
code = run_command(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def run_without_training(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TRAINING, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_detect_runs_and_a_checkpoint_reports_the_missing_package(sample, tmp_path: Path):
    model = str(sample("yolox/blood_cells_raw.onnx"))
    image = str(sample("bccd/JPEGImages/BloodImage_00065.jpg"))
    options = [
        "--model-format",
        "yolox",
        "--output",
        str(tmp_path),
        "--json",
        str(tmp_path / "r.json"),
        "--threads",
        "1",
    ]
    done = run_without_training("detect", model, image, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r.json").read_text())["detections"] > 0
    lacking = run_without_training("detect", str(tmp_path / "net.safetensors"), image)
    assert lacking.returncode == 2
    assert "handeye[train]" in lacking.stderr
    assert len(lacking.stderr.strip().splitlines()) == 1


def test_track_runs(sample, tmp_path: Path):
    model = str(sample("yolox/blood_cells_raw.onnx"))
    video = str(sample("video/bottles.mp4"))
    options = ["--model-format", "yolox", "--output", str(tmp_path), "--threads", "1", "--frames", "2"]
    done = run_without_training("track", model, video, *options)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "tracks.jsonl").read_text().splitlines()) == 2

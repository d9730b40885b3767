"""Running needs no torch: every run-time module imports where torch and the training packages do not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = ("torch", "onnx", "torchvision", "accelerate", "safetensors", "faster_coco_eval", "matplotlib")
RUN_TIME = ("vision/boxes", "vision/runtime", "robot", "tools")
# These train or judge; they name torch openly.
TRAINING = {
    "vision.boxes.nms_torch",
    "vision.boxes.targets",
    "tools.train",
    "tools.find_rate",
    "tools.tune",
    "tools.evaluate",
    "tools.models",
    "tools.import_weights",
    "tools.download",
    "tools.train_policy",
    "tools.export_policy",
    "tools.import_policy",
    "robot.learning.act",
    "robot.learning.checkpoint",
    "robot.learning.act_policy",
    "robot.learning.data",
    "robot.learning.export",
    "robot.learning.import_lerobot",
    "robot.learning.config",
    "robot.learning.train",
}
# These need an NVIDIA GPU's packages, which are imported when an engine is opened.
TENSORRT = {"vision.runtime.cuda_driver", "vision.runtime.tensorrt_session"}

BLOCKER = """
import importlib, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ModuleNotFoundError(f"{{name}} is not to be had here", name=name)
sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
print("imported", len({modules!r}))
"""


def run_time_modules() -> list[str]:
    files = [ROOT / f"vision/{name}.py" for name in ("config", "errors", "files", "images")]
    files += [ROOT / f"export/{name}.py" for name in ("bundle", "verify", "tensorrt_command", "tensorrt_faults")]
    for folder in RUN_TIME:
        files += sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.name != "__init__.py"]
    return [name for name in names if name not in TRAINING | TENSORRT]


def import_without_torch(modules: list[str]) -> subprocess.CompletedProcess[str]:
    code = BLOCKER.format(forbidden=FORBIDDEN, modules=modules)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_run_time_modules_import_without_torch() -> None:
    modules = run_time_modules()
    assert len(modules) > 30
    result = import_without_torch(modules)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["vision.detector", "vision.training.train_detector"])
def test_the_blocker_blocks(module: str) -> None:
    result = import_without_torch([module])
    assert result.returncode != 0
    assert "not to be had here" in result.stderr

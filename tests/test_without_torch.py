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
    "handeye.vision.boxes.nms_torch",
    "handeye.vision.boxes.targets",
    "handeye.tools.train",
    "handeye.tools.find_rate",
    "handeye.tools.tune",
    "handeye.tools.evaluate",
    "handeye.tools.models",
    "handeye.tools.import_weights",
    "handeye.tools.download",
    "handeye.tools.train_policy",
    "handeye.tools.export_policy",
    "handeye.tools.import_policy",
    "handeye.robot.learning.act",
    "handeye.robot.learning.checkpoint",
    "handeye.robot.learning.act_policy",
    "handeye.robot.learning.data",
    "handeye.robot.learning.export",
    "handeye.robot.learning.import_lerobot",
    "handeye.robot.learning.config",
    "handeye.robot.learning.train",
}
# These need an NVIDIA GPU's packages, which are imported when an engine is opened.
TENSORRT = {"handeye.vision.runtime.cuda_driver", "handeye.vision.runtime.tensorrt_session"}

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


@pytest.mark.parametrize("module", ["handeye.vision.detector", "handeye.vision.training.train_detector"])
def test_the_blocker_blocks(module: str) -> None:
    result = import_without_torch([module])
    assert result.returncode != 0
    assert "not to be had here" in result.stderr

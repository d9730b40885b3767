"""Running needs no torch: every run-time module imports where torch and the training packages do not exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = ("torch", "onnx", "torchvision", "accelerate", "safetensors", "faster_coco_eval", "matplotlib")
RUN_TIME = ("vision/boxes", "vision/runtime", "vision/tracking", "robot", "tools")
# These train or measure; they name torch openly.
TRAINING = {
    "vision/boxes/targets.py",
    "robot/learning",
    "tools/train.py",
    "tools/find_lr.py",
    "tools/tune.py",
    "tools/evaluate.py",
    "tools/models.py",
    "tools/import_weights.py",
    "tools/download.py",
    "tools/train_policy.py",
    "tools/export_policy.py",
    "tools/import_policy.py",
}
# These need an NVIDIA GPU's packages, which are imported when an engine is opened.
TENSORRT = {"vision/runtime/cuda_driver.py", "vision/runtime/tensorrt_session.py"}

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
    files += [ROOT / f"export/{name}.py" for name in ("pipeline", "request", "result", "acceptance", "agreement")]
    files += [ROOT / "export/tensorrt/build_options.py", *(ROOT / "export/bundle").glob("*.py")]
    for folder in RUN_TIME:
        files += (ROOT / folder).rglob("*.py")
    out = [ROOT / name for name in TRAINING | TENSORRT]
    assert all(path.exists() for path in out), "a module that is left out does not exist"
    kept = [file for file in sorted(files) if file.name != "__init__.py" and not {file, file.parent} & set(out)]
    return [".".join(("handeye", *file.relative_to(ROOT).with_suffix("").parts)) for file in kept]


def import_without_torch(modules: list[str]) -> subprocess.CompletedProcess[str]:
    code = BLOCKER.format(forbidden=FORBIDDEN, modules=modules)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_run_time_modules_import_without_torch() -> None:
    modules = run_time_modules()
    assert len(modules) > 100
    result = import_without_torch(modules)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("module", ["handeye.vision.detector", "handeye.vision.training.train_detector"])
def test_the_blocker_blocks(module: str) -> None:
    result = import_without_torch([module])
    assert result.returncode != 0
    assert "not to be had here" in result.stderr

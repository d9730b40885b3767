"""One import name: `handeye` and nothing else, each module loaded once, nothing loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_no_file_is_loaded_under_two_names() -> None:
    """Every module of ours is imported; each file must then stand behind one name, which begins with `handeye.`.

    That none is imported by another name is read from the sources by the default tests (`tests/test_arrows.py`).
    """
    code = """
import importlib, sys
from pathlib import Path
root = Path("src/handeye").resolve()
names = [
    ".".join(("handeye", package, *path.relative_to(root / package).with_suffix("").parts))
    for package in ("vision", "robot", "export", "tools")
    for path in sorted((root / package).rglob("*.py"))
    if path.name != "__init__.py"
]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert (error.name or "").partition(".")[0] in {"tensorrt", "cuda", "gym_pusht", "optuna"}, error
files = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and Path(file).is_absolute() and Path(file).resolve().is_relative_to(Path.cwd()) and ".venv" not in file:
        files.setdefault(Path(file).resolve(), set()).add(name)
twice = {str(file): names for file, names in files.items() if len(names) > 1}
assert not twice, twice
strange = [name for names in files.values() for name in names if name.partition(".")[0] not in ("handeye", "__main__")]
assert not strange, strange
print(len(files))
"""
    assert int(run(code)) > 250


def test_importing_it_loads_neither_torch_nor_an_engine_nor_opencv() -> None:
    code = (
        "import handeye, sys; print(sorted({'torch', 'onnxruntime', 'openvino', 'cv2', 'mujoco'} & set(sys.modules)))"
    )
    assert run(code) == "[]"


def test_a_training_is_configured_without_torchvision_and_torchs_compiler() -> None:
    """Together they take longer to import than torch itself; an optimizer loads the compiler when it is made."""
    code = (
        "import sys, handeye.vision.training.config;"
        "print(sorted({'torchvision', 'torch._dynamo'} & set(sys.modules)), 'torch' in sys.modules)"
    )
    assert run(code) == "[] True"


@pytest.mark.parametrize("package", ["vision", "robot", "export", "tools"])
def test_the_packages_are_the_folders_at_the_top(package: str) -> None:
    assert (ROOT / "src" / "handeye" / package).resolve() == ROOT / package


def test_a_checkout_without_symbolic_links_is_told_what_to_do(tmp_path: Path) -> None:
    """Git writes a link as a small text file where it may not make links, as on Windows."""
    package = tmp_path / "handeye"
    package.mkdir()
    (package / "__init__.py").write_bytes((ROOT / "src/handeye/__init__.py").read_bytes())
    (package / "vision").write_text("../../vision", encoding="utf-8")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import handeye"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "core.symlinks" in done.stderr

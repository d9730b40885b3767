"""Environments from nothing: wheel and source distribution without torch or checkout, and what `make setup` builds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from handeye.tools.command_line import run_command

ROOT = Path(__file__).resolve().parents[2]


def run_checked(*words: str | Path, folder: Path) -> str:
    """Standard output; fails with what was printed."""
    run = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def pip(*words: str | Path) -> None:
    run = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def fresh_python(package_index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that holds handeye's wheel, what it requires, and ONNX Runtime.

    The wheel is made from the source distribution, so that both are proven.
    """
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = (folder / "dist").glob("handeye-*.tar.gz")
    pip("wheel", "-q", "--no-deps", "--wheel-dir", folder / "dist", sdist)
    (wheel,) = (folder / "dist").glob("handeye-*.whl")
    venv.create(folder / "fresh", with_pip=False, symlinks=True)
    python = folder / "fresh/bin/python"
    words = ("-q", "--no-compile", "--constraint", ROOT / "constraints.txt")
    pip("--python", python, "install", *words, wheel, "onnxruntime")
    return python


DETECT = """
import handeye
detections = handeye.load({model!r})({image!r})
assert len(detections) > 3, detections
print(handeye.__file__)
"""


@pytest.mark.slow
def test_what_is_installed_is_called_handeye_and_detects(fresh_python: Path, tmp_path: Path):
    site = Path(
        run_checked(
            fresh_python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=tmp_path
        ).strip()
    )
    record = next(site.glob("handeye-*.dist-info")) / "RECORD"
    names = {line.split(",")[0].split("/")[0] for line in record.read_text().splitlines()}
    assert {name for name in names if not name.startswith(("handeye-", ".."))} == {"handeye"}
    assert (site / "handeye/py.typed").is_file()
    absent = "import importlib.util as u; print([n for n in ('vision', 'robot', 'export', 'tools') if u.find_spec(n)])"
    assert run_checked(fresh_python, "-c", absent, folder=tmp_path).strip() == "[]"
    image = ROOT / "tests/data/bccd/JPEGImages/BloodImage_00038.jpg"
    code = DETECT.format(model=str(ROOT / "tests/data/yolox/blood_cells.onnx"), image=str(image))
    assert Path(run_checked(fresh_python, "-c", code, folder=tmp_path).strip()).is_relative_to(site)
    assert "onnxruntime" in run_checked(fresh_python.with_name("handeye"), "doctor", folder=tmp_path)


@pytest.mark.slow
def test_a_bundle_is_proven_where_there_is_no_torch(fresh_python: Path, tmp_path: Path):
    bundle, scratch = tmp_path / "tabletop.handeye.zip", tmp_path / "scratch"
    scratch.mkdir()
    model = ROOT / "vision/weights/tabletop_nano.onnx"
    assert run_command(["bundle", str(model), "--count", "3", "--output", str(bundle)]) == 0
    absent = "import importlib.util as u; print([name for name in ('torch', 'onnx', 'openvino') if u.find_spec(name)])"
    assert run_checked(fresh_python, "-c", absent, folder=scratch).strip() == "[]"
    where = run_checked(
        fresh_python, "-c", "import handeye.export.bundle.verify as v; print(v.__file__)", folder=scratch
    )
    assert Path(where.strip()).is_relative_to(fresh_python.parents[1])
    handeye = fresh_python.with_name("handeye")
    quick = ("--repeats", "5", "--pause-s", "0", "--json", "verified.json")
    assert "3 golden images: pass" in run_checked(handeye, "verify", bundle, *quick, folder=scratch)
    (model,) = json.loads((scratch / "verified.json").read_text())["models"]
    assert model["engine"].startswith("onnxruntime")
    assert (model["unmatched"], model["matched"] >= 3) == (0, True)

    damaged = bytearray(bundle.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    bundle.write_bytes(damaged)
    run = subprocess.run([handeye, "verify", bundle], cwd=scratch, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert "damaged" in run.stderr


@pytest.mark.slow
def test_make_sets_a_fresh_checkout_up_and_asks_no_index_again(package_index: None, tmp_path: Path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in (".ci", "src", "vision", "robot", "export", "tools"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    words = ["make", "--silent", "setup", f"PYTHON={sys.executable}"]
    first = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "installing run time and simulator" in first.stdout
    help_shown = run_checked(checkout / ".venv/bin/handeye", "--help", folder=tmp_path)
    assert "pick" in help_shown

    unreachable = os.environ | {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0"}
    second = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=unreachable)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")

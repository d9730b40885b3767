"""Requirements of the Jetsons: complete, free of contradictions, and all of them wheels that the index has."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from handeye.export.bundle.pack import REQUIREMENTS

BOARDS = {"jetpack6-cp310.txt": "3.10", "jetpack7-cp312.txt": "3.12"}
PLATFORMS = [f"manylinux{tag}_aarch64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014")]
"""JetPack 6 has glibc 2.35, JetPack 7 has 2.39; pip takes a wheel's tags literally when a platform is named."""
FOR_THE_ENGINES = {"onnxruntime", "cuda-bindings"}
"""Of the extras cpu and tensorrt; TensorRT itself comes with JetPack."""


def pins(file: str) -> dict[str, str]:
    """Version by name of package."""
    lines = (line.partition("#")[0].strip() for line in (REQUIREMENTS / file).read_text().splitlines())
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


def environment(python: str) -> dict[str, str]:
    """What markers see on a Jetson."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.12",
        "python_version": python,
        "sys_platform": "linux",
        "extra": "",
    }


def unmet(wanted: list[Requirement], pinned: dict[str, str], python: str) -> list[str]:
    """Those that apply on the board and that no pin satisfies."""
    apply = [one for one in wanted if one.marker is None or one.marker.evaluate(environment(python))]
    return [
        str(one)
        for one in apply
        if not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"), prereleases=True)
        or canonicalize_name(one.name) not in pinned
    ]


@pytest.mark.parametrize(("file", "python"), BOARDS.items())
def test_everything_that_the_run_time_needs_is_pinned(file: str, python: str):
    wanted = [Requirement(line) for line in requires("handeye") or []]
    for_engines = [Requirement(f"{one.name}{one.specifier}") for one in wanted if one.name in FOR_THE_ENGINES]
    assert {one.name for one in for_engines} == FOR_THE_ENGINES
    assert unmet([*wanted, *for_engines], pins(file), python) == []


def test_a_missing_and_a_wrong_pin_are_noticed():
    wanted = [Requirement("numpy>=2"), Requirement("tomli; python_version < '3.11'"), Requirement("rich; extra == 'x'")]
    assert unmet(wanted, {"numpy": "1.26"}, "3.10") == ["numpy>=2", 'tomli; python_version < "3.11"']
    assert unmet(wanted, {"numpy": "2.1"}, "3.12") == []


def test_a_bundle_carries_one_list_for_each_board():
    assert {file.name for file in REQUIREMENTS.glob("*.txt")} == set(BOARDS)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "python"), BOARDS.items())
def test_every_pin_is_a_wheel_and_together_they_are_complete(
    package_index: None, tmp_path: Path, file: str, python: str
):
    """The index is asked for metadata only. pip itself evaluates markers for this Python, not for the board's."""
    found = _metadata(file, python, tmp_path)
    pinned = pins(file)
    assert {canonicalize_name(one["name"]): one["version"] for one in found} == pinned
    for one in found:
        wanted = [Requirement(line) for line in one.get("requires_dist", [])]
        assert unmet(wanted, pinned, python) == [], one["name"]
        assert SpecifierSet(one.get("requires_python", "")).contains(f"{python}.12"), one["name"]


def _metadata(file: str, python: str, folder: Path) -> list[dict[str, Any]]:
    """The wheels' metadata; pip fails when a pin has no wheel for the board."""
    report = folder / "report.json"
    words = ["--dry-run", "--no-deps", "--ignore-installed", "--ignore-requires-python", "--only-binary", ":all:"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    words += ["--implementation", "cp", "--python-version", python, "--target", str(folder / "none")]
    words += ["--report", str(report), "--requirement", str(REQUIREMENTS / file)]
    run = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [one["metadata"] for one in json.loads(report.read_text())["install"]]

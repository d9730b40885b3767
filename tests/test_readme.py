"""Every command in the README runs as written.

Fenced blocks marked `sh` run line by line in one scratch folder that holds what a clone does, with nothing beside it;
a block whose info string adds `slow` runs with the slow tests, one that adds `hardware` is only parsed, because it
needs a device or data that are not here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(kind: str) -> list[list[str]]:
    """The blocks of one kind, each a list of command lines."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [block.strip().splitlines() for info, block in BLOCK.findall(text) if info.strip() == kind]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that looks like a fresh clone to a command."""
    checkout = tmp_path / "handeye"
    for folder in ("configs", "tests/data", "vision/weights"):
        (checkout / folder).parent.mkdir(parents=True, exist_ok=True)
        (checkout / folder).symlink_to(ROOT / folder)
    return checkout


def run_line(line: str, folder: Path) -> None:
    command = line.split("#")[0].strip()
    if not command:
        return
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


@pytest.mark.parametrize("lines", commands(""), ids=lambda lines: lines[0])
def test_readme_block(lines: list[str], scratch: Path) -> None:
    for line in lines:
        run_line(line, scratch)


@pytest.mark.slow
@pytest.mark.parametrize("lines", commands("slow"), ids=lambda lines: lines[0])
def test_slow_readme_block(lines: list[str], scratch: Path) -> None:
    for line in lines:
        run_line(line, scratch)


def test_readme_commands_name_verbs_and_make_targets_that_exist() -> None:
    from handeye.tools.command_line import VERBS

    lines = [
        line.split("#")[0].split() for kind in ("", "slow", "hardware") for block in commands(kind) for line in block
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert lines, "the README shows no command"
    for words in filter(None, lines):
        if words[0] == "handeye":
            assert words[1] in {verb.name for verb in VERBS}, words
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words

"""Every command and Python block of README.md and docs/ runs as written.

Fenced blocks marked `sh` run line by line in one scratch folder that holds what a clone holds, with nothing beside it;
a block whose info string adds `slow` runs with the slow tests, one that adds `hardware` is only parsed, because it
needs a device or data that are not here. Blocks marked `python` run in such a folder too, and print what the block
behind them says.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def commands(kind: str) -> list[tuple[str, list[str]]]:
    """The blocks of one kind: page and command lines."""
    return [
        (page.name, block.strip().splitlines())
        for page in PAGES
        for info, block in BLOCK.findall(page.read_text(encoding="utf-8"))
        if info.strip() == kind
    ]


def python_blocks() -> list[tuple[str, str, str]]:
    """Page, code and the output that the page shows; empty where it shows none."""
    return [(page.name, *found) for page in PAGES for found in PYTHON.findall(page.read_text(encoding="utf-8"))]


def title(value: object) -> str | None:
    return value[0] if isinstance(value, list) else None


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that looks like a fresh clone to a command."""
    checkout = tmp_path / "handeye"
    for folder in ("configs", "tests/data", "vision/weights", "robot/weights"):
        (checkout / folder).parent.mkdir(parents=True, exist_ok=True)
        (checkout / folder).symlink_to(ROOT / folder)
    return checkout


def run(words: list[str], folder: Path) -> str:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def run_line(line: str, folder: Path) -> None:
    if command := line.split("#")[0].strip():
        run(["bash", "-c", command], folder)


@pytest.mark.parametrize(("page", "lines"), commands(""), ids=title)
def test_block(page: str, lines: list[str], scratch: Path) -> None:
    for line in lines:
        run_line(line, scratch)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "lines"), commands("slow"), ids=title)
def test_slow_block(page: str, lines: list[str], scratch: Path) -> None:
    for line in lines:
        run_line(line, scratch)


@pytest.mark.parametrize(("page", "code", "shown"), python_blocks())
def test_python_block(page: str, code: str, shown: str, scratch: Path) -> None:
    """Engines differ in the last digits: what is shown is compared word by word, numbers by value."""
    printed = run([sys.executable, "-c", code], scratch)
    if shown:
        assert [as_number(word) for word in printed.split()] == [as_number(word) for word in shown.split()]


def as_number(word: str) -> object:
    try:
        return pytest.approx(float(word.strip("[]")), abs=2 if "." not in word else 0.03)
    except ValueError:
        return word


def test_commands_name_verbs_and_make_targets_that_exist() -> None:
    from handeye.tools.command_line import VERBS

    blocks = [block for kind in ("", "slow", "hardware") for block in commands(kind)]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {page.name for page in PAGES} > {"README.md", "detect.md", "train.md"}
    assert len(blocks) > 15, "the pages show hardly any command"
    for page, lines in blocks:
        for words in filter(None, (line.split("#")[0].split() for line in lines)):
            if words[0] == "handeye":
                assert words[1] in {verb.name for verb in VERBS}, (page, words)
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), (page, words)


def test_every_verb_has_its_place_in_the_pages() -> None:
    from handeye.tools.command_line import VERBS

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not [verb.name for verb in VERBS if not re.search(rf"handeye {verb.name}\b|`{verb.name}`", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_need_nothing_that_a_clone_does_not_hold(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "../shared" not in text
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"

"""How `make` comes to its environment, with stand-ins for Python that answer as the real ones do and note pip's calls.

The real ones build `.venv` whenever these tests are run by `make test`, and in `test_fresh_environment.py`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SetUp = Callable[..., subprocess.CompletedProcess[str]]
NEEDED = "handeye needs Python 3.11, 3.12 or 3.13 with venv and pip."
STAND_IN = """#!/bin/bash
case "$*" in
  *sys.version_info*) echo {version} ;;
  *ensurepip*) exit {without_pip} ;;
  "-m venv --clear .venv")
    rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python
    printf '%s = %s\\n' home "${{0%/*}}" version {version}.1 command "$0 -m venv $PWD/.venv" > .venv/pyvenv.cfg
    [ ! -e hang ] || {{ touch hangs; sleep 30; }} ;;
  "-m pip install"*)
    [ ! -e offline ] || {{ echo "WARNING: Location is ignored"; echo "ERROR: No matching distribution"; exit 1; }}
    echo "Downloading torch-2.0.whl (900.1 MB)"; echo "Downloading rich-1.whl.metadata (5.0 kB)"
    echo "${{!#}}" >> pip_calls ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setting up reads; no Python is in its PATH but those that a test puts into bin."""
    folder = tmp_path / "check out"
    (folder / ".ci").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/set-up", ".ci/workers"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def stand_in(checkout: Path, name: str, version: str, *, without_pip: bool = False) -> Path:
    file = checkout / "bin" / name
    file.write_text(STAND_IN.format(version=version, without_pip=int(without_pip)))
    file.chmod(0o755)
    return file


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with the system's tools and without any Python of the system."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("env", "bash", "sh", "make", "sed", "cut", "cat", "cksum", "rm", "mkdir", "cp", "touch", "sleep"):
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    for name in ("awk", "nproc", "getconf", "basename", "dirname"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    return str(tools)


@pytest.fixture
def set_up(checkout: Path, path: str) -> SetUp:
    """Runs `make setup` or another target, with the stand-ins before the system's tools."""

    def run(*words: str, target: str = "setup") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--silent", target, *words],
            cwd=checkout,
            env={"PATH": f"{checkout / 'bin'}:{path}"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def pip_calls(checkout: Path) -> list[str]:
    file = checkout / "pip_calls"
    return file.read_text().split() if file.exists() else []


def made_by(checkout: Path) -> str:
    return (checkout / ".venv/pyvenv.cfg").read_text()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", ["python3", "numbered"])
def test_each_version_is_found_under_either_name(set_up: SetUp, checkout: Path, version: str, name: str):
    name = f"python{version}" if name == "numbered" else name
    stand_in(checkout, name, version)
    run = set_up()
    assert run.returncode == 0, run.stderr
    assert f"building .venv with {checkout}/bin/{name}, Python {version}" in run.stdout
    assert "225 MB to download, 1 to 3 minutes" in run.stdout
    assert pip_calls(checkout) == [".[cpu,sim,robot]"]


def test_the_newest_is_taken_that_starts_and_makes_environments(set_up: SetUp, checkout: Path):
    stand_in(checkout, "python3", "3.10")
    stand_in(checkout, "python3.13", "3.13", without_pip=True)
    stand_in(checkout, "python3.12", "3.12").write_text("#!/bin/bash\necho 'command not found' >&2\nexit 127\n")
    stand_in(checkout, "python3.11", "3.11")
    assert set_up().returncode == 0
    assert "version = 3.11.1" in made_by(checkout)


def test_a_python_behind_one_that_does_not_start_is_found(set_up: SetUp, checkout: Path, path: str):
    shutil.move(stand_in(checkout, "python3.12", "3.12"), path)
    stand_in(checkout, "python3.12", "3.12").write_text("#!/bin/bash\nexit 127\n")
    assert f"building .venv with {path}/python3.12" in set_up().stdout


def test_where_none_will_do_each_is_named_with_its_reason(set_up: SetUp, checkout: Path):
    run = set_up()
    assert (run.returncode, run.stdout) == (2, "")
    assert NEEDED in run.stderr
    assert "no python3" in run.stderr

    stand_in(checkout, "python3", "3.14")
    stand_in(checkout, "python3.12", "3.12", without_pip=True)
    stand_in(checkout, "python3.11", "3.11").write_text("#!/bin/bash\nexit 127\n")
    run = set_up()
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{checkout}/bin/python3 is Python 3.14\n" in run.stderr
    assert "python3.12 (Python 3.12) comes without venv and pip; on Debian and Ubuntu: apt install python3.12-venv" in (
        run.stderr
    )
    assert f"{checkout}/bin/python3.11 does not start\n" in run.stderr
    assert not (checkout / ".venv").exists()


def test_one_that_is_named_is_taken_or_refused(set_up: SetUp, checkout: Path):
    stand_in(checkout, "python3", "3.11")
    stand_in(checkout, "other", "3.13")
    stand_in(checkout, "old", "3.10")
    run = set_up("PYTHON=old")
    assert run.returncode == 2
    assert "bin/old is Python 3.10" in run.stderr
    assert set_up("PYTHON=missing").returncode == 2
    assert not (checkout / ".venv").exists()
    assert set_up("PYTHON=other").returncode == 0
    assert "version = 3.13.1" in made_by(checkout)

    assert set_up().returncode == 0, "what is there is used, whichever was named for it"
    run = set_up("PYTHON=python3")
    assert run.returncode == 2
    assert ".venv holds Python 3.13 and PYTHON=python3 is 3.11" in run.stderr
    assert "version = 3.13.1" in made_by(checkout)


def test_a_second_call_installs_nothing_and_an_edit_does(set_up: SetUp, checkout: Path):
    stand_in(checkout, "python3", "3.12")
    assert set_up().returncode == 0
    (checkout / "pyproject.toml").touch()
    run = set_up()
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert len(pip_calls(checkout)) == 1

    before = (checkout / "constraints.txt").read_text()
    (checkout / "constraints.txt").write_text(before + "another==1\n")
    assert "constraints.txt has changed: bringing .venv up to date" in set_up().stdout
    assert pip_calls(checkout) == [".[cpu,sim,robot]"] * 2

    (checkout / "constraints.txt").write_text(before + "another==2\n")
    (checkout / "offline").touch()
    assert set_up().returncode == 2
    (checkout / "offline").unlink()
    (checkout / "constraints.txt").write_text(before + "another==1\n")
    assert set_up().returncode == 0
    assert len(pip_calls(checkout)) == 3, "what failed half-way is not taken for what was there before"


def test_the_tests_need_one_installation_and_the_demo_none_after_it(set_up: SetUp, checkout: Path):
    stand_in(checkout, "python3", "3.12")
    run = set_up(target="setup-test")
    assert run.returncode == 0
    assert "PyTorch" in run.stdout
    assert "  Downloading torch-2.0.whl (900.1 MB)" in run.stdout
    assert "metadata" not in run.stdout
    assert set_up().stdout == set_up(target="setup-test").stdout == ""
    assert pip_calls(checkout) == [".[test]"]


def test_an_installation_that_failed_says_why_and_is_repeated(set_up: SetUp, checkout: Path):
    stand_in(checkout, "python3", "3.12")
    (checkout / "offline").touch()
    run = set_up()
    assert run.returncode == 2
    assert "ERROR: No matching distribution" in run.stderr
    assert "Location" not in run.stdout + run.stderr
    assert pip_calls(checkout) == []
    (checkout / "offline").unlink()
    run = set_up()
    assert run.returncode == 0
    assert "building" not in run.stdout
    assert pip_calls(checkout) == [".[cpu,sim,robot]"]


def test_an_environment_that_is_interrupted_while_it_is_made_leaves_nothing(checkout: Path, path: str):
    stand_in(checkout, "python3", "3.12")
    (checkout / "hang").touch()
    process = subprocess.Popen(
        [checkout / ".ci/set-up", "run"],
        env={"PATH": f"{checkout / 'bin'}:{path}"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # Where the tests run in the background of a shell, SIGINT is ignored and stays so in what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while process.poll() is None and not (checkout / "hangs").exists():
        time.sleep(0.01)
    assert (checkout / ".venv").exists()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=600) != 0
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda venv: (venv / "bin/python").unlink(), "its Python in {bin} is gone"),
        (
            lambda venv: stand_in(venv.parent, "../.venv/bin/python", "3.13"),
            "it was made by Python 3.12, which is 3.13 now",
        ),
        (
            lambda venv: (venv / "pyvenv.cfg").write_text(
                "version = 3.12.1\ncommand = python3 -m venv /home/other/.venv\n"
            ),
            "it was made in another folder",
        ),
    ],
    ids=["gone", "upgraded", "moved"],
)
def test_an_environment_that_no_longer_works_is_named_and_made_anew(
    set_up: SetUp, checkout: Path, harm: Callable[[Path], object], reason: str
):
    stand_in(checkout, "python3", "3.12")
    assert set_up().returncode == 0
    harm(checkout / ".venv")
    run = set_up()
    assert run.returncode == 0, run.stderr
    assert f"building .venv anew: {reason.format(bin=checkout / 'bin')}" in run.stdout
    assert "version = 3.12.1" in made_by(checkout)
    assert len(pip_calls(checkout)) == 2


def test_an_environment_of_another_version_is_kept_and_refused(set_up: SetUp, checkout: Path):
    old = stand_in(checkout, "python3", "3.10")
    subprocess.run([old, "-m", "venv", "--clear", ".venv"], cwd=checkout, check=True)
    stand_in(checkout, "python3", "3.12")
    run = set_up()
    assert run.returncode == 2
    assert ".venv holds Python 3.10, handeye needs 3.11, 3.12 or 3.13: `make clean` removes .venv." in run.stderr
    assert "version = 3.10.1" in made_by(checkout)

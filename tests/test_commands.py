"""The contract of the command line: every verb explains itself, and mistakes end in one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from handeye.tools.command_line import VERBS, run_command


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run_command([verb, "--help"])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert f"handeye {verb}" in output
    assert "--json" in output or verb == "show-config"


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(verb.summary in output for verb in VERBS)


@pytest.mark.parametrize("words", [[], ["fly"]])
def test_no_verb_or_an_unknown_one_is_wrong_use(words: list[str]) -> None:
    assert run_command(words) == 2


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS if verb.name != "import"])
def test_an_unknown_option_is_wrong_use(verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    two = {"detect": [absent, absent], "track": [absent, absent]}
    words = two | {"evaluate": [absent], "export": [absent], "benchmark": [absent]}
    try:
        code = run_command([verb, *words.get(verb, []), "--no-such-option", "1"])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("in the way")
    assert run_command(["calibrate", "board", str(tmp_path / "notes.txt" / "board.png")]) == 2
    told = capsys.readouterr().err.strip()
    assert "notes.txt" in told
    assert len(told.splitlines()) == 1

"""The contract of the command line: every verb explains itself, and mistakes end in one line and exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from handeye.tools.command_line import GROUPS, VERBS, run_command

# The positional arguments of each verb as its usage line shows them.
POSITIONALS = {
    "check-dataset": "ANNOTATIONS",
    "convert-dataset": "SOURCE",
    "check-demonstrations": "DATASET",
    "show-demonstrations": "DATASET",
    "train": "[CONFIG]",
    "train-policy": "[CONFIG]",
    "find-lr": "CONFIG",
    "tune": "CONFIG",
    "show-config": "CONFIG",
    "download": "NAME",
    "import": "NAME CHECKPOINT",
    "import-policy": "FOLDER",
    "evaluate": "MODEL",
    "export": "MODEL",
    "benchmark": "MODEL",
    "evaluate-policy": "POLICY",
    "evaluate-pusht": "POLICY",
    "evaluate-tracks": "TRACKS",
    "detect": "MODEL SOURCE",
    "track": "MODEL SOURCE",
    "track-files": "DETECTIONS",
    "pick": "[CONFIG]",
    "record": "[CONFIG]",
    "replay": "DATASET",
}


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        run_command([*words, "--help"])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("verb", "width"), [*((verb.name, 80) for verb in VERBS), ("detect", 120), ("track", 120)])
def test_every_verb_explains_itself(
    verb: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    output = help_of([verb], capsys)
    usage = output.splitlines()[0]
    assert usage.startswith(f"usage: handeye {verb} ")
    assert f" {POSITIONALS.get(verb, '')}" in usage
    assert "STR" not in usage.partition("[OPTIONS]")[2]
    assert "PATH" not in usage.partition("[OPTIONS]")[2]
    assert "--json" in output or verb in ("show-config", "calibrate")
    prose, mark, examples = output.partition("\nexamples:\n")
    assert mark
    assert all(len(line) <= width for line in prose.splitlines()[1:])
    assert "\n\n\n" not in output
    shown = [line.split() for line in examples.splitlines() if line.startswith("  handeye ")]
    assert all(words[1] == verb for words in shown)
    assert shown


@pytest.mark.parametrize("step", ["board", "intrinsics", "poses", "hand-eye", "check"])
def test_every_step_of_a_calibration_explains_itself(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json" in help_of(["calibrate", step], capsys)


def test_help_shows_no_none_where_it_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    output = help_of(["detect"], capsys)
    assert "None" not in output
    assert "--threads INT" in output


def test_the_overview_names_every_verb_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    output = capsys.readouterr().out
    assert list(GROUPS) == ["Data", "Train", "Evaluate and deploy", "Run", "Calibrate", "Robot"]
    assert [line for line in output.splitlines() if line in GROUPS] == list(GROUPS)
    assert all(f"  {verb.name} " in output and verb.summary in output for verb in VERBS)
    assert len({verb.name for verb in VERBS}) == len(VERBS)
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("words", [[], ["fly"]])
def test_no_verb_or_an_unknown_one_is_wrong_use(words: list[str]) -> None:
    assert run_command(words) == 2


@pytest.mark.parametrize(
    ("word", "told"), [("detct", "did you mean 'detect'?"), ("evalute", "did you mean 'evaluate'?"), ("fly", "--help")]
)
def test_an_unknown_command_is_named_with_a_suggestion(
    word: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"handeye: error: unknown command {word!r}")
    assert told in error
    assert error.count("\n") == 1


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

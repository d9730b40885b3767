"""A run folder is begun once, its journals survive kills, and it says what made it."""

from __future__ import annotations

import json
import subprocess

import numpy
import pytest
from packaging.requirements import Requirement

from handeye.vision.config import load_config
from handeye.vision.errors import UserError
from handeye.vision.training import run_folder
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_folder import Journal, RunFolder

CONFIG = TrainDetectorConfig.model_validate(
    {"detector": {"num_classes": 2}, "data": {"annotations": "a.json", "images": "images"}}
)


def test_the_folder_holds_the_resolved_configuration_and_its_origin(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    assert load_config(TrainDetectorConfig, run.config) == CONFIG
    origin = json.loads((run.path / "run.json").read_text())
    assert origin["packages"]["torch"]
    assert isinstance(origin["command"], list)
    assert origin["git"] is None or len(origin["git"]["commit"]) == 40
    assert origin["started"].endswith("+00:00")


def test_the_versions_of_all_packages_are_kept_as_constraints(tmp_path):
    lines = RunFolder.create(tmp_path / "run", CONFIG).constraints.read_text().splitlines()
    constraints = [Requirement(line) for line in lines]
    names = [constraint.name for constraint in constraints]
    assert {"torch", "numpy", "pydantic"} <= set(names)
    assert "handeye" not in names
    assert names == sorted(set(names))
    assert f"numpy=={numpy.__version__}" in lines


def test_outside_a_repository_there_is_no_git_state(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(run_folder, "__file__", str(tmp_path / "run_folder.py"))
    assert run_folder.describe_origin()["git"] is None


def test_inside_a_repository_changed_files_are_told(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    source = tmp_path / "run_folder.py"
    source.write_text("one")
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*names, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(run_folder, "__file__", str(source))
    assert run_folder.describe_origin()["git"]["modified"] is False
    source.write_text("other")
    assert run_folder.describe_origin()["git"]["modified"] is True


def test_a_run_is_never_begun_over_another(tmp_path):
    RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(tmp_path / "run", CONFIG)


def test_a_mistake_before_the_first_step_frees_the_name(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    run = RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="no images"), run.kept_once_begun():
        raise UserError("no images")
    assert [path.name for path in run.path.iterdir()] == ["thesis.txt"]
    RunFolder.create(tmp_path / "run", CONFIG)


def test_a_mistake_after_the_first_step_keeps_the_run(tmp_path):
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.steps.append({"step": 0})
    with pytest.raises(UserError), run.kept_once_begun():
        raise UserError("an image has vanished")
    assert run.config.exists()


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        RunFolder.open(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(UserError, match="is a file"):
        RunFolder.create(tmp_path / "run", CONFIG)


def test_free_names_count_up(tmp_path):
    assert RunFolder.free_name(tmp_path, "nano") == tmp_path / "nano"
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano-2").mkdir()
    assert RunFolder.free_name(tmp_path, "nano") == tmp_path / "nano-3"


def test_a_line_cut_off_by_a_kill_is_left_out_and_overwritten(tmp_path):
    journal = Journal(tmp_path / "steps.jsonl")
    for step in range(4):
        journal.append({"step": step})
    with journal.path.open("a") as file:
        file.write('{"step": 4, "los')
    assert [entry["step"] for entry in journal.read()] == [0, 1, 2, 3]
    journal.keep(lambda entry: entry["step"] < 3)
    journal.append({"step": 3, "again": True})
    assert journal.read() == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


def test_an_absent_journal_is_empty(tmp_path):
    journal = Journal(tmp_path / "steps.jsonl")
    journal.keep(lambda entry: False)
    assert journal.read() == []

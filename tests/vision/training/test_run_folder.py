"""A run folder is begun once, its journals survive kills, and it says what made it."""

from __future__ import annotations

import json

import pytest

from vision.config import load_config
from vision.errors import UserError
from vision.training.config import TrainDetectorConfig
from vision.training.run_folder import Journal, RunFolder

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


def test_a_run_is_never_begun_over_another(tmp_path):
    RunFolder.create(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="--resume"):
        RunFolder.create(tmp_path / "run", CONFIG)


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

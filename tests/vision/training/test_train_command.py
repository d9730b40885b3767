"""`handeye train` and `handeye show-config` as a user calls them; every shipped training configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from handeye.tools.command_line import run_command
from handeye.tools.show_config import config_type_of
from handeye.vision.checkpoints.native import load_detector
from handeye.vision.config import load_config
from handeye.vision.detector import Detector
from handeye.vision.errors import ConfigError
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_folder import RunFolder

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "detector"
SMOKE = str(CONFIGS / "smoke.yaml")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_data(folder: Path) -> list[str]:
    annotations, images = str(folder / "annotations.json"), str(folder / "images")
    words = ["--data.annotations", annotations, "--data.images", images]
    return [*words, "--data.val-annotations", annotations, "--data.val-images", images, "data.num_workers=0"]


@pytest.mark.usefixtures("quick_figures")
def test_training_on_other_data_writes_what_the_contract_says(drawn_set, tmp_path):
    run, result = RunFolder(tmp_path / "run"), tmp_path / "result.json"
    words = ["train", SMOKE, *drawn_data(drawn_set), "max_steps=3", "batch_size=3"]
    words.append("detector.preprocessing.size_hw=[96, 96]")
    assert run_command([*words, "--output", str(run.path), "--json", str(result)]) == 0
    summary = json.loads(result.read_text())
    assert summary["run_folder"] == str(run.path)
    assert summary["best"].keys() == {"metric", "value", "epoch"}
    assert [entry["step"] for entry in run.steps.read()] == [0, 1, 2]
    assert {"step", "losses", "lr"} <= run.steps.read()[0].keys()
    detector = load_detector(run.best)
    assert detector.config.class_names == ("red", "green")
    assert run_command(["train", "--resume", str(run.path)]) == 0
    assert run_command(["train", "--resume", str(run.path), SMOKE, *drawn_data(drawn_set)]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "name a configuration"),
        (["train", "no_such.yaml"], "cannot be read"),
        (["train", SMOKE, "epoch=3"], "did you mean epochs"),
        (["train", SMOKE, "epochs=-3"], "epochs"),
        (["train", SMOKE, "--data.annotations", "no_such.json", "--data.images", "."], "no_such.json"),
        (["train", "--resume", "no_such_run"], "no run to resume"),
        (["train", "--resume", "no_such_run", "--output", "other"], "leave --output out"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_build_their_detector(path):
    config = load_config(TrainDetectorConfig, path)
    parameters = sum(parameter.numel() for parameter in Detector(config.detector).parameters())
    assert 0.5e6 < parameters < 50e6
    learns_by_heart = path.stem == "eight_images"  # nothing strong in any epoch
    assert (config.augmentation.weak_last_epochs < config.epochs) is not learns_by_heart
    assert path.read_text().startswith("# ")


def test_show_config_prints_the_resolved_whole(capsys, tmp_path):
    shown = tmp_path / "shown.yaml"
    assert run_command(["show-config", SMOKE, "batch_size=5", "--json", str(tmp_path / "shown.json")]) == 0
    shown.write_text(capsys.readouterr().out)
    config = load_config(TrainDetectorConfig, shown)
    assert config.batch_size == 5
    assert config == load_config(TrainDetectorConfig, Path(SMOKE), ["batch_size=5"])
    assert json.loads((tmp_path / "shown.json").read_text()) == yaml.safe_load(shown.read_text())


def test_the_kind_of_a_configuration_is_told_by_folder_or_keys(tmp_path):
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text("detector: {num_classes: 1}\ndata: {annotations: a, images: b}\n")
    assert config_type_of(elsewhere) is TrainDetectorConfig
    elsewhere.write_text("something: 1\n")
    with pytest.raises(ConfigError, match="neither its folder nor its keys"):
        config_type_of(elsewhere)

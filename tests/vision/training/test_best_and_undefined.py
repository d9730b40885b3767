"""What annotations decide before the first step, and which evaluation is the best of equal or undefined ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from handeye.vision.errors import DatasetError
from handeye.vision.training import train_detector as module
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.run_folder import RunFolder
from handeye.vision.training.train_detector import Training, train_detector

QUIET = Console(quiet=True)
MakeConfig = Callable[..., TrainDetectorConfig]


def with_boxes_of(content: dict[str, Any], category_ids: set[int]) -> dict[str, Any]:
    return content | {"annotations": [box for box in content["annotations"] if box["category_id"] in category_ids]}


def data_of(drawn_set: Path, folder: Path, train: dict[str, Any], val: dict[str, Any]) -> dict[str, Any]:
    """The drawn images with other annotations."""
    for name, content in (("train.json", train), ("val.json", val)):
        (folder / name).write_text(json.dumps(content))
    paths = {"annotations": folder / "train.json", "val_annotations": folder / "val.json"}
    return {**paths, "images": drawn_set / "images", "num_workers": 0}


def test_nothing_annotated_is_said_before_the_first_step(
    small_config: MakeConfig, drawn_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = json.loads((drawn_set / "annotations.json").read_text())
    nothing = with_boxes_of(good, set())
    with pytest.raises(DatasetError, match=r"train\.json: nothing to learn: 9 images without a box"):
        Training(small_config(data=data_of(drawn_set, tmp_path, nothing, good)), RunFolder(tmp_path), QUIET)
    broken = good | {"annotations": [{**box, "bbox": [1, 2, 0, 5]} for box in good["annotations"]]}
    with pytest.raises(DatasetError, match=r"nothing to learn.*annotations\[0\]: width or height not positive"):
        Training(small_config(data=data_of(drawn_set, tmp_path, broken, good)), RunFolder(tmp_path), QUIET)
    Training(small_config(data=data_of(drawn_set, tmp_path, good, nothing)), RunFolder(tmp_path), Console(width=200))
    assert "val.json: no boxes, so AP is undefined" in capsys.readouterr().out


def test_a_class_that_only_validation_has_is_named_before_the_first_step(
    small_config: MakeConfig, drawn_set: Path, tmp_path: Path
):
    good = json.loads((drawn_set / "annotations.json").read_text())
    val = good | {"categories": [*good["categories"], {"id": 3, "name": "blue"}]}
    val["annotations"] = [{**good["annotations"][0], "category_id": 3}]
    with pytest.raises(DatasetError, match=r"val\.json: its classes are not the model's: blue"):
        Training(small_config(data=data_of(drawn_set, tmp_path, good, val)), RunFolder(tmp_path), QUIET)


def test_of_equal_values_the_later_epoch_is_the_best(
    small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training = Training(small_config(), RunFolder(tmp_path), QUIET)
    saved = []
    monkeypatch.setattr(module, "save_weights", lambda path, _, extra: saved.append((path.name, extra["epoch"])))
    for epoch, value in ((1, 0.0), (2, 0.0), (3, 0.5), (4, 0.25), (5, 0.5)):
        training._keep_best(epoch, value, training.network)
    assert saved == [("best.safetensors", epoch) for epoch in ("1", "2", "3", "5")]
    assert (training.progress.best_value, training.progress.best_epoch) == (0.5, 5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_figures")
def test_an_undefined_figure_is_no_best_and_stops_nothing(small_config: MakeConfig, drawn_set: Path, tmp_path: Path):
    good = json.loads((drawn_set / "annotations.json").read_text())
    data = data_of(drawn_set, tmp_path, good, with_boxes_of(good, set()))
    reported = []
    config = small_config(
        data=data, epochs=3, early_stopping={"patience": 1}, evaluation={"every_epochs": 1, "batch_size": 4}
    )
    run = RunFolder.create(tmp_path / "run", config)
    result = train_detector(config, run, QUIET, lambda *told: reported.append(told))
    assert result.is_finished
    assert [entry["epoch"] for entry in run.metrics.read()] == [1, 2, 3], "nothing stopped early"
    assert (result.progress.best_value, reported, run.best.exists()) == (None, [], False)
    assert "undefined: nothing annotated" in run.report.read_text()

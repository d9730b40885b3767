"""Our checkpoints: what is saved comes back, what does not fit is refused, a failed write harms nothing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from handeye.vision.checkpoints.native import load_detector, load_metadata, save_detector, start_from
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ModelFileError


@pytest.fixture
def saved(tmp_path, small_detector):
    path = tmp_path / "run" / "best.safetensors"
    save_detector(path, small_detector, {"epoch": "12"})
    return path


def rewrite(path, *, weights=None, metadata=None):
    """The same file with changed weights (a function of the old) or metadata."""
    with safe_open(path, framework="pt") as file:
        old_metadata = file.metadata()
    content = load_file(path)
    save_file(weights(content) if weights else content, path, {**old_metadata, **(metadata or {})})


def test_a_detector_comes_back_whole(saved, small_detector):
    loaded = load_detector(saved)
    assert loaded.config == small_detector.config
    assert not loaded.training
    images = torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).raw, small_detector(images).raw, rtol=0, atol=0)


def test_weights_in_channels_last_order_come_back_too(tmp_path, small_detector):
    expected = {key: value.clone() for key, value in small_detector.state_dict().items()}
    save_detector(tmp_path / "a.safetensors", small_detector.to(memory_format=torch.channels_last))
    for key, value in load_detector(tmp_path / "a.safetensors").state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_metadata_holds_what_was_added_and_the_configuration(saved, small_detector):
    metadata = load_metadata(saved)
    assert metadata["epoch"] == "12"
    assert json.loads(metadata["config"])["class_names"] == ["cup", "Löffel"]
    assert metadata["format"] == "handeye-detector-1"


@pytest.mark.parametrize("key", ["format", "config"])
def test_keys_of_the_checkpoint_itself_cannot_be_overwritten(tmp_path, small_detector, key):
    with pytest.raises(ValueError, match=key):
        save_detector(tmp_path / "a.safetensors", small_detector, {key: "mine"})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(saved, small_detector, monkeypatch):
    before = saved.read_bytes()

    def fail_half_way(weights, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("handeye.vision.checkpoints.native.save_file", fail_half_way)
    with pytest.raises(OSError, match="disk full"):
        save_detector(saved, small_detector)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_batch_counters_may_be_absent(saved):
    rewrite(saved, weights=lambda old: {key: value for key, value in old.items() if "num_batches" not in key})
    assert load_detector(saved).config.num_classes == 2


def test_missing_unexpected_and_misshapen_weights_are_listed(saved):
    def damage(weights):
        weights["head.surprise"] = weights.pop("backbone.stem.conv.conv.weight")
        weights["head.levels.0.predict_box.bias"] = torch.zeros(3)
        return weights

    rewrite(saved, weights=damage)
    with pytest.raises(ModelFileError) as refusal:
        load_detector(saved)
    message = str(refusal.value)
    assert str(saved) in message
    assert "missing: backbone.stem.conv.conv.weight" in message
    assert "unexpected: head.surprise" in message
    assert "misshapen: head.levels.0.predict_box.bias (3,) instead of (4,)" in message


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_a_cut_off_file_is_refused(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_detector(saved)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(ModelFileError, match="no such file"):
            load_detector(path)


def test_somebody_elses_safetensors_is_refused_with_the_way_in(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "third_party.safetensors")
    with pytest.raises(ModelFileError, match="handeye import"):
        load_detector(tmp_path / "third_party.safetensors")


@pytest.mark.parametrize("config", ["{", "null", "[]", '{"num_classes": 2, "backbone": {"kind": "future"}}'])
def test_an_unusable_configuration_inside_is_refused(saved, config):
    rewrite(saved, metadata={"config": config})
    with pytest.raises(ModelFileError, match="invalid configuration in its metadata"):
        load_detector(saved)


def test_fine_tuning_takes_all_weights_but_those_of_a_head_for_other_classes(saved, small_detector):
    content = small_detector.config.model_dump() | {"class_names": tuple("abcdefg"), "num_classes": 7}
    other = Detector(DetectorConfig.model_validate(content))
    fresh = start_from(other, saved)
    assert fresh
    assert all(".predict_class." in key for key in fresh)
    taken, wanted = other.state_dict(), small_detector.state_dict()
    assert all(torch.equal(taken[key], wanted[key]) for key in wanted if key not in fresh)


def test_a_checkpoint_of_which_nothing_fits_is_refused(saved, small_detector):
    with pytest.raises(ModelFileError, match="none of its weights fits"):
        start_from(torch.nn.Linear(2, 2), saved)

"""The state holds everything, or the old file stays as it was."""

from __future__ import annotations

import errno
import pickle
import random
import resource
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from handeye.vision.errors import ModelFileError
from handeye.vision.training.checkpoint_state import Progress, load_state, require_space, save_state


def save(path, progress, parts) -> None:
    save_state(path, progress, {name: part.state_dict() for name, part in parts.items()})


def stepped(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_everything_comes_back(tmp_path):
    model, optimizer = stepped(0)
    progress = Progress(step=12, evaluated_epoch=2, best_value=0.25, best_epoch=1)
    random.seed(5)
    np.random.seed(6)  # noqa: NPY002 - the global generator is part of the state
    save(tmp_path / "state.pt", progress, {"model": model, "optimizer": optimizer})
    drawn = random.random(), np.random.random(), torch.rand(2)  # noqa: NPY002
    other_model, other_optimizer = stepped(1)
    restored = load_state(tmp_path / "state.pt", {"model": other_model, "optimizer": other_optimizer})
    assert restored == progress
    assert random.random() == drawn[0]
    assert np.random.random() == drawn[1]  # noqa: NPY002
    assert torch.equal(torch.rand(2), drawn[2])
    assert torch.equal(other_model.weight, model.weight)
    momentum = other_optimizer.state[other_model.weight]["momentum_buffer"]
    assert torch.equal(momentum, optimizer.state[model.weight]["momentum_buffer"])


class Broken(nn.Linear):
    def state_dict(self, *_: object, **__: object) -> dict:  # type: ignore[override]
        return {"unpicklable": lambda: None}


def test_a_failed_save_leaves_the_old_state(tmp_path):
    path = tmp_path / "state.pt"
    model, _ = stepped(0)
    save(path, Progress(step=3), {"model": model})
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError), match="Broken.state_dict.<locals>"):
        save(path, Progress(step=4), {"model": Broken(1, 1)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    model, _ = stepped(0)
    save(path, Progress(step=3), {"model": model})
    before = path.read_bytes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 2 * 2**20, 2 * 2**20))
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("it was written to a disk without room"))
    with pytest.raises(OSError, match="No space left on device: 16 MiB are needed, 2 MiB are free") as caught:
        save(path, Progress(step=4), {"model": model})
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before


def test_the_size_of_a_state_is_that_of_its_tensors(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, 26 * 2**20))
    content = {"a": torch.zeros(2**20), "b": [torch.zeros(2**20, dtype=torch.uint8), ({"c": 1.0},)]}
    require_space(tmp_path, [content, content])
    with pytest.raises(OSError, match="31 MiB are needed"):
        require_space(tmp_path, (content, content, content))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_a_write_that_fails_midway_is_told_as_such_and_leaves_the_old_state(tmp_path):
    """The system refuses to let the file grow: torch reports that as an error of its archive."""
    path = tmp_path / "state.pt"
    model, _ = stepped(0)
    save(path, Progress(step=3), {"model": model})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, Progress(step=4), {"model": nn.Linear(100, 100)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 cut"])
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"state\.pt"):
        load_state(path, {})


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="not a training state"):
        load_state(path, {})


def test_a_state_of_other_shapes_is_refused_with_what_may_have_changed(tmp_path):
    path = tmp_path / "state.pt"
    save(path, Progress(step=4), {"detector": nn.Linear(3, 2)})
    with pytest.raises(ModelFileError, match=r"state\.pt: its detector does not fit .*start_from.* changed since"):
        load_state(path, {"detector": nn.Linear(3, 4)})


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple:
            return (exec, ("raise SystemExit('ran')",))

    path = tmp_path / "state.pt"
    torch.save({"format": Evil()}, path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_state(path, {})


def test_parts_of_other_names_are_refused(tmp_path):
    model, optimizer = stepped(0)
    save(tmp_path / "state.pt", Progress(), {"model": model, "ema": model})
    with pytest.raises(ModelFileError, match="expected"):
        load_state(tmp_path / "state.pt", {"model": model, "optimizer": optimizer})

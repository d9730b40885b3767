"""The state holds everything, or the old file stays as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from vision.errors import ModelFileError
from vision.training.checkpoint_state import Progress, load_state, save_state


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
    save_state(tmp_path / "state.pt", progress, {"model": model, "optimizer": optimizer})
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
    save_state(path, Progress(step=3), {"model": model})
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        save_state(path, Progress(step=4), {"model": Broken(1, 1)})
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
    with pytest.raises(ModelFileError, match="no state of a training run"):
        load_state(path, {})


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
    save_state(tmp_path / "state.pt", Progress(), {"model": model, "average": model})
    with pytest.raises(ModelFileError, match="expected"):
        load_state(tmp_path / "state.pt", {"model": model, "optimizer": optimizer})

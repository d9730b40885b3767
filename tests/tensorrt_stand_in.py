"""A fixture that puts the stand-ins of TensorRT and of CUDA's driver in the place of the real ones."""

from __future__ import annotations

import functools
import gc
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.export import fake_cuda, fake_tensorrt

BOUND = (
    "handeye.vision.runtime.cuda_driver",
    "handeye.vision.runtime.tensorrt_session",
    "handeye.vision.runtime.tensorrt_session",
    "handeye.export.tensorrt.engine",
)
"""Modules that import TensorRT or CUDA when they are imported themselves."""


@dataclass(frozen=True)
class StandIn:
    """What a test sets and reads: how TensorRT behaves and what the machine has."""

    tensorrt: fake_tensorrt.Behaviour
    machine: fake_cuda.Machine


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """TensorRT 10.3.0 on an Orin, freshly set up."""
    import torch  # noqa: F401 - on its first import it binds CUDA's real bindings, and refuses a stand-in

    from tests.export import fake_cuda, fake_tensorrt

    bindings = importlib.import_module("cuda.bindings")
    behaviour, machine = fake_tensorrt.Behaviour(), fake_cuda.Machine()
    monkeypatch.setattr(fake_tensorrt, "behaviour", behaviour)
    monkeypatch.setattr(fake_cuda, "machine", machine)
    monkeypatch.setattr(bindings, "driver", fake_cuda, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    # Imported once and taken away after each test, so that no other test meets a module bound to a stand-in.
    for name in BOUND:
        monkeypatch.setitem(sys.modules, name, _bound(name))
    gc.freeze()  # What was there before need not be searched, which takes long beside torch.
    yield StandIn(behaviour, machine)
    gc.collect()  # handles go back to the machine that gave them
    gc.unfreeze()


@functools.cache
def _bound(name: str) -> ModuleType:
    return importlib.import_module(name)

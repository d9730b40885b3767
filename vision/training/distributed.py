"""Training in several processes (torchrun): rank, agreement, synchronised norms, and an error when one is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn

from handeye.vision.losses.counting import mean_over_processes, num_processes
from handeye.vision.training.bit_equality import PerImageConv2d, SynchronisedNorm2d, deterministic_gradients

P = ParamSpec("P")
T = TypeVar("T")
LOST_WORDS = ("gloo", "nccl", "by peer", "process group", "broken pipe", "socket")
"""In torch's errors about a process that does not answer; gloo's have no separate class."""


class TrainingError(Exception):
    """The training itself went wrong (a loss that is not finite); the message says what was kept and what to try."""


def are_many_on_cpus() -> bool:
    """Whether torchrun started several processes without a GPU: accelerate would let each train alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def process_state() -> PartialState:
    """Rank and number of the processes that train together."""
    return PartialState(cpu=are_many_on_cpus())


def training_device() -> torch.device:
    """The device of this process."""
    device = process_state().device
    assert device is not None
    return device


def is_main_process() -> bool:
    """Whether this process writes the run folder and prints; a single one always does."""
    return process_state().is_main_process


def same_for_all(path: Path) -> Path:
    """The main process's path, broadcast to the others."""
    if process_state().num_processes == 1:
        return path
    return Path(broadcast_object_list([str(path)])[0])


def any_of_all(flag: bool, device: torch.device) -> bool:  # noqa: FBT001 - its only argument
    """Whether the flag is set in any process, so that all of them stop after the same step."""
    if num_processes() == 1:
        return flag  # without a round trip to the GPU
    return bool(mean_over_processes(torch.tensor(float(flag), device=device)) > 0)


def synchronise_processes(network: nn.Module, loss: Callable[P, T], device: torch.device) -> Callable[P, T]:
    """Make batch norms take their statistics from the images of all processes; returns the loss to train with.

    On CPUs convolutions and loss join them, in a single process too, so that the process count changes no bit.
    """
    if device.type != "cpu":
        if num_processes() > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return loss
    for name, part in list(network.named_modules()):
        if type(part) is nn.BatchNorm2d:
            network.set_submodule(name, SynchronisedNorm2d.of(part))
        elif type(part) is nn.Conv2d:
            network.set_submodule(name, PerImageConv2d.of(part))
    return deterministic_gradients(loss)


def agree_on_buffers(model: nn.Module) -> None:
    """Broadcast the main process's buffers: the statistics of batch norms otherwise differ between processes."""
    if num_processes() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextmanager
def telling_lost_processes(run: Path) -> Iterator[None]:
    """Turn torch's error about a lost process into one that says how to resume."""
    try:
        yield
    except RuntimeError as error:
        if process_state().num_processes == 1 or not _is_about_others(error):
            raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"another process of this training was lost ({first_line}); "
            f"start all of them again from the last saved state with --resume {run}"
        ) from error


def _is_about_others(error: RuntimeError) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return any(word in str(error).lower() for word in LOST_WORDS)

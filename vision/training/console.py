"""Show the progress of a training (a live line on a terminal, a line per epoch in a log) and stop it on Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SPEED_STEPS = 50
"""Throughput is averaged over the last steps, this many."""


class ProgressDisplay:
    """Shows the steps of a run; use it as a context around the loop."""

    def __init__(
        self, console: Console, num_steps: int, steps_per_epoch: int, start_step: int, unit: str = "images"
    ) -> None:
        """`unit` is what a batch consists of, as displayed."""
        self.console, self.unit = console, unit
        self.steps_per_epoch = steps_per_epoch
        self.num_steps = num_steps
        self.recent: deque[tuple[float, int]] = deque(maxlen=SPEED_STEPS + 1)
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
        )
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task("", total=num_steps, completed=start_step, epoch="-", numbers="")

    def __enter__(self) -> ProgressDisplay:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def after_step(self, step: int, losses: Mapping[str, float], rate: float, num_images: int) -> None:
        """`step` steps are done; losses, learning rate and batch size are those of the last one."""
        self.recent.append((time.monotonic(), num_images))
        parts = "  ".join(f"{name} {value:.2f}" for name, value in losses.items() if name != "total")
        numbers = (
            f"loss {losses['total']:.3f} ({parts})  lr {rate:.2g}  {self.images_per_s():.0f} {self.unit}/s  {memory()}"
        )
        epoch = -(-step // self.steps_per_epoch)
        self.bar.update(self.task, completed=step, epoch=f"{epoch}", numbers=numbers)
        if self.bar.disable and step % self.steps_per_epoch == 0:
            left = duration(self.remaining_s(step))
            self.say(f"epoch {epoch}  step {step}/{self.num_steps}  {numbers}  {left} left")

    def images_per_s(self) -> float:
        """Speed over the last steps; 0 until it is known."""
        if len(self.recent) < 2:
            return 0.0
        elapsed = self.recent[-1][0] - self.recent[0][0]
        return sum(count for _, count in list(self.recent)[1:]) / max(elapsed, 1e-9)

    def remaining_s(self, step: int) -> float | None:
        """Estimated seconds for the steps after `step`, without evaluations; None until it is known."""
        if len(self.recent) < 2:
            return None
        step_s = (self.recent[-1][0] - self.recent[0][0]) / (len(self.recent) - 1)
        return (self.num_steps - step) * step_s

    def pause_clock(self) -> None:
        """Restart the speed measurement, around anything that is not training."""
        self.recent.clear()

    def say(self, text: str) -> None:
        """One line above the bar."""
        say(self.console, text)


def say(console: Console, text: str) -> None:
    """One line to the user, as it is: without markup, colours and wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def memory() -> str:
    """Memory of this process, and the peak of its tensors on the GPU."""
    held = f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        held += f", GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return held


def duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash where it is unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class StopRequest:
    """Within this context the first SIGINT or SIGTERM sets `is_set`, so that the loop can finish its step and save.

    A second one acts as it did before.
    Outside the main thread, where Python allows no handlers, it is never set.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

"""What a line of the log says: losses, rate, speed, memory and the time that is left."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from handeye.vision.training import console as module
from handeye.vision.training.console import ProgressDisplay, duration


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """A clock that stands at clock[0]."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_line_an_epoch_in_a_log_file(clock):
    told = io.StringIO()
    display = ProgressDisplay(Console(file=told, width=200), num_steps=100, steps_per_epoch=4, start_step=0)
    with display:
        for step in range(1, 5):
            clock[0] += 2.0
            display.after_step(step, {"total": 3.25, "box": 2.0, "class": 1.25}, 0.01, num_images=8)
    (line,) = told.getvalue().strip().splitlines()
    # Eight images in two seconds; 96 steps of two seconds are left.
    assert re.fullmatch(
        r"epoch 1  step 4/100  loss 3\.250 \(box 2\.00  class 1\.25\)  lr 0\.01  4 images/s  "
        r"\d+\.\d GiB(, GPU \d+\.\d GiB)?  0:03:12 left",
        line,
    )


def test_a_pause_counts_neither_for_the_speed_nor_for_the_time_left(clock):
    display = ProgressDisplay(Console(file=io.StringIO()), num_steps=10, steps_per_epoch=100, start_step=0)
    assert display.remaining_s(0) is None
    for step in range(1, 4):
        clock[0] += 1.0
        display.after_step(step, {"total": 1.0}, 0.1, num_images=2)
    assert display.remaining_s(3) == pytest.approx(7.0)
    display.pause_clock()
    clock[0] += 1000.0
    assert display.remaining_s(3) is None
    assert display.images_per_s() == 0.0
    for step in range(4, 6):
        clock[0] += 1.0
        display.after_step(step, {"total": 1.0}, 0.1, num_images=2)
    assert display.images_per_s() == pytest.approx(2.0)
    assert display.remaining_s(5) == pytest.approx(5.0)


def test_durations():
    assert [duration(seconds) for seconds in (None, 0.0, 59.6, 3725.0)] == ["-", "0:00:00", "0:01:00", "1:02:05"]

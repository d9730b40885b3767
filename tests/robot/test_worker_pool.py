"""Work shared among processes: order, errors, stopping early, and no process left behind by a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handeye.robot.pick import AHEAD, map_in_workers

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def station(scale: int) -> Iterator[int]:
    yield scale


def multiply(scale: int, seed: int) -> int:
    if seed < 0:
        raise ValueError(f"seed {seed}")
    time.sleep(0.05 * (seed == 0))
    return scale * seed


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_seeds(workers: int) -> None:
    assert list(map_in_workers(station, (3,), multiply, range(7), workers=workers)) == [0, 3, 6, 9, 12, 15, 18]
    assert list(map_in_workers(station, (3,), multiply, [], workers=workers)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_an_episode_passes_through(workers: int) -> None:
    with pytest.raises(ValueError, match="seed -1"):
        list(map_in_workers(station, (3,), multiply, [1, -1, 2], workers=workers))


def test_who_stops_early_plays_little_in_vain() -> None:
    given = []

    def seeds() -> Iterator[int]:
        for seed in range(1000):
            given.append(seed)
            yield seed

    results = map_in_workers(station, (1,), multiply, seeds(), workers=2)
    assert next(results) == 0
    results.close()
    assert len(given) <= 2 * AHEAD


FOREVER = """
import os
from tests.robot.test_worker_pool import report_and_sleep, station
from handeye.robot.pick import map_in_workers
if __name__ == "__main__":
    list(map_in_workers(station, (1,), report_and_sleep, range(4), workers=2))
"""


LONG_S = 3600.0
"""Far beyond what starting a worker or noticing a death takes on the busiest machine."""


def report_and_sleep(scale: int, seed: int) -> None:
    os.write(1, f"{os.getpid()}\n".encode())  # at once: print may write the end of the line by itself
    time.sleep(LONG_S)


def test_killing_the_first_process_ends_the_workers(tmp_path: Path) -> None:
    script = tmp_path / "forever.py"
    script.write_text(FOREVER, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + LONG_S / 6
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    left_behind = [pid for pid in workers if is_running(pid)]
    for pid in left_behind:
        os.kill(pid, signal.SIGKILL)
    assert left_behind == []


def is_running(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be buried by its parent."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False

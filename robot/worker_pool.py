"""Episodes shared among processes: each has a station of its own, results come in the order of the seeds."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

S = TypeVar("S")
R = TypeVar("R")

AHEAD = 2
"""Episodes handed out for each worker: one that runs and one that waits, so that stopping early wastes little."""


def map_in_workers(
    build: Callable[..., AbstractContextManager[S]],
    arguments: tuple[Any, ...],
    play: Callable[[S, int], R],
    seeds: Iterable[int],
    *,
    workers: int,
) -> Generator[R, None, None]:
    """`play(station, seed)` for every seed, in order; `build(*arguments)` makes each process's station.

    Everything but the stations must be picklable when there are several workers. Errors of an episode pass through.
    """
    if workers == 1:
        with build(*arguments) as station:
            for seed in seeds:
                yield play(station, seed)
        return
    # Fresh processes: a renderer's or an engine's threads do not survive a fork.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_open_station, initargs=(build, arguments)
    ) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for seed in seeds:
                waiting.append(pool.submit(_play_in_worker, play, seed))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_station: Any = None
"""A worker process's own station, kept from one episode to the next."""


def _open_station(build: Callable[..., AbstractContextManager], arguments: tuple[Any, ...]) -> None:
    # Ctrl-C reaches every process; the first one decides what follows, and lets an episode that runs end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_the_first_process, daemon=True).start()
    global _station  # noqa: PLW0603 - process pools keep a worker's state in its module
    _station = build(*arguments).__enter__()


def _end_with_the_first_process() -> None:
    """A killed process cannot tell its workers to stop: they would wait for work for ever."""
    first = parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _play_in_worker(play: Callable[[Any, int], R], seed: int) -> R:
    if _station is None:
        raise RuntimeError("the worker process was not initialised")
    return play(_station, seed)

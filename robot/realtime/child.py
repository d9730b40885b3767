"""Child processes that talk to their parent over a pipe, and notice when it is gone."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from handeye.robot.errors import RobotError
from handeye.vision.errors import UserError

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
"""Libraries of children compute with one thread each: small products gain nothing from more."""
END_S = 5.0
"""A child that has not ended by itself after this time is killed."""


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """What a child says of an error that ended it."""

    message: str
    is_expected: bool


class ParentGoneError(Exception):
    """The parent process has ended or closed the pipe."""


class Link:
    """A child's end of the pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def next_message(self, timeout_s: float | None = 0.0) -> Any:
        """What the parent has said, in order; None when nothing has come within the time (None: for ever).

        Raises ParentGoneError.
        """
        try:
            return self._connection.recv() if self._connection.poll(timeout_s) else None
        except (EOFError, OSError) as error:
            raise ParentGoneError from error

    def send(self, message: Any) -> None:
        """Tell the parent. Raises ParentGoneError."""
        try:
            self._connection.send(message)
        except OSError as error:
            raise ParentGoneError from error


class Child:
    """A process that runs `main(link, *arguments)`; everything must be picklable."""

    def __init__(self, name: str, main: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        context = get_context("spawn")  # an engine's or a renderer's threads do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_run, args=(main, theirs, *arguments), name=f"handeye {name}", daemon=True
        )
        with _one_thread_each():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.is_alive()

    @property
    def waitables(self) -> tuple[Any, int]:
        """For `multiprocessing.connection.wait`: ready when it has said something, and when it has ended."""
        return self._connection, self._process.sentinel

    def send(self, message: Any) -> None:
        """Tell it something; one that has ended hears nothing."""
        try:
            self._connection.send(message)
        except OSError:
            return

    def next_message(self) -> Any:
        """What it has said, in order; None when there is nothing."""
        try:
            return self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):
            return None

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._process.kill()

    def end(self) -> None:
        """Close the pipe, which ends it, and wait; kill it where it does not end."""
        self._connection.close()
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _run(main: Callable[..., None], connection: Connection, *arguments: Any) -> None:
    # Ctrl-C reaches every process; the first one decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(connection)
    try:
        main(link, *arguments)
    except ParentGoneError:
        return
    except Exception as error:
        is_expected = isinstance(error, RobotError | UserError)
        link.send(ChildFailed(str(error) if is_expected else traceback.format_exc(), is_expected))
        raise SystemExit(1) from error

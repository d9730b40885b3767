"""Rings of values in shared memory: one process writes, any number read the latest one or all that are new.

Each slot is guarded by its sequence number (a sequence lock): readers never block the writer, and notice when they have
been overtaken. Whatever is killed in the midst of writing, the values before it stay readable. The memory has no name:
the kernel frees it with the last process that holds it, so nothing stays behind.
"""

from __future__ import annotations

import mmap
import os
import pickle
import tempfile
from multiprocessing.reduction import DupFd
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

SHARED_MEMORY = Path("/dev/shm")
HEADER_WORDS = 8
SLOT_WORDS = 2
WORD = 8
EMPTY = 0
ATTEMPTS = 8
"""A reader that is overtaken so often gives up until its next call."""

T = TypeVar("T")


class SharedRing(Generic[T]):
    """The last `slots` values that were written, each at most `slot_bytes` long when pickled.

    Pass it as an argument when a process is started (start method spawn). Only one process may write.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        if slots < 2 or slot_bytes < 1:
            raise ValueError(f"a ring needs two slots and a byte at least, got {slots} and {slot_bytes}")
        self._slots, self._slot_bytes = slots, -(-slot_bytes // WORD) * WORD
        self._map(_anonymous_file(self._size))

    @property
    def _size(self) -> int:
        return WORD * HEADER_WORDS + self._slots * (WORD * SLOT_WORDS + self._slot_bytes)

    def _map(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, self._size)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("Q")
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"slots": self._slots, "slot_bytes": self._slot_bytes, "descriptor": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._slots, self._slot_bytes = state["slots"], state["slot_bytes"]
        self._map(state["descriptor"].detach())

    @property
    def count(self) -> int:
        """How many values have been written."""
        return self._words[0]

    def write(self, value: T) -> None:
        """Append a value. Raises ValueError for one that is too large."""
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        if len(data) > self._slot_bytes:
            raise ValueError(f"a value of {len(data)} bytes does not fit into a slot of {self._slot_bytes}")
        number = self.count + 1
        at = self._slot(number)
        self._words[at] = EMPTY
        self._fence()
        self._words[at + 1] = len(data)
        start = WORD * (at + SLOT_WORDS)
        self._bytes[start : start + len(data)] = data
        self._fence()
        self._words[at] = number
        self._words[0] = number

    def latest(self) -> T | None:
        """The newest value; None before the first."""
        for _ in range(ATTEMPTS):
            number = self.count
            if number == 0:
                return None
            data = self._read(number)
            if data is not None:
                return pickle.loads(data)
        return None

    def since(self, number: int) -> tuple[list[T], int]:
        """The values after the first `number` ones, oldest first, and how many have been written by now.

        Those that were overwritten before they could be read are missing.
        """
        count = self.count
        oldest = max(number, count - self._slots) + 1
        found = [self._read(wanted) for wanted in range(oldest, count + 1)]
        return [pickle.loads(data) for data in found if data is not None], count

    def close(self) -> None:
        """Give the memory back; this process can no longer use the ring."""
        self._words.release()
        self._bytes.release()
        self._memory.close()
        os.close(self._descriptor)

    def _slot(self, number: int) -> int:
        """Where the slot of the number-th value begins, in words."""
        return HEADER_WORDS + (number % self._slots) * (SLOT_WORDS + self._slot_bytes // WORD)

    def _read(self, number: int) -> bytes | None:
        """The number-th value as bytes; None where it is not there, not yet or no longer."""
        at = self._slot(number)
        if self._words[at] != number:
            return None
        self._fence()
        start, length = WORD * (at + SLOT_WORDS), self._words[at + 1]
        data = bytes(self._bytes[start : start + min(length, self._slot_bytes)])
        self._fence()
        return data if self._words[at] == number else None

    def _fence(self) -> None:
        """Keep processors of weak memory order (ARM) from moving accesses across: one release before one acquire."""
        for _ in range(2):
            self._lock.acquire()
            self._lock.release()


def _anonymous_file(size: int) -> int:
    """The descriptor of a file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("handeye")
    else:
        with tempfile.TemporaryFile(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size)
    return descriptor

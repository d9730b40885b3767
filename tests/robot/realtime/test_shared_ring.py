"""Rings in shared memory: what was written is read whole or not at all, in this process and in others."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.realtime.child import Child, Link
from handeye.robot.realtime.shared_ring import HEADER_WORDS, SharedRing

SLOTS = 4


def test_the_latest_value_is_read_as_often_as_wanted() -> None:
    ring: SharedRing[dict[str, int]] = SharedRing(SLOTS, 100)
    assert ring.latest() is None
    assert ring.since(0) == ([], 0)
    for number in range(10):
        ring.write({"number": number})
    assert ring.latest() == ring.latest() == {"number": 9}
    ring.close()


@pytest.mark.parametrize(
    ("seen", "written", "expected"), [(0, 3, [0, 1, 2]), (2, 3, [2]), (3, 3, []), (0, 9, [5, 6, 7, 8])]
)
def test_what_is_new_comes_in_order_without_what_was_overwritten(seen: int, written: int, expected: list[int]) -> None:
    ring: SharedRing[int] = SharedRing(SLOTS, 100)
    for number in range(written):
        ring.write(number)
    assert ring.since(seen) == (expected, written)
    ring.close()


def test_arrays_are_copies() -> None:
    ring: SharedRing[np.ndarray] = SharedRing(SLOTS, 1000)
    ring.write(np.arange(6.0))
    first, second = ring.latest(), ring.latest()
    assert first is not None
    assert second is not None
    first[:] = -1.0
    np.testing.assert_array_equal(second, np.arange(6.0))
    ring.close()


def test_a_value_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    ring: SharedRing[bytes] = SharedRing(SLOTS, 64)
    ring.write(b"kept")
    with pytest.raises(ValueError, match="does not fit into a slot of 64"):
        ring.write(bytes(65))
    assert ring.latest() == b"kept"
    assert ring.count == 1
    ring.close()


@pytest.mark.parametrize(("slots", "size"), [(1, 10), (2, 0)])
def test_a_ring_of_nothing_is_refused(slots: int, size: int) -> None:
    with pytest.raises(ValueError, match="two slots and a byte"):
        SharedRing(slots, size)


def test_a_writer_killed_in_the_midst_leaves_the_values_before_readable() -> None:
    """The slot is marked empty first and numbered last: what lies between is never taken for a value."""
    ring: SharedRing[str] = SharedRing(SLOTS, 100)
    ring.write("whole")
    torn = HEADER_WORDS + (2 % SLOTS) * (ring._slot(1) - ring._slot(0))
    assert torn == ring._slot(2)
    ring._words[torn] = 0
    ring._words[torn + 1] = 99
    assert ring.latest() == "whole"
    ring._words[0] = 2  # and the count alone proves nothing
    assert ring.latest() is None
    assert ring.since(0) == (["whole"], 2)
    ring.close()


def test_the_memory_has_no_name_and_goes_with_the_ring() -> None:
    names = set(Path("/dev/shm").iterdir()) if Path("/dev/shm").is_dir() else set()
    ring: SharedRing[int] = SharedRing(SLOTS, 1 << 20)
    assert not Path("/dev/shm").is_dir() or set(Path("/dev/shm").iterdir()) <= names
    ring.close()
    with pytest.raises(ValueError, match="released"):
        ring.write(1)


def _write_pairs(link: Link, ring: SharedRing[np.ndarray]) -> None:
    """Arrays of one number each, as fast as possible."""
    number = 0
    link.send("begun")
    while link.next_message() is None:
        number += 1
        ring.write(np.full(2000, number))
    link.send(number)


def test_a_reader_never_sees_half_of_a_value_of_another_process() -> None:
    ring: SharedRing[np.ndarray] = SharedRing(2, 20000)
    child = Child("writer", _write_pairs, ring)
    while child.next_message() != "begun":
        time.sleep(0.01)
    seen: list[int] = []
    while len(seen) < 2000:
        value = ring.latest()
        if value is not None:
            assert (value == value[0]).all()
            seen.append(int(value[0]))
    assert seen == sorted(seen)
    child.send("enough")
    while (last := child.next_message()) is None:
        time.sleep(0.01)
    newest = ring.latest()
    assert newest is not None
    assert int(newest[0]) == last
    child.end()
    assert not child.is_alive
    ring.close()

"""What a process may ask of the operating system to be on time: real-time priority and memory that stays in place.

Without the permission a process runs as others do; `handeye doctor` says what is missing and how to add it.
"""

from __future__ import annotations

import ctypes
import gc
import os
from dataclasses import dataclass

HARDWARE_PRIORITY = 30
"""Of a simulator that stands for the hardware: the arm's controller does not wait for ours."""
CAMERA_PRIORITY = 10
"""Of a simulated camera, which renders on the processor what a real one delivers by itself."""
CONTROL_PRIORITY = 20
"""SCHED_FIFO, 1 to 99; interrupt threads of a real-time kernel have 50."""
MCL_CURRENT, MCL_FUTURE = 1, 2
PRIORITY_REMEDY = "`@realtime - rtprio 99` in /etc/security/limits.conf, and join the group realtime"
MEMORY_REMEDY = "`@realtime - memlock unlimited` in /etc/security/limits.conf, and join the group realtime"


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What a process was given."""

    has_priority: bool
    has_locked_memory: bool

    def __str__(self) -> str:
        priority = "real-time priority (SCHED_FIFO)" if self.has_priority else "no real-time priority"
        return f"{priority}, memory {'locked' if self.has_locked_memory else 'not locked'}"


def become_realtime(priority: int, *, lock_memory: bool = True) -> Scheduling:
    """Ask for SCHED_FIFO and locked memory for this process, and take the garbage collector off its hands."""
    gc.collect()
    gc.freeze()
    gc.disable()
    return Scheduling(_set_priority(priority), lock_memory and _lock_memory(MCL_CURRENT | MCL_FUTURE))


def may_have_priority() -> bool:
    """Whether this process may run with CONTROL_PRIORITY; tried, and undone."""
    if not hasattr(os, "sched_getscheduler"):
        return False
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if not _set_priority(CONTROL_PRIORITY):
        return False
    os.sched_setscheduler(0, policy, parameters)
    return True


def may_lock_memory() -> bool:
    """Whether this process may lock its memory; tried, and undone."""
    if not _lock_memory(MCL_CURRENT):
        return False
    ctypes.CDLL(None).munlockall()
    return True


def _set_priority(priority: int) -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):  # not Linux, or not permitted
        return False
    return True


def _lock_memory(flags: int) -> bool:
    try:
        return ctypes.CDLL(None).mlockall(flags) == 0
    except (AttributeError, OSError):
        return False

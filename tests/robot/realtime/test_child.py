"""Child processes: they answer, say what ended them, and do not outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from handeye.robot.errors import ArmError
from handeye.robot.realtime.child import Child, ChildFailed, Link
from handeye.robot.realtime.scheduling import become_realtime, may_have_priority, may_lock_memory


def echo(link: Link) -> None:
    while True:
        link.send(link.next_message(None))


def fail(link: Link, error: Exception) -> None:
    raise error


def answer(child: Child) -> Any:
    wait(child.waitables, timeout=60.0)
    return child.next_message()


def test_messages_arrive_in_order_and_closing_ends_the_child() -> None:
    child = Child("echo", echo)
    for number in range(3):
        child.send(number)
    assert [answer(child) for _ in range(3)] == [0, 1, 2]
    assert child.next_message() is None
    child.end()
    assert not child.is_alive


def test_a_child_says_what_ended_it() -> None:
    for error, is_expected in ((ArmError("no arm"), True), (ZeroDivisionError("a fault"), False)):
        child = Child("failing", fail, error)
        message = answer(child)
        assert isinstance(message, ChildFailed)
        assert message.is_expected is is_expected
        assert ("Traceback" in message.message) is not is_expected
        assert str(error) in message.message
        child.end()


def test_a_killed_child_is_noticed_and_hears_nothing() -> None:
    child = Child("echo", echo)
    child.kill()
    assert wait([child.waitables[1]], timeout=60.0)
    until_s = time.monotonic() + 60.0
    while child.is_alive and time.monotonic() < until_s:  # its files are closed a moment before it is gone
        time.sleep(0.01)
    assert not child.is_alive
    child.send("hello")
    assert child.next_message() is None
    child.end()


PARENT = """
import sys, time
from handeye.robot.realtime.child import Child
from tests.robot.realtime.test_child import echo
if __name__ == "__main__":
    children = [Child("echo", echo) for _ in range(2)]
    print(*(child.pid for child in children), flush=True)
    time.sleep(600)
"""


def test_children_do_not_outlive_a_killed_parent(tmp_path: Any) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until_s = time.monotonic() + 60.0
    while any(map(is_running, pids)) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    """Whether a process exists that has not ended, whether anyone has asked for its exit code or not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _ask_for_priority(link: Link) -> None:
    may = (may_have_priority(), may_lock_memory())
    before = os.sched_getscheduler(0)
    given = become_realtime(1)
    link.send((may, before, os.sched_getscheduler(0), given))


def test_a_process_gets_what_it_may_have_and_trying_leaves_nothing() -> None:
    child = Child("realtime", _ask_for_priority)
    may, before, after, given = answer(child)
    assert before == os.SCHED_OTHER
    assert (given.has_priority, given.has_locked_memory) == may
    assert after == (os.SCHED_FIFO if may[0] else os.SCHED_OTHER)
    assert ("SCHED_FIFO" in str(given)) is may[0]
    child.end()

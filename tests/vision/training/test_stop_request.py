"""Signals become a flag inside the context and act as before outside it."""

from __future__ import annotations

import signal

import pytest

from handeye.vision.training.console import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_sets_the_flag_and_hands_the_next_to_the_old_handler(number):
    received = []
    before = signal.signal(number, lambda *_: received.append("old"))
    try:
        with StopRequest() as stop:
            assert not stop.is_set
            signal.raise_signal(number)
            assert stop.is_set
            assert received == []
            signal.raise_signal(number)
            assert received == ["old"]
        signal.raise_signal(number)
        assert received == ["old", "old"]
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before

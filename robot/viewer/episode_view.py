"""What an episode leaves on disk: its ticks as JSON lines and, where wanted, a film and a contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from robot.control.episode import EpisodeResult
from robot.control.loop import Tick
from robot.control.recorder import EpisodeRecorder
from robot.viewer.contact_sheet import ContactSheet
from robot.viewer.video import EpisodeVideo

OutsideView = Callable[[], UInt8[np.ndarray, "h w 3"]]
"""A picture of the cell from outside, now; a simulator has one where it can render, a real cell a second camera."""


class EpisodeFiles:
    """A tick sink that writes `ticks.jsonl` and, with `video`, `film.mp4` and `contact_sheet.png` into `folder`.

    Use as a context; the contact sheet is written by `finish`. Pictures are only made in ticks with a frame.
    """

    def __init__(
        self, folder: Path, stage_names: Sequence[str], *, video: bool, fps: float, outside: OutsideView | None
    ) -> None:
        self.folder = folder
        self._outside = outside
        self._recorder = EpisodeRecorder(folder / "ticks.jsonl")
        self._video = EpisodeVideo(folder / "film.mp4", fps, stage_names) if video else None
        self._sheet = ContactSheet(stage_names) if video else None
        self._open_files = ExitStack()

    def __enter__(self) -> EpisodeFiles:
        with ExitStack() as stack:
            stack.enter_context(self._recorder)
            if self._video is not None:
                stack.enter_context(self._video)
            self._open_files = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open_files.__exit__(kind, error, trace)

    def write(self, tick: Tick) -> None:
        """Take note of one tick."""
        self._recorder.write(tick)
        if self._video is None or self._sheet is None or tick.percept is None:
            return
        outside_rgb = None if self._outside is None else self._outside()
        self._video.write(tick, tick.percept, outside_rgb)
        self._sheet.add(tick, tick.percept, outside_rgb)

    def finish(self, result: EpisodeResult) -> None:
        """Write what can only be written once the episode is over."""
        if self._sheet is not None:
            self._sheet.save(self.folder / "contact_sheet.png", describe_result(result))


def describe_result(result: EpisodeResult) -> str:
    """An episode in one line."""
    verdict = "placed" if result.success else f"failed ({result.reason})"
    return f"episode {result.seed}: {verdict} after {result.cycle_s:.1f} s, grasps begun: {result.attempts}"

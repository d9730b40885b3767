"""Record and read episodes tick by tick as JSON lines, readable up to the last whole line at any time.

A line holds the measured joints ("qpos"), the policy's target ("qpos_target"), the command ("qpos_sent") and the gates
that were violated. It holds no images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from handeye.robot.control.loop import Tick
from handeye.robot.types import Track
from handeye.vision.errors import SourceError

DECIMALS = 7
"""A tenth of a micrometre, a tenth of a microradian, a tenth of a microsecond."""
REQUIRED_KEYS = frozenset(
    (
        "stamp_s",
        "stage",
        "qpos",
        "qvel",
        "gripper_opening_m",
        "qpos_target",
        "gripper_target_m",
        "qpos_sent",
        "gates",
    )
)
"""What every line holds; lines of ticks with a frame also hold "tracks"."""


class EpisodeRecorder:
    """Writes one line a tick to `path`; use as a context, which closes the file whatever happens.

    Each line is handed to the operating system at once: a killed process loses none, a power cut the last few.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> EpisodeRecorder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8", buffering=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, tick: Tick) -> None:
        """Append one tick. Raises RuntimeError outside of the context."""
        if self._file is None:
            raise RuntimeError(f"{self.path}: the recorder is written to outside of its `with` block")
        self._file.write(json.dumps(tick_to_row(tick), separators=(",", ":")) + "\n")


def tick_to_row(tick: Tick) -> dict[str, Any]:
    """The values of a tick that JSON can hold; a tick without a frame has no "tracks"."""
    row: dict[str, Any] = {
        "stamp_s": round(tick.stamp_s, DECIMALS),
        "stage": tick.status.stage,
        "qpos": _rounded(tick.joints.qpos),
        "qvel": _rounded(tick.joints.qvel),
        "gripper_opening_m": round(tick.joints.gripper_opening_m, DECIMALS),
        "qpos_target": _rounded(tick.set_point.qpos_target),
        "gripper_target_m": round(tick.set_point.gripper_target_m, DECIMALS),
        "qpos_sent": _rounded(tick.qpos_command),
        "gates": [reason.value for reason in tick.decision.reasons],
    }
    if tick.percept is not None:
        row["tracks"] = [_track_to_row(track) for track in tick.percept.tracks]
    return row


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded episode as arrays, one row a tick, with the policy's stage and the violated gates."""

    stamp_s: Float[np.ndarray, " T"]
    qpos_measured: Float[np.ndarray, "T 6"]
    qvel_measured: Float[np.ndarray, "T 6"]
    gripper_opening_m: Float[np.ndarray, " T"]
    qpos_target: Float[np.ndarray, "T 6"]
    gripper_target_m: Float[np.ndarray, " T"]
    qpos_command: Float[np.ndarray, "T 6"]
    stages: tuple[str, ...]
    gates: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.stamp_s)


def read_recording(path: Path) -> Recording:
    """Read what `EpisodeRecorder` wrote; a torn last line, left by a killed process, is dropped.

    Raises SourceError when the file is missing, or broken anywhere but at its end.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as a recording: {error}") from error
    return _rows_to_recording(list(_read_rows(path, lines[:-1])))


def _read_rows(path: Path, lines: list[str]) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SourceError(f"{path}, line {number}: not a recorded tick: {error}") from error
        missing = REQUIRED_KEYS - row.keys() if isinstance(row, dict) else REQUIRED_KEYS
        if missing:
            raise SourceError(f"{path}, line {number}: not a recorded tick: {', '.join(sorted(missing))} missing")
        yield row


def _rows_to_recording(rows: list[dict[str, Any]]) -> Recording:
    def joints(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows], dtype=np.float64).reshape(len(rows), 6)

    def numbers(key: str) -> np.ndarray:
        return np.array([row[key] for row in rows], dtype=np.float64)

    return Recording(
        stamp_s=numbers("stamp_s"),
        qpos_measured=joints("qpos"),
        qvel_measured=joints("qvel"),
        gripper_opening_m=numbers("gripper_opening_m"),
        qpos_target=joints("qpos_target"),
        gripper_target_m=numbers("gripper_target_m"),
        qpos_command=joints("qpos_sent"),
        stages=tuple(row["stage"] for row in rows),
        gates=tuple(tuple(row["gates"]) for row in rows),
    )


def _track_to_row(track: Track) -> dict[str, Any]:
    return {
        "track_id": track.track_id,
        "class_name": track.class_name,
        "status": track.status.value,
        "p_base": _rounded(track.p_base),
        "yaw_rad": None if track.yaw_rad is None else round(track.yaw_rad, DECIMALS),
        "score": round(track.score, 4),
    }


def _rounded(values: Float[np.ndarray, " N"]) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]

"""Read and write MOTChallenge text: one box a line, `frame,id,left,top,width,height,confidence,...`, frames from 1.

Detections have the id -1. Ground truth has a flag as its confidence, 0 for a box to leave out of evaluation; MOT15 goes
on with a place in the world (3 numbers), MOT16 and later with class and visibility (2 numbers). Both are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.vision.errors import DatasetError
from handeye.vision.files import replacing

MIN_COLUMNS = 7
LAST_FRAME = 10_000_000
NO_ID = -1


@dataclass(frozen=True, slots=True, eq=False)
class MotBoxes:
    """Boxes of a whole sequence in order of their frames; ids are -1 for detections. Boxes are in px as in the file."""

    frames: Int64[np.ndarray, " N"]
    ids: Int64[np.ndarray, " N"]
    boxes_xyxy: Float[np.ndarray, "N 4"]
    scores: Float[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.frames)

    @classmethod
    def joined(cls, parts: Sequence[MotBoxes]) -> MotBoxes:
        """The boxes of frames that follow one another."""
        nothing = cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
        columns = ("frames", "ids", "boxes_xyxy", "scores")
        return cls(*(np.concatenate([getattr(part, name) for part in (nothing, *parts)]) for name in columns))

    def __getitem__(self, rows: Bool[np.ndarray, " N"] | slice) -> MotBoxes:
        """The chosen boxes."""
        return MotBoxes(self.frames[rows], self.ids[rows], self.boxes_xyxy[rows], self.scores[rows])

    @property
    def last_frame(self) -> int:
        """The highest frame number, 0 for no box at all."""
        return int(self.frames.max(initial=0))

    def by_frame(self, last_frame: int) -> Iterator[MotBoxes]:
        """The boxes of frame 1, 2, ... last_frame; frames without boxes are there too."""
        starts = np.searchsorted(self.frames, np.arange(1, last_frame + 2))
        for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            yield self[first:end]


def read_mot_detections(path: Path) -> MotBoxes:
    """Detections: ids are dropped, and the score is the confidence as it is.

    Raises DatasetError with the number of the line.
    """
    boxes = _read(path)
    return MotBoxes(boxes.frames, np.full(len(boxes), NO_ID), boxes.boxes_xyxy, boxes.scores)


def read_mot_tracks(path: Path) -> MotBoxes:
    """Boxes with identity, of ground truth without those to leave out of the evaluation (confidence 0).

    Raises DatasetError with the number of the line, also where an id occurs twice in a frame or is not positive.
    """
    boxes = _read(path, with_ids=True)
    return boxes[boxes.scores != 0.0]


def write_mot(path: Path, boxes: MotBoxes) -> None:
    """Write boxes in the format of MOT15, whole or not at all; ten numbers a line, places to a thousandth."""
    corner, size = boxes.boxes_xyxy[:, :2], boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for frame, track_id, (x, y), (w, h), score in zip(
            boxes.frames, boxes.ids, corner, size, boxes.scores, strict=True
        ):
            file.write(f"{frame},{track_id},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{score:.5g},-1,-1,-1\n")


def _read(path: Path, *, with_ids: bool = False) -> MotBoxes:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a MOT file: {error}") from error
    rows: list[tuple[float, ...]] = []
    seen: set[tuple[float, float]] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            if with_ids:
                _check_id(row, seen)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error
        rows.append(row)
    table = np.array(rows, dtype=np.float64).reshape(-1, MIN_COLUMNS)
    table = table[np.argsort(table[:, 0], kind="stable")]
    boxes_xyxy = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    return MotBoxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), boxes_xyxy, table[:, 6])


def _parse(line: str) -> tuple[float, ...]:
    """The first seven numbers of a line; ValueError says what is wrong with it."""
    words = line.split(",")
    if len(words) < MIN_COLUMNS:
        raise ValueError(
            f"expected frame,id,left,top,width,height,confidence separated by commas, got {len(words)} of them"
        )
    try:
        row = tuple(float(word) for word in words[:MIN_COLUMNS])
    except ValueError:
        raise ValueError(f"expected numbers, got {line.strip()!r}") from None
    if not np.isfinite(row).all():
        raise ValueError(f"expected finite numbers, got {line.strip()!r}")
    if not row[0].is_integer() or not 1 <= row[0] <= LAST_FRAME:
        raise ValueError(f"expected a frame number from 1 on, got {words[0].strip()}")
    if not row[1].is_integer():
        raise ValueError(f"expected a whole number as id, got {words[1].strip()}")
    if row[4] < 0.0 or row[5] < 0.0:
        raise ValueError(f"expected width and height of at least 0, got {words[4].strip()} and {words[5].strip()}")
    return row


def _check_id(row: tuple[float, ...], seen: set[tuple[float, float]]) -> None:
    frame, track_id = row[:2]
    if track_id < 0:
        raise ValueError(f"expected an id from 0 on, got {track_id:.0f}: are these detections instead of tracks?")
    if (frame, track_id) in seen:
        raise ValueError(f"the id {track_id:.0f} occurs a second time in frame {frame:.0f}")
    seen.add((frame, track_id))

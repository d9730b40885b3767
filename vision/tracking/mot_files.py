"""Read and write MOTChallenge text: one box a line, `frame,id,left,top,width,height,confidence,...`, frames from 1.

Detections have the id -1 and a score from 0 to 1. Ground truth has a flag as its confidence, 0 for a box to leave out
of evaluation; MOT15 goes on with a place in the world (3 numbers), MOT16 and later with class and visibility (2
numbers). Both are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64

from handeye.vision.errors import DatasetError
from handeye.vision.files import replacing

Row = tuple[float, ...]
"""Seven numbers of a line and the class."""
MIN_COLUMNS = 7
LAST_FRAME = 1_000_000
"""Nine hours at 30 frames a second; every frame is gone through, also those without boxes."""
NO_ID = -1
CLASS_COLUMN, CLASSED_COLUMNS = 7, 9
Benchmark = Literal["mot17", "mot20"]
DISTRACTORS: Mapping[Benchmark, tuple[int, ...]] = {"mot17": (2, 7, 8, 12), "mot20": (2, 6, 7, 8, 12)}
"""Classes of person on vehicle, static person, distractor and reflection; in MOT20 of non-motorised vehicle, too."""


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


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """Labelled boxes of a sequence: those to find, those that count for nothing, and distractors.

    A track on a distractor is no false positive (Milan et al. 2016, arXiv:1603.00831, section 4.1.3).
    """

    boxes: MotBoxes
    left_out: MotBoxes
    distractors: MotBoxes


def read_mot_detections(path: Path, score_scale: float = 1.0) -> MotBoxes:
    """Detections: ids are dropped, and the score is the confidence divided by score_scale (100 for per cent).

    Raises DatasetError with the number of the line, also for a score outside 0 to 1.
    """
    table = _read(path, lambda row: _check_score(row, score_scale))
    boxes = _boxes(table)
    return MotBoxes(boxes.frames, np.full(len(boxes), NO_ID), boxes.boxes_xyxy, boxes.scores / score_scale)


def read_mot_ground_truth(path: Path, benchmark: Benchmark = "mot17") -> GroundTruth:
    """Ground truth; the benchmark (mot17 is MOT16 too) says which classes are distractors.

    Raises DatasetError as read_mot_tracks does.
    """
    table = _read(path, _IdCheck())
    boxes, is_used = _boxes(table), table[:, 6] != 0.0
    is_distractor = ~is_used & np.isin(table[:, CLASS_COLUMN], DISTRACTORS[benchmark])
    return GroundTruth(boxes[is_used], boxes[~is_used & ~is_distractor], boxes[is_distractor])


def in_sequence(parts: Sequence[MotBoxes], starts: Sequence[tuple[int, int]]) -> MotBoxes:
    """Sequences as one: each with its frames and ids counted on from (frame, id) in `starts`."""
    moved = (
        MotBoxes(part.frames + frame, part.ids + track_id, part.boxes_xyxy, part.scores)
        for part, (frame, track_id) in zip(parts, starts, strict=True)
    )
    return MotBoxes.joined(list(moved))


def read_mot_tracks(path: Path) -> MotBoxes:
    """Boxes with identity, of ground truth without those to leave out of the evaluation (confidence 0).

    Raises DatasetError with the number of the line, also where an id occurs twice in a frame or is not positive.
    """
    return read_mot_ground_truth(path).boxes


def write_mot(path: Path, boxes: MotBoxes) -> None:
    """Write boxes in the format of MOT15, whole or not at all; ten numbers a line, places to a thousandth."""
    corner, size = boxes.boxes_xyxy[:, :2], boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for frame, track_id, (x, y), (w, h), score in zip(
            boxes.frames, boxes.ids, corner, size, boxes.scores, strict=True
        ):
            file.write(f"{frame},{track_id},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{score:.5g},-1,-1,-1\n")


def _read(path: Path, check: Callable[[Row], None]) -> Float[np.ndarray, "N 8"]:
    """The rows in order of their frames; `check` raises ValueError for one that is wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a MOT file: {error}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            check(row)
        except ValueError as error:
            raise DatasetError(f"{path}, line {number}: {error}") from error
        rows.append(row)
    table = np.array(rows, dtype=np.float64).reshape(-1, MIN_COLUMNS + 1)
    return table[np.argsort(table[:, 0], kind="stable")]


def _boxes(table: Float[np.ndarray, "N 8"]) -> MotBoxes:
    boxes_xyxy = np.concatenate([table[:, 2:4], table[:, 2:4] + table[:, 4:6]], axis=1)
    return MotBoxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), boxes_xyxy, table[:, 6])


def _parse(line: str) -> Row:
    """The first seven numbers of a line and its class, -1 for none; ValueError says what is wrong with it."""
    words = line.split(",")
    if len(words) < MIN_COLUMNS:
        raise ValueError(
            f"expected frame,id,left,top,width,height,confidence separated by commas, got {len(words)} of them"
        )
    classes = words[CLASS_COLUMN : CLASS_COLUMN + 1] if len(words) == CLASSED_COLUMNS else ["-1"]
    try:
        row = tuple(float(word) for word in (*words[:MIN_COLUMNS], *classes))
    except ValueError:
        raise ValueError(f"expected numbers, got {line.strip()!r}") from None
    if not np.isfinite(row).all():
        raise ValueError(f"expected finite numbers, got {line.strip()!r}")
    if not row[0].is_integer() or row[0] < 1:
        raise ValueError(f"expected a frame number from 1 on, got {words[0].strip()}")
    if row[0] > LAST_FRAME:
        raise ValueError(
            f"expected a frame number up to {LAST_FRAME}, got {words[0].strip()}: a time stamp? number frames from 1 on"
        )
    if not row[1].is_integer():
        raise ValueError(f"expected a whole number as id, got {words[1].strip()}")
    if row[4] < 0.0 or row[5] < 0.0:
        raise ValueError(f"expected width and height of at least 0, got {words[4].strip()} and {words[5].strip()}")
    return row


def _check_score(row: Row, score_scale: float) -> None:
    if not 0.0 <= row[6] <= score_scale:
        per_cent = " (a scale of 100 takes per cent)" if 1.0 == score_scale < row[6] <= 100.0 else ""
        raise ValueError(f"expected a score from 0 to {score_scale:g}, got {row[6]:g}{per_cent}")


class _IdCheck:
    """Ids from 0 on, each once in a frame."""

    def __init__(self) -> None:
        self._seen: set[tuple[float, float]] = set()

    def __call__(self, row: Row) -> None:
        frame, track_id = row[:2]
        if track_id < 0:
            raise ValueError(f"expected an id from 0 on, got {track_id:.0f}: are these detections instead of tracks?")
        if (frame, track_id) in self._seen:
            raise ValueError(f"the id {track_id:.0f} occurs a second time in frame {frame:.0f}")
        self._seen.add((frame, track_id))

"""MOTA, IDF1 and HOTA of finished track files in MOTChallenge text.

Given two files, one sequence is scored; given two folders, every sequence and all together: TRACKS/NAME.txt against
GROUND_TRUTH/NAME/gt/gt.txt or GROUND_TRUTH/NAME.txt.

examples:
  handeye evaluate-tracks tracks.txt --ground-truth gt.txt
  handeye evaluate-tracks results/ --ground-truth MOT20/train --benchmark mot20 --json scores.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json
from handeye.vision.tracking.metrics import TrackingScores, evaluate_tracks, without_distractors
from handeye.vision.tracking.mot_files import (
    Benchmark,
    GroundTruth,
    MotBoxes,
    in_sequence,
    read_mot_ground_truth,
    read_mot_tracks,
)

ALL = "all"
PERCENT = ("HOTA", "DetA", "AssA", "MOTA", "IDF1")
COUNTS = ("id_switches", "false_positives", "misses", "fragmentations")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of `handeye evaluate-tracks`."""

    tracks: Positional[Path]
    """MOT file of tracks, or a folder of them, one for each sequence."""
    ground_truth: Path
    """MOT file of ground truth, or a folder of sequences."""
    benchmark: Benchmark = "mot17"
    """Whose distractor classes apply where the ground truth has classes: mot17 (MOT16 too) or mot20, which adds
    non-motorised vehicles."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Score each sequence, and all of them as one."""
    pairs = _pairs(arguments.tracks, arguments.ground_truth)
    read = {name: _read(tracks, truth, arguments.benchmark) for name, (tracks, truth) in pairs.items()}
    result = {name: score_summary(evaluate_tracks(*boxes)) for name, boxes in read.items()}
    if len(read) > 1:
        truths, tracks = zip(*read.values(), strict=True)
        result[ALL] = score_summary(evaluate_tracks(*_one_after_the_other(truths, tracks)))
    _print(result)
    if arguments.json is not None:
        write_json(arguments.json, {"benchmark": arguments.benchmark, "sequences": result})
    return 0


def score_summary(scores: TrackingScores) -> dict[str, Any]:
    """Figures in percent are rounded to a tenth, as the field prints and compares them."""
    return {key: round(value, 1) if isinstance(value, float) else value for key, value in asdict(scores).items()}


def _pairs(tracks: Path, ground_truth: Path) -> dict[str, tuple[Path, Path]]:
    """The files of tracks and of ground truth of each sequence."""
    if tracks.is_dir() != ground_truth.is_dir():
        raise UserError(f"{tracks}, --ground-truth {ground_truth}: expected two files or two folders")
    if not tracks.is_dir():
        return {tracks.stem: (tracks, ground_truth)}
    files = {file.stem: file for file in sorted(tracks.glob("*.txt")) if not file.name.startswith(".")}
    if not files:
        raise UserError(f"{tracks}: holds no track file NAME.txt")
    pairs = {}
    for name, file in files.items():
        places = (ground_truth / name / "gt/gt.txt", ground_truth / f"{name}.txt")
        truth = next((place for place in places if place.is_file()), None)
        if truth is None:
            raise UserError(f"{file}: there is no ground truth {places[0]} or {places[1]}")
        pairs[name] = (file, truth)
    if ALL in pairs and len(pairs) > 1:
        raise UserError(f"{pairs[ALL][0]}: {ALL} is the name of the sum; rename this sequence")
    return pairs


def _read(tracks: Path, ground_truth: Path, benchmark: Benchmark) -> tuple[MotBoxes, MotBoxes]:
    """The labelled boxes, and the tracks that count against them."""
    truth: GroundTruth = read_mot_ground_truth(ground_truth, benchmark)
    return truth.boxes, without_distractors(truth, read_mot_tracks(tracks))


def _one_after_the_other(*columns: tuple[MotBoxes, ...]) -> tuple[MotBoxes, ...]:
    """Each column as one long sequence: no frame and no identity is shared by two of them."""
    starts, frames, ids = [], 0, 0
    for row in zip(*columns, strict=True):
        starts.append((frames, ids))
        frames += max(boxes.last_frame for boxes in row)
        ids += max(int(boxes.ids.max(initial=0)) for boxes in row)
    return tuple(in_sequence(column, starts) for column in columns)


def _print(result: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table()
    for heading in ("sequence", *PERCENT, *COUNTS):
        table.add_column(heading.replace("_", " "), justify="left" if heading == "sequence" else "right")
    for name, scores in result.items():
        table.add_row(name, *(f"{scores[key]:.1f}" for key in PERCENT), *(str(scores[key]) for key in COUNTS))
    Console(highlight=False).print(table)

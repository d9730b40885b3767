"""Track the detections of a MOT file (SORT, ByteTrack, OC-SORT); with ground truth also MOTA, IDF1 and HOTA.

Both files are text, `frame,id,left,top,width,height,confidence,...`, frames from 1, as in MOTChallenge.

examples:
  handeye track-files det.txt --output tracks.txt --tracker ocsort
  handeye track-files det.txt --output tracks.txt --ground-truth gt.txt --json scores.json
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from handeye.tools.command_line import Positional
from handeye.tools.evaluate_tracks import score_summary
from handeye.tools.tracker_arguments import TrackerArguments
from handeye.vision.errors import TrackingError, UserError
from handeye.vision.files import write_json
from handeye.vision.tracking.box_tracker import NOMINAL_RATE
from handeye.vision.tracking.image_tracker import TrackedSequence, build_box_tracker, track_sequence
from handeye.vision.tracking.metrics import TrackingScores, evaluate_tracks, without_distractors
from handeye.vision.tracking.mot_files import Benchmark, read_mot_detections, read_mot_ground_truth, write_mot


@dataclass(frozen=True, kw_only=True)
class Arguments(TrackerArguments):
    """Arguments of `handeye track-files`; overrides may follow as `tracker.key=value` or `frame_rate=value`."""

    detections: Positional[Path]
    """MOT file of detections; ids in it are ignored."""
    output: Path
    """MOT file of tracks to write."""
    ground_truth: Path | None = None
    """MOT file of ground truth; its frames without detections are tracked too, and distractors are forgiven."""
    benchmark: Benchmark = "mot17"
    """Whose distractor classes apply where the ground truth has classes: mot17 (MOT16 too) or mot20."""
    score_scale: float = 1.0
    """What a score of 1 is in the file of detections: 100 for per cent."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments, overrides: list[str]) -> int:
    """Track, write and evaluate."""
    config = arguments.load_config(overrides)
    if config.camera_motion is not None:
        raise UserError("camera_motion: needs images, and a MOT file has none; set it to null")
    if not 0.0 < arguments.score_scale < math.inf:
        raise UserError(f"--score-scale: expected a number above 0, got {arguments.score_scale:g}")
    _refuse_overwriting(arguments)
    found = read_mot_detections(arguments.detections, arguments.score_scale)
    truth = (
        None if arguments.ground_truth is None else read_mot_ground_truth(arguments.ground_truth, arguments.benchmark)
    )
    rate = config.frame_rate or NOMINAL_RATE
    last_frame = max(found.last_frame, truth.boxes.last_frame if truth is not None else 0)
    try:
        result = track_sequence(found, build_box_tracker(config.tracker, rate), last_frame, rate)
    except TrackingError as error:
        raise UserError(f"{arguments.detections}: {error}") from error
    scores = None if truth is None else evaluate_tracks(truth.boxes, without_distractors(truth, result.tracks))
    write_mot(arguments.output, result.tracks)
    summary = _summary(result, scores) | {"tracker": config.tracker.kind, "output": str(arguments.output)}
    _print(summary)
    if arguments.json is not None:
        write_json(arguments.json, summary)
    return 0


def _summary(result: TrackedSequence, scores: TrackingScores | None) -> dict[str, object]:
    summary: dict[str, object] = {
        "frames": len(result.update_s),
        "tracks": len(np.unique(result.tracks.ids)),
        "boxes": len(result.tracks),
        "update_ms_p50": 1e3 * float(np.median(result.update_s)) if len(result.update_s) else None,
    }
    if scores is not None:
        summary |= score_summary(scores)
    return summary


def _print(summary: dict[str, object]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    speed = "" if summary["update_ms_p50"] is None else f", {summary['update_ms_p50']:.2f} ms per update"
    console.print(
        f"{summary['tracker']}: {summary['frames']} frames, {summary['tracks']} tracks, {summary['boxes']} boxes{speed}"
    )
    if "MOTA" in summary:
        console.print(
            f"MOTA {summary['MOTA']}  IDF1 {summary['IDF1']}  HOTA {summary['HOTA']}  (DetA {summary['DetA']}, "
            f"AssA {summary['AssA']}); {summary['id_switches']} id switches, {summary['false_positives']} false "
            f"positives, {summary['misses']} misses"
        )
    console.print(f"tracks in {summary['output']}")


def _refuse_overwriting(arguments: Arguments) -> None:
    """The tracks must not take the place of what they come from or are compared with."""
    for source in (arguments.detections, arguments.ground_truth):
        if source is not None and arguments.output.resolve() == source.resolve():
            raise UserError(f"--output: would overwrite {source}; choose another file")

"""Tracking metrics: MOTA and IDF1 by motmetrics, and HOTA, which it lacks.

CLEAR MOT: Bernardin and Stiefelhagen 2008. IDF1: Ristani et al. 2016 (arXiv:1609.01775). HOTA: Luiten et al. 2021
(arXiv:2009.07736); its matching weighs similarity by how well two identities fit over the whole sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.tracking.mot_files import GroundTruth, MotBoxes

MATCH_IOU = 0.5
"""Least IoU of a match in MOTA and IDF1."""
ALPHAS = np.arange(1, 20) / 20.0
"""The localisation thresholds over which HOTA is the mean."""
_ROUNDING = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class TrackingScores:
    """Metrics of one sequence, in percent as papers print them, and counts of errors."""

    MOTA: float
    IDF1: float
    HOTA: float
    DetA: float
    AssA: float
    id_switches: int
    false_positives: int
    misses: int
    fragmentations: int


@dataclass(frozen=True, slots=True, eq=False)
class FramePairs:
    """One frame: identities counted from 0, and the IoU of every labelled with every tracked box.

    Objects that are no boxes have another similarity from 0 to 1 instead, of which MATCH_IOU is the least of a match.
    """

    truth_ids: Int64[np.ndarray, " T"]
    track_ids: Int64[np.ndarray, " P"]
    ious: Float[np.ndarray, "T P"]


def evaluate_tracks(truth: MotBoxes, tracks: MotBoxes) -> TrackingScores:
    """Compare tracks with the labelled ones over all frames of both.

    Needs motmetrics (ModuleNotFoundError without it).
    """
    return score_frames(pair_frames(truth, tracks))


def without_distractors(truth: GroundTruth, tracks: MotBoxes) -> MotBoxes:
    """The tracks that the benchmark judges: without boxes that match a distractor.

    All labelled boxes take part in the matching, which is one to one and as good as possible in each frame; so a box
    on a person beside a reflection stays.
    """
    parts, last = [], max(truth.boxes.last_frame, truth.distractors.last_frame, tracks.last_frame)
    frames = zip(
        *(part.by_frame(last) for part in (truth.boxes, truth.left_out, truth.distractors, tracks)), strict=True
    )
    for used, left_out, distractors, tracked in frames:
        labelled = np.concatenate([used.boxes_xyxy, left_out.boxes_xyxy, distractors.boxes_xyxy])
        ious = pairwise_iou(labelled, tracked.boxes_xyxy)
        fit = np.where(ious >= MATCH_IOU - _ROUNDING, ious, 0.0)
        rows, columns = linear_sum_assignment(fit, maximize=True)
        is_forgiven = (fit[rows, columns] > 0.0) & (rows >= len(used) + len(left_out))
        is_judged = np.ones(len(tracked), dtype=bool)
        is_judged[columns[is_forgiven]] = False
        parts.append(tracked[is_judged])
    return MotBoxes.joined(parts)


def score_frames(frames: list[FramePairs]) -> TrackingScores:
    """The metrics of a sequence of frames in order. Needs motmetrics (ModuleNotFoundError without it)."""
    clear = _clear_and_identity(frames)
    hota = hota_scores(frames)
    return TrackingScores(
        MOTA=100.0 * float(clear["mota"]),
        IDF1=100.0 * float(clear["idf1"]),
        HOTA=100.0 * hota.HOTA,
        DetA=100.0 * hota.DetA,
        AssA=100.0 * hota.AssA,
        id_switches=int(clear["num_switches"]),
        false_positives=int(clear["num_false_positives"]),
        misses=int(clear["num_misses"]),
        fragmentations=int(clear["num_fragmentations"]),
    )


def pair_frames(truth: MotBoxes, tracks: MotBoxes) -> list[FramePairs]:
    """Both frame by frame, from the first to the last frame of either."""
    truth_names, track_names = np.unique(truth.ids), np.unique(tracks.ids)
    last = max(truth.last_frame, tracks.last_frame)
    return [
        FramePairs(
            np.searchsorted(truth_names, labelled.ids),
            np.searchsorted(track_names, tracked.ids),
            pairwise_iou(labelled.boxes_xyxy, tracked.boxes_xyxy),
        )
        for labelled, tracked in zip(truth.by_frame(last), tracks.by_frame(last), strict=True)
    ]


@dataclass(frozen=True, slots=True)
class HotaScores:
    """Means over the thresholds, in 0..1."""

    HOTA: float
    DetA: float
    AssA: float


def hota_scores(frames: list[FramePairs]) -> HotaScores:
    """HOTA and its two parts (equations 7 to 17): at each threshold sqrt(DetA AssA).

    One matching of each frame serves all thresholds, as in the authors' program. Zero where nothing matches.
    """
    num_truth = 1 + max((int(frame.truth_ids.max(initial=-1)) for frame in frames), default=-1)
    num_tracks = 1 + max((int(frame.track_ids.max(initial=-1)) for frame in frames), default=-1)
    truth_counts, track_counts, alignment = _alignment(frames, num_truth, num_tracks)
    matched = np.zeros((len(ALPHAS), num_truth, num_tracks))
    for frame in frames:
        fit = alignment[np.ix_(frame.truth_ids, frame.track_ids)] * frame.ious
        rows, columns = linear_sum_assignment(fit, maximize=True)
        is_match = frame.ious[rows, columns] >= ALPHAS[:, None] - _ROUNDING
        matched[:, frame.truth_ids[rows], frame.track_ids[columns]] += is_match
    hits = matched.sum(axis=(1, 2))
    detection = hits / np.maximum(truth_counts.sum() + track_counts.sum() - hits, 1.0)
    pair_quality = matched / np.maximum(truth_counts[:, None] + track_counts - matched, 1.0)
    association = (matched * pair_quality).sum(axis=(1, 2)) / np.maximum(hits, 1.0)
    hota = np.sqrt(detection * association)
    return HotaScores(float(hota.mean()), float(detection.mean()), float(association.mean()))


def _alignment(frames: list[FramePairs], num_truth: int, num_tracks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each identity occurs, and for each pair of them the Jaccard index of their soft matches."""
    truth_counts, track_counts = np.zeros(num_truth), np.zeros(num_tracks)
    common = np.zeros((num_truth, num_tracks))
    for frame in frames:
        truth_counts[frame.truth_ids] += 1
        track_counts[frame.track_ids] += 1
        around = frame.ious.sum(axis=0) + frame.ious.sum(axis=1)[:, None] - frame.ious
        share = np.divide(frame.ious, around, out=np.zeros_like(frame.ious), where=around > _ROUNDING)
        common[np.ix_(frame.truth_ids, frame.track_ids)] += share
    return truth_counts, track_counts, common / np.maximum(truth_counts[:, None] + track_counts - common, _ROUNDING)


def _clear_and_identity(frames: list[FramePairs]) -> dict[str, Any]:
    """CLEAR MOT and identity metrics. motmetrics brings pandas: it is loaded only where tracks are evaluated."""
    import motmetrics

    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for frame in frames:
        distances = np.where(frame.ious >= MATCH_IOU, 1.0 - frame.ious, np.nan)
        accumulator.update(frame.truth_ids, frame.track_ids, distances)
    names = ["mota", "idf1", "num_switches", "num_false_positives", "num_misses", "num_fragmentations"]
    return dict(motmetrics.metrics.create().compute(accumulator, metrics=names, return_dataframe=False))

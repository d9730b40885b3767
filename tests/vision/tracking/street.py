"""A street with people drawn from numbers: true boxes, what a detector sees of them, and tracks with known faults.

People walk across a level street before a camera that stands still; who is nearer hides who is behind. The three
files in tests/data/tracking/street are made by `python -m tests.vision.tracking.street FOLDER`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.tracking.mot_files import NO_ID, MotBoxes, write_mot

SEED = 20
NUM_FRAMES, NUM_PEOPLE = 150, 10
FRAME_RATE = 25.0
SIZE_WH = np.array([640.0, 480.0])
FOCAL_PX, EYE_M, HORIZON_PX = 640.0, 2.2, 150.0
FALSE_PER_FRAME = 0.15


@dataclass(frozen=True)
class Person:
    """Someone who walks at constant speed; places are metres to the right of and before the camera."""

    start_xz: np.ndarray
    speed_xz: np.ndarray
    size_m: np.ndarray

    def box(self, time_s: float) -> np.ndarray:
        x, z = self.start_xz + time_s * self.speed_xz
        foot = HORIZON_PX + FOCAL_PX * EYE_M / z
        width, height = FOCAL_PX * self.size_m / z
        middle = 0.5 * SIZE_WH[0] + FOCAL_PX * x / z
        return np.array([middle - 0.5 * width, foot - height, middle + 0.5 * width, foot])


def draw_people(rng: np.random.Generator) -> list[Person]:
    """Half of them come from the left and half from the right, each at the middle of the image at some time."""
    people = []
    for number in range(NUM_PEOPLE):
        depth, height = rng.uniform(5.0, 13.0), rng.uniform(1.55, 1.95)
        speed = np.array([(-1) ** number * rng.uniform(0.9, 1.7), rng.uniform(-0.15, 0.15)])
        middle_s = rng.uniform(0.0, NUM_FRAMES / FRAME_RATE)
        people.append(Person(np.array([0.0, depth]) - middle_s * speed, speed, np.array([0.38 * height, height])))
    return people


def draw_street(seed: int = SEED) -> tuple[MotBoxes, MotBoxes, MotBoxes]:
    """Truth, detections and faulty tracks."""
    rng = np.random.default_rng(seed)
    people = draw_people(rng)
    truth, found = [], []
    for frame in range(1, NUM_FRAMES + 1):
        boxes = np.stack([person.box(frame / FRAME_RATE) for person in people])
        middles = 0.5 * (boxes[:, 0] + boxes[:, 2])
        inside = np.flatnonzero((middles > 0) & (middles < SIZE_WH[0]))
        truth.append(_boxes(frame, inside + 1, boxes[inside], np.ones(len(inside))))
        found.append(_detect(rng, frame, boxes[inside]))
    labelled = MotBoxes.joined(truth)
    return labelled, MotBoxes.joined(found), draw_faulty_tracks(rng, labelled)


def _boxes(frame: int, ids: np.ndarray, boxes_xyxy: np.ndarray, scores: np.ndarray) -> MotBoxes:
    return MotBoxes(np.full(len(ids), frame), ids.astype(np.int64), boxes_xyxy, scores)


def _detect(rng: np.random.Generator, frame: int, boxes: np.ndarray) -> MotBoxes:
    """What is mostly hidden is seldom found, and with a low score; a few boxes are of nobody."""
    visible = np.array([visible_part(boxes, number) for number in range(len(boxes))])
    is_found = rng.random(len(boxes)) < np.clip(1.4 * visible - 0.1, 0.0, 0.96)
    scores = np.clip(0.25 + 0.65 * visible + rng.normal(0, 0.05, len(boxes)), 0.05, 0.99)
    seen = jittered(rng, boxes, 0.03)
    num = rng.poisson(FALSE_PER_FRAME)
    corner, size = rng.uniform([0, 100], [560, 300], (num, 2)), rng.uniform([30, 80], [80, 200], (num, 2))
    wrong, wrong_scores = np.concatenate([corner, corner + size], axis=1), rng.uniform(0.2, 0.6, num)
    boxes_xyxy = np.concatenate([seen[is_found], wrong])
    scores = np.concatenate([scores[is_found], wrong_scores])
    return _boxes(frame, np.full(len(scores), NO_ID), boxes_xyxy, scores)


def visible_part(boxes: np.ndarray, number: int, steps: int = 24) -> float:
    """The part of a box that no box with a lower foot, which is nearer, covers; counted on a grid."""
    left, top, right, bottom = boxes[number].tolist()
    x, y = np.linspace(left, right, steps), np.linspace(top, bottom, steps)
    u, v = (axis.ravel() for axis in np.meshgrid(x, y))
    nearer = boxes[boxes[:, 3] > boxes[number, 3]]
    covers = (u > nearer[:, [0]]) & (u < nearer[:, [2]]) & (v > nearer[:, [1]]) & (v < nearer[:, [3]])
    return 1.0 - float(covers.any(axis=0).mean())


def jittered(rng: np.random.Generator, boxes: np.ndarray, part: float) -> np.ndarray:
    """Edges moved by a normal error that grows with the box."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return boxes + rng.normal(0, part, boxes.shape) * np.tile(sizes, 2)


def draw_faulty_tracks(rng: np.random.Generator, truth: MotBoxes) -> MotBoxes:
    """The true boxes, inexact, with gaps, broken into pieces, exchanged where two meet, and with some of nobody."""
    owner = np.arange(NUM_PEOPLE + 1)
    next_id, parts = NUM_PEOPLE + 1, []
    is_lost = np.zeros(NUM_PEOPLE + 1, bool)
    for frame in truth.by_frame(NUM_FRAMES):
        for one, other in np.argwhere(np.triu(pairwise_iou(frame.boxes_xyxy, frame.boxes_xyxy), 1) > 0.3):
            if rng.random() < 0.01:
                a, b = frame.ids[one], frame.ids[other]
                owner[[a, b]] = owner[[b, a]]
        turns = rng.random(NUM_PEOPLE + 1) < np.where(is_lost, 0.1, 0.01)
        for person in np.flatnonzero(turns & is_lost & (rng.random(NUM_PEOPLE + 1) < 0.5)):
            owner[person], next_id = next_id, next_id + 1
        is_lost ^= turns
        shown = ~is_lost[frame.ids]
        boxes, ids = jittered(rng, frame.boxes_xyxy[shown], 0.05), owner[frame.ids[shown]]
        if len(boxes) and rng.random() < 0.1:
            boxes, ids = np.concatenate([boxes, boxes[:1] + [50.0, 0.0, 50.0, 0.0]]), np.append(ids, next_id)
            next_id += 1
        parts.append(_boxes(int(frame.frames[0]) if len(frame) else 0, ids, boxes, np.ones(len(ids))))
    return MotBoxes.joined(parts)


def write_street(folder: Path) -> None:
    """The three files in the format of MOTChallenge."""
    for name, boxes in zip(("gt.txt", "det.txt", "tracks.txt"), draw_street(), strict=True):
        write_mot(folder / name, boxes)


if __name__ == "__main__":
    write_street(Path(sys.argv[1]))

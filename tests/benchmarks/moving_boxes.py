"""Made-up detections of many things that move in a picture, to measure trackers on: the same density for any number."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int64


def moving_boxes(
    num_objects: int, num_frames: int, seed: int = 0
) -> tuple[Int64[np.ndarray, " K"], Float[np.ndarray, "K 4"], Float[np.ndarray, " K"]]:
    """Frames from 0, boxes x1 y1 x2 y2 (px) and scores of all detections of a sequence.

    Objects of 40 to 120 px drift with up to 4 px a frame and turn at the edges of a square that holds one object for
    each 160 x 160 px. One detection in twenty is missing, one in ten is weak, and places shake by 1 px.
    """
    rng = np.random.default_rng(seed)
    side = 160.0 * np.sqrt(num_objects)
    size = rng.uniform(40.0, 120.0, (num_objects, 2))
    start, velocity = rng.uniform(0.0, side, (num_objects, 2)), rng.uniform(-4.0, 4.0, (num_objects, 2))
    frames, boxes, scores = [], [], []
    for frame in range(num_frames):
        unfolded = (start + frame * velocity) % (2.0 * side)
        centre = np.minimum(unfolded, 2.0 * side - unfolded) + rng.normal(0.0, 1.0, (num_objects, 2))
        is_seen = rng.random(num_objects) > 0.05
        is_weak = rng.random(num_objects) < 0.1
        score = np.where(is_weak, rng.uniform(0.2, 0.55, num_objects), rng.uniform(0.7, 1.0, num_objects))
        boxes.append(np.concatenate([centre - size / 2.0, centre + size / 2.0], axis=1)[is_seen])
        scores.append(score[is_seen])
        frames.append(np.full(is_seen.sum(), frame))
    return np.concatenate(frames), np.concatenate(boxes), np.concatenate(scores)

"""Runs roboflow's `trackers` in the environment of its own that it needs: PYTHON peer_tracker.py KIND IN.npz OUT.npz.

IN has frame (K,), boxes_xyxy (K, 4) and scores (K,), frames counted from 0; OUT gets frame, ids and boxes_xyxy of all
tracks and update_s, the processor's seconds of each update. Nothing of this project is imported here.
"""

import sys
import time

import numpy as np
import supervision
from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

KINDS = {"sort": SORTTracker, "bytetrack": ByteTrackTracker, "ocsort": OCSORTTracker}


def main(kind: str, source: str, target: str) -> None:
    """Track one sequence with the package's own defaults."""
    content = np.load(source)
    tracker = KINDS[kind]()
    frames, ids, boxes, update_s = [], [], [], []
    for frame in range(int(content["frame"].max()) + 1):
        rows = content["frame"] == frame
        detections = supervision.Detections(
            xyxy=content["boxes_xyxy"][rows].astype(np.float32),
            confidence=content["scores"][rows].astype(np.float32),
            class_id=np.zeros(rows.sum(), int),
        )
        started = time.process_time()
        tracked = tracker.update(detections)
        update_s.append(time.process_time() - started)
        known = tracked.tracker_id >= 0
        frames.append(np.full(known.sum(), frame))
        ids.append(tracked.tracker_id[known])
        boxes.append(tracked.xyxy[known])
    np.savez(
        target,
        frame=np.concatenate(frames),
        ids=np.concatenate(ids),
        boxes_xyxy=np.concatenate(boxes),
        update_s=np.array(update_s),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

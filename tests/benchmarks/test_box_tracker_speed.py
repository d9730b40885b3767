"""Our ByteTrack beside roboflow's `trackers` on the same detections, and how its time grows with the number of objects.

The peer runs in an environment of its own: HANDEYE_TRACKERS_PYTHON names its Python. All times are the processor's.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from handeye.vision.evaluation.plots import figure
from handeye.vision.runtime.detections import Detections
from handeye.vision.tracking.box_tracker import NOMINAL_RATE
from handeye.vision.tracking.bytetrack import ByteTrackConfig, ByteTracker
from tests.benchmarks.moving_boxes import moving_boxes

NUM_FRAMES = 60
PEER = Path(__file__).with_name("peer_tracker.py")
GROWTH_PLOT = Path("runs/benchmarks/box_tracker_growth.png")


def median_update_s(num_objects: int) -> float:
    """Median processor seconds of an update, without the first ten frames, in which tracks are born."""
    frames, boxes, scores = moving_boxes(num_objects, NUM_FRAMES)
    tracker, update_s = ByteTracker(ByteTrackConfig(), NOMINAL_RATE), []
    for frame in range(NUM_FRAMES):
        rows = frames == frame
        found = Detections(
            boxes[rows].astype(np.float32), scores[rows].astype(np.float32), np.zeros(rows.sum(), np.int64), ("object",)
        )
        started = time.process_time()
        tracker.update(found, frame / NOMINAL_RATE)
        update_s.append(time.process_time() - started)
    return float(np.median(update_s[10:]))


@pytest.mark.usefixtures("benchmarks_wanted")
def test_beside_a_peer_at_100_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = os.environ.get("HANDEYE_TRACKERS_PYTHON")
    if python is None:
        pytest.skip("HANDEYE_TRACKERS_PYTHON does not name a Python that has `trackers`")
    frames, boxes, scores = moving_boxes(100, NUM_FRAMES)
    np.savez(tmp_path / "in.npz", frame=frames, boxes_xyxy=boxes, scores=scores)
    subprocess.run([python, PEER, "bytetrack", tmp_path / "in.npz", tmp_path / "out.npz"], check=True)
    theirs = float(np.median(np.load(tmp_path / "out.npz")["update_s"][10:]))
    ours = median_update_s(100)
    with capsys.disabled():
        print(f"\n100 objects: {1e3 * ours:.2f} ms, peer {1e3 * theirs:.2f} ms, ratio {ours / theirs:.3f}")


@pytest.mark.usefixtures("benchmarks_wanted")
def test_growth_up_to_1000_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints each time and its ratio to n^2 log n from the time at 100 objects, and plots both."""
    numbers = np.array([100, 200, 300, 500, 700, 1000])
    times_s = np.array([median_update_s(number) for number in numbers])
    law = numbers**2 * np.log(numbers)
    allowed_s = times_s[0] * law / law[0]
    plot_growth(numbers, times_s, allowed_s)
    with capsys.disabled():
        for number, time_s, most_s in zip(numbers, times_s, allowed_s, strict=True):
            print(f"\n{number} objects: {1e3 * time_s:.2f} ms, {time_s / most_s:.3f} of n^2 log n", end="")
        print(f"\nplot in {GROWTH_PLOT}")


def plot_growth(numbers: np.ndarray, times_s: np.ndarray, allowed_s: np.ndarray) -> None:
    with figure(GROWTH_PLOT) as (panel,):
        panel.loglog(numbers, 1e3 * times_s, "o-", label="ByteTrack, one core")
        panel.loglog(numbers, 1e3 * allowed_s, "--", color="grey", label="n² log n from 100 objects on")
        panel.set(xlabel="objects a frame", ylabel="median update, ms", title="Time of an update")
        panel.set_xticks(numbers, [str(number) for number in numbers])
        panel.minorticks_off()
        panel.legend()

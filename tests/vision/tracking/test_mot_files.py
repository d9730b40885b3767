"""MOT text: out and in again, both dialects, real files, and every mistake named with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handeye.vision.errors import DatasetError
from handeye.vision.tracking.mot_files import (
    MotBoxes,
    read_mot_detections,
    read_mot_ground_truth,
    read_mot_tracks,
    write_mot,
)


def some_tracks(rng: np.random.Generator, num: int = 50) -> MotBoxes:
    corner, size = rng.uniform(-20, 600, (num, 2)), rng.uniform(1, 200, (num, 2))
    boxes = np.concatenate([corner, corner + size], axis=1).round(3)
    return MotBoxes(np.repeat(np.arange(1, num // 5 + 1), 5), np.tile(np.arange(1, 6), num // 5), boxes, np.ones(num))


def test_what_is_written_is_read_again(tmp_path: Path):
    tracks = some_tracks(np.random.default_rng(0))
    write_mot(tmp_path / "deeper/out.txt", tracks)
    again = read_mot_tracks(tmp_path / "deeper/out.txt")
    np.testing.assert_array_equal(again.frames, tracks.frames)
    np.testing.assert_array_equal(again.ids, tracks.ids)
    np.testing.assert_allclose(again.boxes_xyxy, tracks.boxes_xyxy, atol=2e-3)
    np.testing.assert_allclose(again.scores, tracks.scores)
    first = (tmp_path / "deeper/out.txt").read_text().splitlines()[0]
    assert len(first.split(",")) == 10
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["out.txt"]


def test_nothing_is_a_file_too(tmp_path: Path):
    nothing = MotBoxes(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    write_mot(tmp_path / "out.txt", nothing)
    again = read_mot_tracks(tmp_path / "out.txt")
    assert len(again) == again.last_frame == 0
    assert [len(frame) for frame in again.by_frame(2)] == [0, 0]


def test_both_dialects_blank_lines_and_any_order_of_frames(tmp_path: Path):
    path = tmp_path / "gt.txt"
    path.write_text("3,1,10,20,30,40,1,-1,-1,-1\n\n1,2,1,2,3,4,1,1,0.5\n1, 3, 5, 6, 7, 8, 0, 1, 1\n", encoding="utf-8")
    boxes = read_mot_tracks(path)
    assert boxes.frames.tolist() == [1, 3]
    assert boxes.ids.tolist() == [2, 1], "the box that is not to be judged is left out"
    assert boxes.boxes_xyxy.tolist() == [[1, 2, 4, 6], [10, 20, 40, 60]]
    assert [len(frame) for frame in boxes.by_frame(4)] == [1, 0, 1, 0]
    assert read_mot_detections(path).ids.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1,2,3", "separated by commas, got 3"),
        ("1 2 3 4 5 6 7", "separated by commas, got 1"),
        ("1,1,a,2,3,4,1", "expected numbers"),
        ("1,1,nan,2,3,4,1", "finite"),
        ("1,1,1,2,inf,4,1", "finite"),
        ("0,1,1,2,3,4,1", "frame number from 1 on, got 0"),
        ("1.5,1,1,2,3,4,1", "frame number from 1 on, got 1.5"),
        ("99999999999,1,1,2,3,4,1", "frame number up to 1000000, got 99999999999: a time stamp"),
        ("1403636580,1,1,2,3,4,1", "a time stamp"),
        ("1,0.5,1,2,3,4,1", "whole number as id"),
        ("1,1,1,2,-3,4,1", "width and height"),
        ("1,-1,1,2,3,4,1", "detections instead of tracks"),
        ("2,7,1,2,3,4,1", "the id 7 occurs a second time in frame 2"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, line: str, told: str):
    path = tmp_path / "gt.txt"
    path.write_text(f"2,7,1,2,3,4,1\n{line}\n")
    with pytest.raises(DatasetError, match=told) as error:
        read_mot_tracks(path)
    assert f"{path}, line 2: " in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("score", "scale"), [("40.86", 1), ("-0.1", 1), ("1.001", 1), ("101", 100), ("-1", 100)])
def test_a_score_outside_its_range_is_named_with_its_line(tmp_path: Path, score: str, scale: float):
    path = tmp_path / "det.txt"
    path.write_text(f"1,-1,1,2,3,4,0.5\n2,-1,1,2,3,4,{score}\n")
    with pytest.raises(DatasetError, match=f"line 2: expected a score from 0 to {scale}, got {score}") as error:
        read_mot_detections(path, float(scale))
    assert ("per cent" in str(error.value)) == (score in {"40.86", "1.001"})


def test_scores_in_per_cent(tmp_path: Path):
    (tmp_path / "det.txt").write_text("1,-1,1,2,3,4,95.27\n2,-1,1,2,3,4,0\n3,-1,1,2,3,4,100\n")
    np.testing.assert_allclose(read_mot_detections(tmp_path / "det.txt", 100.0).scores, [0.9527, 0, 1])


def test_ground_truth_by_flag_and_class(tmp_path: Path):
    """MOT16 and later have the class in nine columns; the eighth of MOT15's ten is a place in the world."""
    rows = ["1,1,0,0,9,9,1,1,1", "1,2,0,0,9,9,0,3,1", "1,3,0,0,9,9,0,12,1", "1,4,0,0,9,9,0,12,5,0", "1,5,0,0,9,9,1,8,1"]
    (tmp_path / "gt.txt").write_text("\n".join(rows))
    truth = read_mot_ground_truth(tmp_path / "gt.txt")
    assert [part.ids.tolist() for part in (truth.boxes, truth.left_out, truth.distractors)] == [[1, 5], [2, 4], [3]]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00\x01"])
def test_what_is_no_text_is_rejected(tmp_path: Path, content: bytes | None):
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_mot_detections(path)


def test_a_drawn_sequence_is_read_whole(sample: Callable[[str], Path]):
    """Its files beside numpy's own reading of them."""
    folder = sample("tracking/street")
    truth, found = read_mot_tracks(folder / "gt.txt"), read_mot_detections(folder / "det.txt")
    assert (len(truth), len(found), truth.last_frame) == (1303, 938, 150)
    assert len(set(truth.ids.tolist())) == 10
    for boxes, name in ((truth, "gt.txt"), (found, "det.txt")):
        table = np.loadtxt(folder / name, delimiter=",")
        np.testing.assert_array_equal(boxes.frames, table[:, 0])
        np.testing.assert_allclose(boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2], table[:, 4:6])
        np.testing.assert_array_equal(boxes.scores, table[:, 6])


@pytest.mark.parametrize(
    ("sequence", "num_truth", "num_detections", "num_frames", "num_persons"),
    [("TUD-Campus", 359, 321, 71, 8), ("TUD-Stadtmitte", 1156, 951, 179, 10)],
)
def test_real_files(
    shared: Callable[[str], Path], sequence: str, num_truth: int, num_detections: int, num_frames: int, num_persons: int
):
    folder = shared(f"data/mot15/{sequence}")
    truth, found = read_mot_tracks(folder / "gt/gt.txt"), read_mot_detections(folder / "det/det.txt")
    assert (len(truth), len(found), truth.last_frame) == (num_truth, num_detections, num_frames)
    assert len(set(truth.ids.tolist())) == num_persons

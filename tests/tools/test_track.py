"""`handeye track`: videos with identity, moving cameras, images in order, and one line for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

import handeye._stream
from handeye.tools.command_line import run_command
from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.runtime.sources import StreamImage, open_stream
from handeye.vision.runtime.video_writer import VideoWriter
from handeye.vision.tracking.mot_files import read_mot_tracks

Find = Callable[[str], Path]
Track = Callable[..., int]
ROOT = Path(__file__).resolve().parents[2]
STAGES = ["read", "preprocess", "infer", "postprocess", "track", "total"]


@pytest.fixture
def track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Track:
    """`track(source, *options)` with the cube detector that handeye ships, into tmp_path/out and tmp_path/r.json."""
    return tracker_with(tmp_path, monkeypatch, ROOT / "vision/weights/tabletop_nano.onnx")


@pytest.fixture
def track_images(shared: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Track:
    """The same with the published nano network, which knows bottles and persons."""
    model = shared("data/yolox_nano_coco/yolox_nano.onnx")
    return tracker_with(tmp_path, monkeypatch, model, "--model-format", "yolox")


def tracker_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path, *words: str) -> Track:
    monkeypatch.chdir(tmp_path)
    fixed = [*words, "--threads", "1", "--output", "out", "--json", "r.json"]

    def run(source: object, *options: str) -> int:
        return run_command(["track", str(model), str(source), *fixed, *options])

    return run


def read_lines(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/tracks.jsonl").read_text().splitlines()]


def frames_of(video: Path, first: int, last: int) -> list[np.ndarray]:
    with open_stream(str(video)) as stream:
        return [image.image_rgb for image in islice(stream, first, last)]


def write_video(path: Path, images: list[np.ndarray], fps: float) -> Path:
    with VideoWriter(path, fps) as writer:
        for image in images:
            writer.write(image)
    return path


@pytest.mark.parametrize("tracker", ["sort", "bytetrack", "ocsort"])
def test_bottles_at_rest_keep_their_ids(shared: Find, tmp_path: Path, track_images: Track, tracker: str) -> None:
    source = shared("data/video/bottle-detection.mp4")
    assert track_images(source, "--frames", "10", "--tracker", tracker) == 0
    assert_objects_at_rest(tmp_path, source, {"bottle"})


@pytest.mark.parametrize("tracker", ["sort", "bytetrack", "ocsort"])
def test_cubes_at_rest_keep_their_ids(sample: Find, tmp_path: Path, track: Track, tracker: str) -> None:
    first = frames_of(sample("video/cubes.mp4"), 0, 1)[0]
    source = write_video(tmp_path / "rest.mp4", [first] * 10, 10.0)
    assert track(source, "--tracker", tracker) == 0
    assert_objects_at_rest(tmp_path, source, {"red_cube", "green_cube", "blue_cube", "yellow_cube"})


def assert_objects_at_rest(tmp_path: Path, source: Path, names: set[str]) -> None:
    """Ten frames in which the same objects, three or more, stay where they are, drawn into a film."""
    lines = read_lines(tmp_path)
    assert len(lines) == 10
    ids = {found["track_id"] for found in lines[0]["tracks"]}
    assert ids == set(range(1, len(ids) + 1))
    assert len(ids) >= 3
    for line in lines:
        assert {found["track_id"] for found in line["tracks"]} == ids
        assert {found["class_name"] for found in line["tracks"]} <= names
        assert line["lost"] == []
    centres = {found["track_id"]: np.mean(found["box_xyxy"][::2]) for found in lines[0]["tracks"]}
    for found in lines[-1]["tracks"]:
        assert abs(np.mean(found["box_xyxy"][::2]) - centres[found["track_id"]]) < 10
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["images"], result["tracks"], result["boxes"]) == (10, len(ids), 10 * len(ids))
    assert list(result["stages"]) == STAGES
    with open_stream(str(tmp_path / "out" / source.name)) as annotated, open_stream(str(source)) as original:
        assert annotated.num_images == 10
        assert annotated.fps == pytest.approx(original.fps, rel=1e-3)
        difference = np.abs(next(iter(annotated)).image_rgb.astype(int) - next(iter(original)).image_rgb)
    assert difference.max() > 60, "boxes are drawn"
    assert np.median(difference) < 10, "the picture is the same"


def test_the_detector_gives_what_the_tracker_can_use(
    sample: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ByteTrack lives on weak detections: by default they reach it, though the detector alone would drop them."""
    track = tracker_with(tmp_path, monkeypatch, sample("yolox/blood_cells.onnx"))
    source = sample("bccd/JPEGImages")
    eager = ["--frames", "3", "--no-draw", "tracker.track_threshold=0.1", "tracker.birth_margin=0"]
    assert track(source, *eager) == 0
    scores = [found["score"] for line in read_lines(tmp_path) for found in line["tracks"]]
    assert 0.1 <= min(scores) < 0.3
    assert track(source, *eager, "--score-threshold", "0.5") == 0
    assert all(found["score"] >= 0.5 for line in read_lines(tmp_path) for found in line["tracks"])


def test_crossing_cubes_are_followed_and_the_trail_moves(sample: Find, tmp_path: Path, track: Track) -> None:
    """The fourth cube of the truth slides away alone, without a look-alike that crosses its way: one id."""
    assert track(sample("video/cubes.mp4"), "--tracker", "ocsort") == 0
    truth = read_mot_tracks(sample("mot/gt.txt"))
    followed = []
    for number, line in enumerate(read_lines(tmp_path)):
        here = truth[(truth.frames == number + 1) & (truth.ids == 4)]
        found = np.array([track["box_xyxy"] for track in line["tracks"]], np.float64).reshape(-1, 4)
        overlaps = pairwise_iou(here.boxes_xyxy.astype(np.float64), found)[0]
        if len(found) and overlaps.max() > 0.5:
            followed.append(line["tracks"][int(overlaps.argmax())])
    assert len(followed) >= 30
    assert len({found["track_id"] for found in followed}) == 1
    centres = np.array([np.reshape(found["box_xyxy"], (2, 2)).mean(axis=0) for found in followed])
    assert np.linalg.norm(np.ptp(centres, axis=0)) > 20, "the cube moves"


def test_a_person_who_walks_in_keeps_one_id_and_leaves_a_trail(
    shared: Find, tmp_path: Path, track_images: Track
) -> None:
    images = frames_of(shared("data/video/one-by-one-person-detection.mp4"), 62, 84)
    source = write_video(tmp_path / "walk.mp4", images, 10.0)
    assert track_images(source) == 0
    seen = [found for line in read_lines(tmp_path) for found in line["tracks"] if found["class_name"] == "person"]
    assert len(seen) >= 12
    assert {found["track_id"] for found in seen} == {1}
    centres = np.array([np.reshape(found["box_xyxy"], (2, 2)).mean(axis=0) for found in seen])
    assert np.linalg.norm(np.ptp(centres, axis=0)) > 20, "the person moves"


def test_the_configured_camera_motion_holds_ids_where_the_camera_pans(
    sample: Find, tmp_path: Path, track: Track
) -> None:
    """The picture jumps to and fro by 25 px, where a strict tracker takes no box for the one before."""
    images = frames_of(sample("video/cubes.mp4"), 0, 1) * 12
    pans = [np.array([[1.0, 0.0, 25.0 * (number // 3 % 2)], [0.0, 1.0, 0.0]]) for number in range(12)]
    panned = [
        cv2.warpAffine(image, pan, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
        for image, pan in zip(images, pans, strict=True)
    ]
    source = write_video(tmp_path / "pan.mp4", panned, 30.0)
    ids = {}
    for config in ("tracking_moving_camera", "tracking_bytetrack"):
        options = ["--config", str(ROOT / f"configs/robot/{config}.yaml"), "tracker.match_threshold=0.4"]
        assert track(source, "--no-draw", *options) == 0
        ids[config] = {found["track_id"] for line in read_lines(tmp_path) for found in line["tracks"]}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tracks.jsonl"]
    assert ids["tracking_moving_camera"] == {1, 2, 3, 4, 5, 6}
    assert len(ids["tracking_bytetrack"]) > 6


def test_images_in_a_folder_come_one_after_the_other_at_the_configured_rate(
    sample: Find, tmp_path: Path, track: Track
) -> None:
    (tmp_path / "shots").mkdir()
    for number, image_rgb in enumerate(frames_of(sample("video/cubes.mp4"), 0, 4)):
        assert cv2.imwrite(str(tmp_path / f"shots/{number}.png"), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    assert track(tmp_path / "shots", "frame_rate=5") == 0
    lines = read_lines(tmp_path)
    assert [(line["name"], line["stamp_s"]) for line in lines] == [(f"{n}.png", n / 5) for n in range(4)]
    assert {found["track_id"] for line in lines for found in line["tracks"]} == {1, 2, 3, 4, 5, 6}
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == [f"{n}.png" for n in range(4)]


def test_a_broken_image_of_a_folder_takes_its_time_and_is_skipped(sample: Find, tmp_path: Path, track: Track) -> None:
    (tmp_path / "shots").mkdir()
    for number, image_rgb in enumerate(frames_of(sample("video/cubes.mp4"), 0, 4)):
        assert cv2.imwrite(str(tmp_path / f"shots/{number}.png"), cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    (tmp_path / "shots/1.png").write_bytes(b"")
    assert track(tmp_path / "shots", "frame_rate=5") == 1
    assert [(line["name"], line["stamp_s"]) for line in read_lines(tmp_path)] == [
        (f"{n}.png", n / 5) for n in (0, 2, 3)
    ]


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("absent.mp4", [], "absent.mp4"),
        ("text.mp4", [], "text.mp4"),
        ("empty", [], "holds no image"),
        ("97", [], "camera 97: cannot be opened"),
        ("text.mp4", ["tracker.max_agee=3"], "unknown key"),
        ("text.mp4", ["--tracker", "sort", "--config", "c.yaml"], "give one of them"),
        ("text.mp4", ["--config", "absent.yaml"], "absent.yaml"),
        ("text.mp4", ["frame_rate=0"], "frame_rate"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, track: Track, capfd: pytest.CaptureFixture[str], source: str, options: list[str], told: str
) -> None:
    Path("text.mp4").write_text("no video\n" * 100)
    Path("empty").mkdir()
    Path("c.yaml").write_text("tracker: {kind: sort}\n")
    assert track(source, *options) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert told in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert not Path("r.json").exists()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


class Backwards:
    """A stream whose fifth frame is older than the one before, as after the clock of a recorder was set back."""

    fps = 10.0
    num_images = None
    num_broken = 0

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, *error: object) -> None: ...

    def __iter__(self) -> Iterator[StreamImage]:
        for number, stamp_s in enumerate((0.0, 0.1, 0.2, 0.3, 0.1, 0.4)):
            yield StreamImage(f"frame_{number}", np.zeros((48, 64, 3), np.uint8), stamp_s)


def test_time_that_runs_backwards_keeps_what_was_done_and_fails(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handeye._stream, "open_stream", lambda source, timeout_s, skip_broken: Backwards())
    assert track("clock.mp4") == 2
    assert "clock.mp4, frame_4: time runs backwards" in capfd.readouterr().err
    assert [line["stamp_s"] for line in read_lines(tmp_path)] == [0.0, 0.1, 0.2, 0.3]
    with open_stream(str(tmp_path / "out/clock.mp4")) as annotated:
        assert annotated.num_images == 4
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["images"], result["tracks"]) == (4, 0)

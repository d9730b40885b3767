"""The Python API: `import handeye`, its functions on models, images and videos that ship, and their documentation."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import handeye
from handeye.tools.command_line import run_command
from handeye.vision.images import read_image

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "vision/weights/tabletop_nano.onnx"
VIDEO = ROOT / "tests/data/video/cubes.mp4"
BLOOD_CELLS = ROOT / "tests/data/yolox/blood_cells.onnx"
BCCD = ROOT / "tests/data/bccd"
ANNOTATIONS = BCCD / "coco_json/instances_test.json"


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three frames of a video that ships, some time apart."""
    folder = tmp_path_factory.mktemp("frames")
    capture = cv2.VideoCapture(str(VIDEO))
    for number in range(3):
        capture.set(cv2.CAP_PROP_POS_FRAMES, 5 * number)
        decoded, image_bgr = capture.read()
        assert decoded
        cv2.imwrite(str(folder / f"{number}.png"), image_bgr)
    capture.release()
    return folder


@pytest.fixture(scope="module")
def detector() -> handeye.Detector:
    return handeye.load(MODEL, threads=1)


def test_it_detects_in_a_file_and_in_its_array(detector: handeye.Detector, frames: Path) -> None:
    found = detector(frames / "0.png")
    assert len(found) > 0
    image_rgb = read_image(frames / "0.png")
    height, width = image_rgb.shape[:2]
    assert found.boxes_xyxy.shape == (len(found), 4)
    assert found.boxes_xyxy.min() >= 0
    assert found.boxes_xyxy[:, 2].max() <= width
    assert found.boxes_xyxy[:, 3].max() <= height
    for same in (detector(image_rgb), detector(str(frames / "0.png"))):
        np.testing.assert_array_equal(same.boxes_xyxy, found.boxes_xyxy)
        np.testing.assert_array_equal(same.scores, found.scores)
    assert detector.times.infer > 0


def test_a_list_gives_a_list(detector: handeye.Detector, frames: Path) -> None:
    paths = sorted(frames.iterdir())
    found = detector(paths)
    assert [one.scores.tolist() for one in found] == [detector(path).scores.tolist() for path in paths]
    assert detector([]) == []


def test_detections_iterate_and_print(detector: handeye.Detector, frames: Path) -> None:
    found = detector(frames / "0.png")
    first = next(iter(found))
    assert first.class_name == found.names[0]
    assert first.box_xyxy == tuple(found.boxes_xyxy[0].tolist())
    assert len(list(found)) == len(found)
    assert f"Detections({len(found)}: {first.class_name} {first.score:.2f} (" in repr(found)
    assert repr(found[:0]) == "Detections(none)"


def test_classes_keep_their_ids_and_leave_the_others_out(detector: handeye.Detector, frames: Path) -> None:
    everything = detector(frames / "0.png")
    name = everything.names[0]
    only = handeye.load(MODEL, classes=[name], threads=1)
    found = only(frames / "0.png")
    assert set(found.names) == {name}
    assert len(found) == everything.names.count(name) == len(only.row_index)
    assert only.class_names == detector.class_names
    for wrong in (["no such class"], [], name):
        with pytest.raises(handeye.UserError, match="expected a list of its classes"):
            handeye.load(MODEL, classes=wrong)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((8, 8), np.uint8), r"got shape \(8, 8\) of uint8"),
        (np.zeros((8, 8, 3), np.float32), r"of float32"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"\(1, 3, 8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), r"\(0, 8, 3\)"),
        (7, "got int"),
        ("absent.png", "absent.png"),
    ],
)
def test_what_is_no_image_is_named(detector: handeye.Detector, image: object, told: str) -> None:
    with pytest.raises(handeye.UserError, match=told):
        detector(image)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_missing_model_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(handeye.UserError, match=r"absent\.onnx"):
        handeye.load(tmp_path / "absent.onnx")


def test_streaming_a_folder_gives_each_frame_with_its_detections(detector: handeye.Detector, frames: Path) -> None:
    stream = handeye.stream(detector, frames)
    assert (stream.num_images, stream.fps) == (3, None)
    seen = list(stream)
    assert [frame.name for frame, _ in seen] == ["0.png", "1.png", "2.png"]
    for frame, found in seen:
        assert frame.image_rgb.dtype == np.uint8
        assert found.scores.tolist() == detector(frame.image_rgb).scores.tolist()
    assert list(stream.stage_times_s) == ["read", "preprocess", "infer", "postprocess"]
    assert stream.stage_times_s["read"] > 0


def test_a_stream_that_is_left_early_closes(detector: handeye.Detector) -> None:
    with handeye.stream(detector, VIDEO) as stream:
        first, _ = next(iter(stream))
        second, _ = next(stream)
    assert first.stamp_s < second.stamp_s
    with pytest.raises(StopIteration):
        next(stream)


def test_a_source_that_is_not_there_is_named_when_the_stream_is_made(detector: handeye.Detector) -> None:
    with pytest.raises(handeye.UserError, match="absent"):
        handeye.stream(detector, "absent.mp4")


def test_tracking_gives_the_tracks_that_the_verb_writes(detector: handeye.Detector, tmp_path: Path) -> None:
    """With the scores that the tracker can use, which are lower than those of the model."""
    words = ["track", str(MODEL), str(VIDEO), "--frames", "6", "--no-draw", "--output", str(tmp_path), "--threads", "1"]
    assert run_command(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "tracks.jsonl").read_text(encoding="utf-8").splitlines()]
    with handeye.track(detector, VIDEO) as stream:
        seen = [tracks.track_ids.tolist() for _, tracks in (next(stream) for _ in range(6))]
    assert [[row["track_id"] for row in line["tracks"]] for line in lines] == seen
    assert any(seen)
    assert stream.detector.score_threshold < detector.score_threshold
    chosen = handeye.load(MODEL, score_threshold=0.4, threads=1)
    with handeye.track(chosen, VIDEO, "bytetrack") as stream:
        assert stream.detector is chosen


def test_drawing_leaves_the_image_alone(detector: handeye.Detector, frames: Path) -> None:
    image_rgb = read_image(frames / "0.png")
    before = image_rgb.copy()
    drawn = handeye.draw(image_rgb, detector(image_rgb))
    np.testing.assert_array_equal(image_rgb, before)
    assert (drawn != image_rgb).any()
    frame, tracks = next(handeye.track(detector, VIDEO))
    assert (handeye.draw(frame.image_rgb, tracks) != frame.image_rgb).any() or not len(tracks)


def test_evaluate_gives_what_the_verb_writes(tmp_path: Path) -> None:
    result = handeye.evaluate(BLOOD_CELLS, ANNOTATIONS, BCCD / "JPEGImages", threads=1)
    words = [str(BLOOD_CELLS), "--annotations", str(ANNOTATIONS), "--images", str(BCCD / "JPEGImages")]
    path = tmp_path / "metrics.json"
    assert run_command(["evaluate", *words, "--threads", "1", "--json", str(path)]) == 0
    written = json.loads(path.read_text(encoding="utf-8"))
    names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl", "images", "engine"]
    assert {name: result[name] for name in names} == {name: written[name] for name in names}
    assert result.keys() == written.keys()
    assert 0.3 < result["AP50"] <= 1


@pytest.mark.slow
def test_picking_reports_success_and_calls_back() -> None:
    results = []
    report = handeye.pick(
        ROOT / "configs/robot/pick.yaml", ["timeout_s=0.3"], renderer="rays", on_episode=results.append
    )
    assert (report["episodes"], report["successes"], report["policy"]) == (1, 0, "scripted")
    assert [row["seed"] for row in report["results"]] == [result.seed for result in results] == [0]


def test_the_shipped_policy_loads_and_predicts_a_chunk() -> None:
    policy = handeye.load_policy(ROOT / "robot/weights/pick_state.onnx", threads=1)
    assert policy.chunk_size > 1
    assert policy.signature.action_names


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: handeye.pick(episodes=0), "episodes 0"),
        (lambda: handeye.pick(seed=-1), "seed -1"),
        (lambda: handeye.pick(policy="absent.onnx"), "absent.onnx"),
        (lambda: handeye.pick(detector="absent.onnx"), "absent.onnx"),
        (lambda: handeye.load_policy("absent.onnx"), "absent.onnx"),
        (lambda: handeye.train(), "name a configuration"),
        (lambda: handeye.train("absent.yaml"), "absent.yaml"),
    ],
)
def test_mistakes_are_user_errors(call: Callable[[], object], told: str) -> None:
    with pytest.raises(handeye.UserError, match=told):
        call()


@pytest.mark.parametrize("name", handeye.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each has a docstring, and a function's names each of its arguments and what it raises."""
    value = getattr(handeye, name)
    text = inspect.getdoc(value) or ""
    assert len(text) > 20
    if inspect.isfunction(value) and name != "draw":
        assert "Raises" in text
        shared = {"overrides", "threads", "engine", "model_format", "score_threshold", "iou_threshold", "detector"}
        missing = [word for word in inspect.signature(value).parameters if word not in text and word not in shared]
        inherits = any(f"`handeye.{other}`" in text for other in ("load", "pick", "stream"))
        assert inherits or not missing, missing


def test_public_names_are_listed_typed_and_lazy() -> None:
    assert set(handeye.__all__) <= set(dir(handeye))
    source = (ROOT / "src/handeye/__init__.py").read_text(encoding="utf-8")
    typed = source.partition("if TYPE_CHECKING:")[2].partition("_MODULE_OF")[0]
    assert all(name in typed for name in handeye.__all__)
    assert set(handeye._MODULE_OF) == set(handeye.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        handeye.no_such_name  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_detecting_needs_no_torch() -> None:
    code = f"import handeye, sys; handeye.load({str(MODEL)!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_python_m_handeye_is_the_command_line() -> None:
    done = subprocess.run([sys.executable, "-m", "handeye", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Evaluate and deploy" in done.stdout

"""`handeye detect`: what it leaves behind, its JSON, and one-line errors with exit code 2 for every bad source."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from handeye.tools.command_line import run_command
from handeye.vision.checkpoints.native import save_detector
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.runtime.sources import open_stream
from handeye.vision.runtime.video_writer import VideoWriter

CUBES = Path(__file__).resolve().parents[2] / "vision/weights/tabletop_nano.onnx"
STAGES = ["read", "preprocess", "infer", "postprocess", "total"]


@pytest.fixture
def detect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`detect(source, *options)` with the cube detector that handeye ships, into tmp_path/out and tmp_path/r.json."""
    monkeypatch.chdir(tmp_path)
    model = str(CUBES)
    fixed = ["--threads", "1", "--output", "out", "--json", "r.json"]

    def run(source: object, *options: str) -> int:
        return run_command(["detect", model, str(source), *fixed, *options])

    return run


def read_lines(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "out/detections.jsonl").read_text().splitlines()]


def test_a_video_becomes_an_annotated_video_json_lines_and_times(sample, tmp_path: Path, detect):
    source = sample("video/cubes.mp4")
    assert detect(source, "--frames", "12") == 0
    lines = read_lines(tmp_path)
    assert all(found["class_name"].endswith("_cube") for line in lines for found in line["detections"])
    assert sum(len(line["detections"]) for line in lines) >= 12 * 5
    assert_annotated(tmp_path, source)


@pytest.mark.parametrize(
    ("name", "seen"), [("bottle-detection", "bottle"), ("one-by-one-person-detection", "tvmonitor")]
)
def test_a_real_video_is_annotated_by_the_published_network(shared, tmp_path: Path, monkeypatch, name, seen):
    monkeypatch.chdir(tmp_path)
    source, model = shared(f"data/video/{name}.mp4"), shared("data/yolox_nano_coco/yolox_nano.onnx")
    words = ["detect", str(model), str(source), "--model-format", "yolox", "--threads", "1", "--frames", "12"]
    assert run_command([*words, "--output", "out", "--json", "r.json"]) == 0
    assert any(found["class_name"] == seen for line in read_lines(tmp_path) for found in line["detections"])
    assert_annotated(tmp_path, source)


def assert_annotated(tmp_path: Path, source: Path) -> None:
    """Twelve frames of `source`: boxes inside, times, the drawn film and the summary."""
    lines = read_lines(tmp_path)
    assert len(lines) == 12
    assert [line["stamp_s"] for line in lines] == sorted({line["stamp_s"] for line in lines})
    for line in lines:
        for found in line["detections"]:
            x1, y1, x2, y2 = found["box_xyxy"]
            assert 0 <= x1 < x2 <= line["width"]
            assert 0 <= y1 < y2 <= line["height"]
            assert 0.3 <= found["score"] <= 1
    with open_stream(str(tmp_path / "out" / source.name)) as annotated, open_stream(str(source)) as original:
        assert annotated.num_images == 12
        assert annotated.fps == pytest.approx(original.fps, rel=1e-3)
        difference = np.abs(next(iter(annotated)).image_rgb.astype(int) - next(iter(original)).image_rgb)
    assert difference.max() > 60, "boxes are drawn"
    assert np.median(difference) < 10, "the picture is the same"
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["images"] == 12
    assert result["fps"] > 0
    assert result["engine"].split()[0] in {"openvino", "onnxruntime"}
    assert list(result["stages"]) == STAGES
    assert all(set(times) == {"p50_ms", "p95_ms", "p99_ms"} for times in result["stages"].values())
    assert result["detections"] == sum(len(line["detections"]) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_frames"),
    [("bottle-detection", 1189), pytest.param("one-by-one-person-detection", 1394, marks=pytest.mark.long)],
)
def test_a_whole_video(shared, tmp_path: Path, detect, name: str, num_frames: int):
    assert detect(shared(f"data/video/{name}.mp4")) == 0
    assert len(read_lines(tmp_path)) == num_frames


def test_images_keep_their_names_and_are_never_overwritten(sample, tmp_path: Path, detect, capsys):
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    original = sample("bccd/JPEGImages/BloodImage_00065.jpg").read_bytes()
    for name in ("kitchen.jpg", "deeper/kitchen.jpg"):
        (folder / name).write_bytes(original)
    assert cv2.imwrite(str(folder / "kitchen.bmp"), np.zeros((40, 60, 3), np.uint8))
    assert detect(folder / "**/kitchen.*") == 0
    written = sorted(
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    )
    assert written == ["detections.jsonl", "images/deeper/kitchen.jpg", "images/kitchen.bmp.png", "images/kitchen.jpg"]
    assert [line["name"] for line in read_lines(tmp_path)] == ["deeper/kitchen.jpg", "kitchen.bmp", "kitchen.jpg"]
    assert detect(folder, "--output", str(tmp_path)) == 2
    assert "overwrite the source" in capsys.readouterr().err
    assert (folder / "kitchen.jpg").read_bytes() == original


def test_a_broken_image_of_a_folder_is_named_and_the_others_are_done(tmp_path: Path, detect, capfd):
    folder = tmp_path / "shots"
    folder.mkdir()
    for number in range(4):
        assert cv2.imwrite(str(folder / f"{number}.png"), np.full((40, 60, 3), 60 * number, np.uint8))
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-20])
    assert detect(folder) == 1
    assert [line["name"] for line in read_lines(tmp_path)] == ["0.png", "1.png", "3.png"]
    output = capfd.readouterr()
    assert "2.png: is cut off" in output.err
    assert "3 images, 1 skipped" in output.out
    assert json.loads((tmp_path / "r.json").read_text())["skipped"] == 1


def test_without_drawing_only_the_lines_are_written(sample, tmp_path: Path, detect):
    assert detect(sample("video/bottles.mp4"), "--frames", "2", "--no-draw") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


def tiny_checkpoint(path: Path, head: dict[str, object]) -> Path:
    """A detector with fresh weights, whose scores are low."""
    content = {
        "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.125},
        "neck": {"kind": "levels", "num_levels": 1},
        "head": head,
        "num_classes": 3,
        "preprocessing": {"size_hw": [96, 128]},
    }
    torch.manual_seed(0)
    save_detector(path, Detector(validate_config(DetectorConfig, content, origin="test")))
    return path


def test_attention_is_drawn_for_heads_of_queries_and_refused_for_others(sample, tmp_path: Path, capfd):
    image = sample("bccd/JPEGImages/BloodImage_00065.jpg")
    sizes = {"hidden_dim": 16, "num_heads": 2, "feed_forward_dim": 16, "num_queries": 5}
    detr = tiny_checkpoint(tmp_path / "detr.safetensors", {"kind": "detr", "num_decoder_layers": 2, **sizes})
    words = [str(image), "--show", "attention", "--score-threshold", "0", "--output", str(tmp_path / "out")]
    assert run_command(["detect", str(detr), *words]) == 0
    drawn = cv2.imread(str(tmp_path / "out/images" / image.name)).astype(int)
    original = cv2.imread(str(image))
    assert drawn.shape == original.shape
    assert np.abs(drawn - original).mean() > 10, "where nothing looked it is dark"
    assert len(read_lines(tmp_path)[0]["detections"]) == 5
    yolox = tiny_checkpoint(tmp_path / "yolox.safetensors", {"kind": "yolox", "hidden_dim": 16})
    capfd.readouterr()
    assert run_command(["detect", str(yolox), *words]) == 2
    assert "a head of kind yolox has no queries" in capfd.readouterr().err


def bad_sources(tmp_path: Path, video: Path) -> dict[str, bytes | None]:
    content = video.read_bytes()
    return {
        "absent.mp4": None,
        "empty.mp4": b"",
        "half.mp4": content[: len(content) // 2],
        "last_bytes_missing.mp4": content[:-100],
        "text.mp4": b"no video\n" * 100,
        "photo.jpg": b"no photo",
    }


@pytest.mark.parametrize(
    "name", ["absent.mp4", "empty.mp4", "half.mp4", "last_bytes_missing.mp4", "text.mp4", "photo.jpg"]
)
def test_a_bad_source_is_one_line_and_exit_code_2(sample, tmp_path: Path, detect, capfd, name: str):
    content = bad_sources(tmp_path, sample("video/bottles.mp4"))[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert detect(tmp_path / name) == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith("handeye: error: ")
    assert name in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not (tmp_path / "r.json").exists()


def test_a_video_that_breaks_off_keeps_what_was_done_and_fails(tmp_path: Path, detect, capfd):
    path = tmp_path / "long.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(40):
        writer.write(np.full((48, 64, 3), 5 * number, np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert detect(path) == 2
    errors = capfd.readouterr().err
    assert "breaks off after" in errors
    assert len(errors.strip().splitlines()) == 1
    lines = read_lines(tmp_path)
    assert 10 < len(lines) < 40
    with open_stream(str(tmp_path / "out/long.mp4")) as annotated:
        assert annotated.num_images == len(lines)
    assert json.loads((tmp_path / "r.json").read_text())["images"] == len(lines)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_bad_model_is_one_line_and_exit_code_2(sample, tmp_path: Path, capfd, content):
    model = tmp_path / "net.onnx"
    if content is not None:
        model.write_bytes(content)
    image = str(sample("bccd/JPEGImages/BloodImage_00065.jpg"))
    assert run_command(["detect", str(model), image, "--output", str(tmp_path / "out")]) == 2
    errors = capfd.readouterr().err
    assert "net.onnx" in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_foreign_model_without_its_format_is_told_what_to_add(sample, tmp_path: Path, capfd):
    words = [str(sample("yolox/blood_cells_raw.onnx")), str(sample("bccd/JPEGImages"))]
    assert run_command(["detect", *words, "--output", str(tmp_path)]) == 2
    assert "--model-format yolox" in capfd.readouterr().err


def test_ctrl_c_ends_a_stream_with_everything_written(tmp_path: Path, detect, monkeypatch, capfd):
    path = tmp_path / "short.mp4"
    with VideoWriter(path, fps=10.0) as writer:
        for _ in range(8):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    from handeye.vision.runtime.image_detector import ImageDetector

    calls, detect_one = [], ImageDetector.__call__

    def interrupted(self: ImageDetector, image_rgb: np.ndarray) -> object:
        calls.append(threading.get_ident())
        if len(calls) == 3 + 5:  # three calls warm the detector up
            raise KeyboardInterrupt
        return detect_one(self, image_rgb)

    monkeypatch.setattr(ImageDetector, "__call__", interrupted)
    assert detect(path) == 0
    assert len(read_lines(tmp_path)) == 4
    assert "stopped" in capfd.readouterr().err

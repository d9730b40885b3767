"""The run time against a plain pipeline on the same network, images, thresholds and threads: same boxes, less time.

`make benchmark` prints the ratios. Both take turns image by image, so that a busy machine slows both alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from handeye.vision.images import read_image
from handeye.vision.runtime.engines import EngineName
from handeye.vision.runtime.image_detector import ImageDetector
from tests.benchmarks.plain_pipeline import PlainPipeline

MODEL, IMAGES = "data/yolox_nano_coco/yolox_nano.onnx", "data/coco_mini/val2017"


def load_both(shared: Callable, engine: EngineName, score_threshold: float) -> tuple[ImageDetector, PlainPipeline]:
    path = shared(MODEL)
    thresholds = {"score_threshold": score_threshold, "iou_threshold": 0.65}
    ours = ImageDetector.load(path, engine=engine, model_format="yolox", num_threads=1, clip_boxes=False, **thresholds)
    return ours, PlainPipeline(path, **thresholds, num_threads=1)


@pytest.mark.parametrize("score_threshold", [0.3, 0.01])
def test_both_find_the_same_boxes(shared, score_threshold: float):
    ours, plain = load_both(shared, "onnxruntime", score_threshold)
    for path in sorted(shared(IMAGES).glob("*.jpg"))[:4]:
        image_rgb = read_image(path)
        found, expected = ours(image_rgb), plain(np.ascontiguousarray(image_rgb[..., ::-1]))[:300]
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-4)
        np.testing.assert_allclose(found.boxes_xyxy, expected[:, :4], atol=0.05)
        np.testing.assert_array_equal(found.class_ids, expected[:, 5])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("score_threshold", [0.3, 0.01])
def test_speed_ratio(shared, benchmarks_wanted, engine: EngineName, score_threshold: float):
    ours, plain = load_both(shared, engine, score_threshold)
    images = [read_image(path) for path in sorted(shared(IMAGES).glob("*.jpg"))]
    times: dict[str, list[float]] = {name: [] for name in ("ours", "plain", "ours around", "plain around")}
    for image_rgb in images * 3:
        image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
        started = time.perf_counter()
        ours(image_rgb)
        times["ours"].append(time.perf_counter() - started)
        times["ours around"].append(ours.times.preprocess + ours.times.postprocess)
        total, around = time_plain(plain, image_bgr)
        times["plain"].append(total)
        times["plain around"].append(around)
    medians = {name: float(np.median(values)) for name, values in times.items()}
    print(
        f"\n{ours.engine}, one thread, score > {score_threshold}: {medians['ours'] * 1e3:.1f} ms, "
        f"plain {medians['plain'] * 1e3:.1f} ms: {medians['plain'] / medians['ours']:.2f}x; pre- and post-processing "
        f"{medians['ours around'] * 1e3:.2f} ms, plain {medians['plain around'] * 1e3:.2f} ms: "
        f"{medians['plain around'] / medians['ours around']:.2f}x"
    )


def time_plain(plain: PlainPipeline, image_bgr: np.ndarray) -> tuple[float, float]:
    """Seconds of one call, and of its parts around the network."""
    started = time.perf_counter()
    values, ratio = plain.prepare(image_bgr)
    prepared = time.perf_counter()
    raw = plain.infer(values)
    inferred = time.perf_counter()
    plain.postprocess(raw, ratio)
    ended = time.perf_counter()
    return ended - started, (prepared - started) + (ended - inferred)

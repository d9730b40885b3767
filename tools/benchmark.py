"""Latency and throughput of a detector by stage (read, preprocess, infer, postprocess) on every installed engine.

Each image is decoded from its file, preprocessed, inferred and postprocessed; nothing is drawn.

examples:
  handeye benchmark vision/weights/tabletop_nano.onnx
  handeye benchmark model.onnx --engine openvino --threads 4 --images DIR --json speed.json
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from handeye.tools.detector_arguments import DetectorArguments, print_stages
from handeye.vision.errors import SourceError
from handeye.vision.evaluation.torch_session import CHECKPOINT_SUFFIX
from handeye.vision.files import write_json
from handeye.vision.images import decode_image, list_images
from handeye.vision.runtime.engine_file import ENGINE_SUFFIX
from handeye.vision.runtime.engines import installed_engines
from handeye.vision.runtime.image_detector import ImageDetector, stage_percentiles


@dataclass(frozen=True, kw_only=True)
class Arguments(DetectorArguments):
    """Arguments of `handeye benchmark`."""

    images: Path | None = None
    """Folder of images to measure on; without it one synthetic image of 640 x 480."""
    repeats: int = 200
    """Images to measure, after ten of warm-up."""
    pause_s: float = 1.0
    """Pause between engines in seconds, so that one does not throttle the next."""


def run(arguments: Arguments) -> int:
    """Measure every engine, or the named one; the figures at the top of the JSON are those of the fastest."""
    console = Console()
    contents = _image_files(arguments.images)
    results = []
    for engine in _engines(arguments):
        if results:
            time.sleep(arguments.pause_s)
        detector = changed(arguments, engine=engine).load().image_detector
        results.append(measure(detector, contents, arguments.repeats))
        title = f"{results[-1]['engine']}, {results[-1]['threads']} threads: {results[-1]['fps']:.1f} fps"
        print_stages(console, results[-1]["stages"], title)
    fastest = max(results, key=lambda result: result["fps"])
    if arguments.json is not None:
        write_json(arguments.json, {**fastest, "model": str(arguments.model), "engines": results})
    return 0


def measure(detector: ImageDetector, contents: Sequence[tuple[str, bytes]], repeats: int) -> dict[str, Any]:
    """Stage times of `repeats` images; `contents` are image files as (name, bytes), used in turn."""
    stages_s: list[Mapping[str, float]] = []
    for number in range(-10, repeats):
        name, content = contents[number % len(contents)]
        started = time.perf_counter()
        image_rgb = decode_image(content, name)
        read_s = time.perf_counter() - started
        detector(image_rgb)
        if number >= 0:
            stages_s.append(changed(detector.times, read=read_s).by_name())
    return {
        "images": repeats,
        "fps": repeats / sum(sum(call.values()) for call in stages_s),
        "engine": detector.engine,
        "threads": detector.session.num_threads,
        "input_hw": list(detector.manifest.preprocessing.size_hw),
        "stages": stage_percentiles(stages_s),
    }


def _engines(arguments: Arguments) -> Sequence[Any]:
    """The engines to measure: the named one, or all that can run the model."""
    if arguments.engine != "auto" or arguments.model.suffix.lower() in (CHECKPOINT_SUFFIX, ENGINE_SUFFIX):
        return [arguments.engine]
    return installed_engines() or ["auto"]


def _image_files(folder: Path | None) -> list[tuple[str, bytes]]:
    if folder is None:
        rows, columns = np.mgrid[:480, :640]
        scene = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
        return [("synthetic image", cv2.imencode(".jpg", scene)[1].tobytes())]
    if not folder.is_dir():
        raise SourceError(f"{folder}: is not a folder of images")
    paths = list_images(folder)
    if not paths:
        raise SourceError(f"{folder}: the folder contains no image")
    return [(str(path), path.read_bytes()) for path in paths]

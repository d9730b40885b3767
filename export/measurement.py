"""Measure exported files: AP on annotated images, and latency of several files in turn, so that throttling and other
load on the machine affect all of them alike."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Float32

from handeye.export.graph.onnx_export import write_onnx
from handeye.vision.data.formats import images_folder
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.evaluation.average_precision import CocoMetrics, GroundTruth, evaluate_boxes
from handeye.vision.evaluation.protocol import PROTOCOLS, ProtocolName
from handeye.vision.images import Preprocessing, list_images, preprocess, read_image
from handeye.vision.runtime.engines import EngineName, Session, open_session
from handeye.vision.runtime.image_detector import ImageDetector, percentiles_ms
from handeye.vision.runtime.manifest import Manifest

ROUNDS, CALLS, WARM_UP = 5, 20, 5


@dataclass(frozen=True)
class ImageSet:
    """Image files, with annotations where there are any."""

    files: Mapping[int, Path]
    """By image id of the annotations, or numbered."""
    ground_truth: GroundTruth | None

    @classmethod
    def from_folder(cls, folder: Path) -> ImageSet:
        """All images of a folder, sorted by name. Raises SourceError when there is none."""
        paths = list_images(folder)
        if not paths:
            raise SourceError(f"{folder}: expected a folder with images")
        return cls(dict(enumerate(paths)), None)

    @classmethod
    def from_annotations(cls, annotations: Path, folder: Path | None = None, split: str = "val") -> ImageSet:
        """The images that annotations of any format name (of a data.yaml its `split`), relative to `folder`.

        Without a folder they are searched for in images or JPEGImages, next to the file, where COCO keeps those of
        instances_NAME.json (../NAME), and in ../images. Raises DatasetError when they are in none of these.
        """
        usual = folder or images_folder(annotations, split)
        ground_truth = GroundTruth.read(annotations, usual, split=split)
        names = ground_truth.file_names()
        above = annotations.parent.parent
        places = [annotations.parent, above / annotations.stem.removeprefix("instances_"), above / "images", above]
        places = [folder] if folder is not None else [*([] if usual is None else [usual]), *places]
        first = next(iter(names.values()), "")
        found = next((place for place in places if first and (place / first).is_file()), None)
        if found is None:
            raise DatasetError(
                f"{annotations}: its images ({first or 'none'}) are not in {places[0]}; name their folder"
            )
        return cls({image_id: found / name for image_id, name in names.items()}, ground_truth)

    def inputs(self, preprocessing: Preprocessing, most: int | None = None) -> Iterator[Float32[np.ndarray, "1 3 H W"]]:
        """Preprocessed images; at most `most` of them, spread evenly over the set."""
        paths = list(self.files.values())
        chosen = range(len(paths)) if most is None else np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
        for place in chosen:
            yield preprocess(read_image(paths[place]), preprocessing)[0][None]


def evaluate_file(
    path: Path,
    images: ImageSet,
    engine: EngineName,
    num_threads: int | None = None,
    protocol: ProtocolName = "deployed",
) -> CocoMetrics:
    """COCO metrics of an exported file in one engine. Raises ValueError for images without annotations."""
    if images.ground_truth is None:
        raise ValueError("these images have no annotations")
    detector = PROTOCOLS[protocol].apply(ImageDetector.load(path, engine=engine, num_threads=num_threads))
    found = {image_id: detector(read_image(file)) for image_id, file in images.files.items()}
    return evaluate_boxes(images.ground_truth, found)


def evaluate_model(model: onnx.ModelProto, manifest: Manifest, images: ImageSet, engine: EngineName) -> float:
    """AP of a graph that has not been written yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        write_onnx(path, copy, manifest)
        return evaluate_file(path, images, engine).AP


@dataclass(frozen=True)
class Latency:
    """Latency of one file in one engine: inference alone, without pre- and postprocessing."""

    engine: str
    """With its version."""
    threads: int
    p50_ms: float
    p95_ms: float
    best_ms: float
    """The fastest call, the least disturbed by other load."""
    pause_s: float
    """Pause before each turn."""


def measure_latencies(
    files: Mapping[str, Path],
    size_hw: tuple[int, int],
    engine: EngineName,
    num_threads: int | None = None,
    pause_s: float = 0.2,
) -> dict[str, Latency]:
    """Run the files in turn, ROUNDS times CALLS calls each; latencies by the keys of `files`."""
    sessions = {name: open_session(path, engine, num_threads) for name, path in files.items()}
    durations: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            time.sleep(pause_s)
            durations[name] += _calls(session, size_hw)
    latencies = {}
    for name, session in sessions.items():
        figures = percentiles_ms(durations[name])
        best = min(durations[name]) * 1e3
        latencies[name] = Latency(
            session.engine, session.num_threads, figures["p50_ms"], figures["p95_ms"], best, pause_s
        )
    return latencies


def _calls(session: Session, size_hw: tuple[int, int]) -> list[float]:
    """Durations in seconds of CALLS calls on noise, after WARM_UP calls that are not counted."""
    name = next(iter(session.inputs))
    batch = np.random.default_rng(0).uniform(0, 255, (1, 3, *size_hw)).astype(np.float32)
    seconds = []
    for number in range(-WARM_UP, CALLS):
        started = time.perf_counter()
        session.run({name: batch})
        if number >= 0:
            seconds.append(time.perf_counter() - started)
    return seconds

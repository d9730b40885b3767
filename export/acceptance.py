"""What a file is worth: its average precision on annotated images, and how far its outputs are from another's."""

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
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.evaluation.average_precision import CocoMetrics, GroundTruth, evaluate_boxes
from handeye.vision.images import Preprocessing, list_images, preprocess, read_image
from handeye.vision.runtime.engines import EngineName, Session, open_session
from handeye.vision.runtime.image_detector import ImageDetector, percentiles_ms
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes, read_manifest

SCORE_THRESHOLD, IOU_THRESHOLD = 0.001, 0.65
"""Of the protocol by which detectors publish their figures."""


@dataclass(frozen=True)
class ImageSet:
    """Image files, and what is on them where that is known."""

    files: Mapping[int, Path]
    """By image id of the annotations, or numbered."""
    ground_truth: GroundTruth | None

    @classmethod
    def from_folder(cls, folder: Path) -> ImageSet:
        """All images of a folder, in the order of their names. Raises SourceError when there is none."""
        paths = list_images(folder)
        if not paths:
            raise SourceError(f"{folder}: expected a folder with images")
        return cls(dict(enumerate(paths)), None)

    @classmethod
    def from_coco(cls, annotations: Path, folder: Path | None = None) -> ImageSet:
        """The images that a COCO file names, below `folder`.

        Without one they are looked for beside the file, in COCO's own place for a file called instances_NAME.json
        (../NAME), and in ../images. Raises DatasetError when they are in none of these.
        """
        ground_truth = GroundTruth(annotations)
        names = ground_truth.file_names()
        above = annotations.parent.parent
        places = [annotations.parent, above / annotations.stem.removeprefix("instances_"), above / "images", above]
        places = [folder] if folder is not None else places
        first = next(iter(names.values()), "")
        found = next((place for place in places if first and (place / first).is_file()), None)
        if found is None:
            raise DatasetError(
                f"{annotations}: its images ({first or 'none'}) are not in {places[0]}; name their folder"
            )
        return cls({image_id: found / name for image_id, name in names.items()}, ground_truth)

    def inputs(self, preprocessing: Preprocessing, most: int | None = None) -> Iterator[Float32[np.ndarray, "1 3 H W"]]:
        """The images as a network takes them; `most` of them, spread over the whole set."""
        paths = list(self.files.values())
        chosen = range(len(paths)) if most is None else np.unique(np.linspace(0, len(paths) - 1, most).astype(int))
        for place in chosen:
            yield preprocess(read_image(paths[place]), preprocessing)[0][None]


def evaluate_file(path: Path, images: ImageSet, engine: EngineName, num_threads: int | None = None) -> CocoMetrics:
    """COCO's figures of a deployed file in one engine, by its own suppression if that is in the graph.

    Raises ValueError for images without annotations.
    """
    if images.ground_truth is None:
        raise ValueError("these images have no annotations")
    suppresses = isinstance(read_manifest(path).output, PostprocessedBoxes)
    detector = ImageDetector.load(
        path,
        engine=engine,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=None if suppresses else IOU_THRESHOLD,
        num_threads=num_threads,
        clip_boxes=False,
    )
    found = {image_id: detector(read_image(file)) for image_id, file in images.files.items()}
    return evaluate_boxes(images.ground_truth, found)


def evaluate_model(model: onnx.ModelProto, manifest: Manifest, images: ImageSet, engine: EngineName) -> float:
    """AP of a graph that is not written yet."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        write_onnx(path, copy, manifest)
        return evaluate_file(path, images, engine).AP


# Latency of several files side by side, in turn and with a rest, so that none pays for another's heat or for whoever
# else runs on the machine.

ROUNDS = 5
CALLS = 20
WARM_UP = 5


@dataclass(frozen=True)
class Latency:
    """What one file took in one engine: the network alone, without preparing the image or reading the rows."""

    engine: str
    """With its version."""
    threads: int
    p50_ms: float
    p95_ms: float
    best_ms: float
    """The fastest call: what is left where nobody disturbs."""
    pause_s: float
    """Rest before each turn."""


def measure_latencies(
    files: Mapping[str, Path],
    size_hw: tuple[int, int],
    engine: EngineName,
    num_threads: int | None = None,
    pause_s: float = 0.2,
) -> dict[str, Latency]:
    """Run each file in turn, ROUNDS times CALLS calls, and give its percentiles by the name of the file."""
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
    """Seconds of each of CALLS calls on noise, after WARM_UP that are not counted."""
    name = next(iter(session.inputs))
    batch = np.random.default_rng(0).uniform(0, 255, (1, 3, *size_hw)).astype(np.float32)
    seconds = []
    for number in range(-WARM_UP, CALLS):
        started = time.perf_counter()
        session.run({name: batch})
        if number >= 0:
            seconds.append(time.perf_counter() - started)
    return seconds

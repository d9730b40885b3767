"""Run a detector over a validation set during training, with the preprocessing, decoding and NMS of inference."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float, Float32
from torch import Tensor

from handeye.vision.data.annotations import AnnotationSet, ImageAnnotations
from handeye.vision.detector import Detector
from handeye.vision.evaluation.protocol import PROTOCOLS, Protocol
from handeye.vision.evaluation.torch_session import detector_manifest
from handeye.vision.images import ResizeTransform, at_fixed_size, preprocess, read_image
from handeye.vision.runtime.decode import decode_rows
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.image_detector import MAX_DETECTIONS
from handeye.vision.runtime.manifest import Manifest
from handeye.vision.training.config import EvaluationConfig
from handeye.vision.training.distributed import agree_on_buffers, process_state

READING_THREADS = 2


@torch.inference_mode()
def detect_all(
    detector: Detector,
    annotations: AnnotationSet,
    images: Path,
    config: EvaluationConfig,
    device: torch.device,
    after_batch: Callable[[int], None] | None = None,
) -> dict[int, Detections]:
    """Detections of every image of `annotations`, by image id, in pixels of the original images.

    The detector must be in eval mode and on `device`; `after_batch` is called with the number of images done. Raises
    SourceError for an image that cannot be read.
    """
    found: dict[int, Detections] = {}
    manifest, protocol = detector_manifest(detector, name="detector"), PROTOCOLS[config.protocol]
    with ThreadPoolExecutor(READING_THREADS) as readers:
        for batch in _in_batches(annotations.images, config.batch_size):
            prepared = list(readers.map(lambda image: _read(images / image.file_name, detector), batch))
            inputs = torch.from_numpy(np.stack([values for values, _ in prepared])).to(device)
            rows = _rows(detector, inputs)
            for image, image_rows, (_, resize) in zip(batch, rows, prepared, strict=True):
                found[image.image_id] = _detections(image_rows, resize, manifest, protocol)
            if after_batch is not None:
                after_batch(len(found))
    return found


def detect_together(
    detector: Detector, annotations: AnnotationSet, images: Path, config: EvaluationConfig, device: torch.device
) -> dict[int, Detections]:
    """The same in all processes of a training, each with its share of the images; all get all detections.

    The detector's weights must be the same on all; its buffers become those of the main process.
    """
    agree_on_buffers(detector)
    process = process_state()
    share = replace(annotations, images=annotations.images[process.process_index :: process.num_processes])
    found = detect_all(detector, share, images, config, device)
    return found if process.num_processes == 1 else dict(ChainMap(*gather_object([found])))


def _read(path: Path, detector: Detector) -> tuple[Float32[np.ndarray, "3 H W"], ResizeTransform]:
    preprocessing = detector.config.preprocessing
    return preprocess(read_image(path), at_fixed_size(preprocessing, preprocessing.size_hw))


def _rows(detector: Detector, inputs: Float[Tensor, "B 3 H W"]) -> Float32[np.ndarray, "B rows channels"]:
    return detector(inputs.contiguous(memory_format=torch.channels_last)).rows.float().cpu().numpy()


def _detections(
    rows: Float32[np.ndarray, "rows channels"], resize: ResizeTransform, manifest: Manifest, protocol: Protocol
) -> Detections:
    score_threshold, iou_threshold = protocol.thresholds(manifest)
    found = decode_rows(
        rows,
        resize.input_hw,
        manifest.output,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=MAX_DETECTIONS,
    )
    boxes_xyxy = resize.boxes_to_image(found.boxes_xyxy, clip=protocol.clip_boxes)
    return Detections(boxes_xyxy, found.scores, found.class_ids, manifest.class_names)


def _in_batches(images: Sequence[ImageAnnotations], size: int) -> Iterator[list[ImageAnnotations]]:
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch

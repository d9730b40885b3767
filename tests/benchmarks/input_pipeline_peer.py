"""Images a second of an input pipeline, ours or a peer's: JPEG files to augmented batches, 640 px, in one process.

    PYTHONPATH=. python tests/benchmarks/input_pipeline_peer.py ours COCO.json IMAGES
    PEER_PYTHON tests/benchmarks/input_pipeline_peer.py ultralytics data.yaml IMAGES

The peer is Ultralytics' YOLODataset with its defaults, in an environment of its own; our packages never import it. Both
do mosaic, affine, HSV and flip on batches of 16. Told are images a second by the clock, where our threads count, and
by the processor's time, with which other programs interfere less.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

BATCH_SIZE, SIDE_PX = 16, 640
WARM_UP_STEPS, STEPS = 20, 40


def prepare_ours(annotations: Path, images: Path) -> Callable[[int], Any]:
    """A function that makes the batch of a step."""
    from handeye.vision.data.augmentation import AugmentationConfig
    from handeye.vision.data.batches import BatchPlan, TrainingSamples
    from handeye.vision.data.formats import read_annotations
    from handeye.vision.images import Preprocessing

    train_set = read_annotations(annotations, images)
    size_hw = (SIDE_PX, SIDE_PX)
    samples = TrainingSamples(train_set, images, AugmentationConfig(), Preprocessing(size_hw=size_hw), seed=0)
    plan = BatchPlan(num_images=len(train_set), batch_size=BATCH_SIZE, epochs=1000, seed=0, size_hw=size_hw)
    return lambda step: samples.make_batch(plan.requests(step))


def prepare_peer(data: Path, images: Path) -> Callable[[int], Any]:
    """The same of the peer; its labels lie beside the images as its format wants it."""
    import yaml
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset

    content = {**yaml.safe_load(data.read_text(encoding="utf-8")), "channels": 3}
    settings = {"img_path": str(images), "data": content, "task": "detect", "imgsz": SIDE_PX, "hyp": get_cfg()}
    samples = YOLODataset(**settings, augment=True, batch_size=BATCH_SIZE, rect=False, cache=None)
    order = np.concatenate([np.random.default_rng(epoch).permutation(len(samples)) for epoch in range(1000)])

    def batch(step: int) -> Any:
        return samples.collate_fn([samples[int(index)] for index in order[step * BATCH_SIZE :][:BATCH_SIZE]])

    return batch


def main(name: str, annotations: str, images: str) -> None:
    """Print one line of JSON: medians over the batches after a warm-up."""
    make_batch = (prepare_ours if name == "ours" else prepare_peer)(Path(annotations), Path(images))
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clock_s, processor_s = [], []
    for step in range(WARM_UP_STEPS + STEPS):
        started = time.perf_counter(), time.process_time()
        make_batch(step)
        clock_s.append(time.perf_counter() - started[0])
        processor_s.append(time.process_time() - started[1])
    by_clock, by_processor = (BATCH_SIZE / np.median(times[WARM_UP_STEPS:]) for times in (clock_s, processor_s))
    print(json.dumps({"pipeline": name, "by_clock": round(by_clock, 1), "by_processor": round(by_processor, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])

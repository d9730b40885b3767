"""Which samples a step holds depends on (seed, step) alone: not on workers, not on where a run began."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists
from handeye.vision.data.augmentation import AugmentationConfig, SampleRequest
from handeye.vision.data.batches import BatchPlan, TrainingSamples, iterate_batches, normalise_images, threads_for
from handeye.vision.errors import DatasetError
from handeye.vision.images import Preprocessing, preprocess
from handeye.vision.training.training_data import batch_targets

PREPROCESSING = Preprocessing(size_hw=(64, 64))


def small_set(folder: Path, num_images: int = 7) -> AnnotationSet:
    rng = np.random.default_rng(0)
    images = []
    for index in range(num_images):
        name = f"{index}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        boxes = [[5.0, 5.0, 25.0 + index, 30.0]]
        images.append(annotations_from_lists(index + 1, name, (40, 50), boxes, [index % 2]))
    return AnnotationSet(tuple(images), Categories((1, 2), ("even", "odd")))


def samples_of(folder: Path, augmentation: AugmentationConfig | None = None, **options: Any) -> TrainingSamples:
    return TrainingSamples(
        small_set(folder), folder, augmentation or AugmentationConfig(), PREPROCESSING, seed=3, **options
    )


def plan_of(**changes: object) -> BatchPlan:
    settings: dict = {"num_images": 7, "batch_size": 3, "epochs": 4, "seed": 3, "size_hw": (64, 64)}
    return BatchPlan(**{**settings, **changes})


def test_every_image_is_seen_in_every_epoch():
    plan = plan_of()
    assert (plan.steps_per_epoch, plan.num_steps) == (3, 12)
    orders = []
    for epoch in range(4):
        requests = [request for step in range(3 * epoch, 3 * epoch + 3) for request in plan.requests(step)]
        assert {request.epoch for request in requests} == {epoch}
        assert {request.index for request in requests} == set(range(7))
        orders.append(tuple(request.index for request in requests))
    assert len(set(orders)) == 4


@pytest.mark.parametrize(("num_images", "batch_size"), [(1, 1), (1, 4), (3, 8), (8, 8), (9, 8)])
def test_batches_are_always_full(num_images, batch_size):
    plan = plan_of(num_images=num_images, batch_size=batch_size)
    for step in range(plan.num_steps):
        assert len(plan.requests(step)) == batch_size


def test_processes_share_the_very_batch_of_one_process():
    whole = plan_of(batch_size=6)
    parts = [plan_of(batch_size=6, process=process, num_processes=3) for process in range(3)]
    for step in range(whole.num_steps):
        dealt = [part.requests(step) for part in parts]
        assert [request for row in zip(*dealt, strict=True) for request in row] == whole.requests(step)


def test_the_last_epochs_are_weak():
    plan = plan_of(weak_last_epochs=2)
    assert [plan.requests(3 * epoch)[0].is_strong for epoch in range(4)] == [True, True, False, False]


def test_max_steps_end_the_run_and_move_its_last_epochs():
    plan = plan_of(max_steps=7, weak_last_epochs=1)
    assert (plan.num_steps, plan.num_epochs) == (7, 3)
    assert [plan.is_strong(epoch) for epoch in range(3)] == [True, True, False]
    assert [steps for steps in range(1, 8) if plan.ends_epoch(steps)] == [3, 6, 7]


def test_multi_scale_draws_multiples_of_32_in_its_range():
    plan = plan_of(size_hw=(320, 416), multi_scale=(0.7, 1.5), epochs=100, weak_last_epochs=10)
    sizes = {plan.size_of_step(step) for step in range(270)}
    assert len(sizes) > 5
    for height, width in sizes:
        assert height % 32 == width % 32 == 0
        assert 0.7 * 320 - 16 <= height <= 1.5 * 320 + 16
        assert width / height == pytest.approx(416 / 320, rel=0.12)
    assert {plan.size_of_step(step) for step in range(270, 300)} == {(320, 416)}


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 5])
def test_batches_do_not_depend_on_workers_or_on_where_the_run_began(tmp_path, num_workers, start):
    samples, plan = samples_of(tmp_path), plan_of()
    global_state = torch.get_rng_state()
    batches = list(iterate_batches(samples, plan, start, num_workers))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert len(batches) == plan.num_steps - start
    for step, batch in zip(itertools.count(start), batches, strict=False):
        expected = samples.make_batch(plan.requests(step))
        assert torch.equal(batch.images, expected.images)
        for one, other in zip(batch.boxes, expected.boxes, strict=True):
            np.testing.assert_array_equal(one.xyxy, other.xyxy)


def test_the_cache_changes_nothing(tmp_path):
    plan = plan_of()
    one, other = samples_of(tmp_path), samples_of(tmp_path, cache_images=True)
    assert torch.equal(one.make_batch(plan.requests(1)).images, other.make_batch(plan.requests(1)).images)


@pytest.mark.parametrize("num_threads", [2, 5])
def test_threads_change_nothing(tmp_path, num_threads):
    plan = plan_of(batch_size=7)
    one, many = samples_of(tmp_path, num_threads=1), samples_of(tmp_path, num_threads=num_threads)
    for step in range(3):
        expected, batch = one.make_batch(plan.requests(step)), many.make_batch(plan.requests(step))
        assert torch.equal(batch.images, expected.images)
        for boxes, expected_boxes in zip(batch.boxes, expected.boxes, strict=True):
            np.testing.assert_array_equal(boxes.xyxy, expected_boxes.xyxy)


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert [threads_for(num) for num in (1, 2, 4, 8, 20)] == [4, 4, 2, 1, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert threads_for(2) == 2


def test_crowds_are_ignored_regions_and_no_objects(tmp_path):
    annotations = small_set(tmp_path, 1)
    image = annotations_from_lists(
        1, "0.png", (40, 50), [[0.0, 0.0, 20.0, 20.0], [5.0, 5.0, 30.0, 30.0]], [0, 1], is_crowd=[True, False]
    )
    samples = TrainingSamples(
        AnnotationSet((image,), annotations.categories), tmp_path, AugmentationConfig(), PREPROCESSING, seed=0
    )
    batch = samples.make_batch([SampleRequest(0, 0, (64, 64), is_strong=False)])
    (target,) = batch_targets(batch)
    np.testing.assert_array_equal(target.class_ids, [1])
    crowd = batch.boxes[0].xyxy[batch.boxes[0].is_crowd]
    assert crowd.shape == (1, 4)
    np.testing.assert_array_equal(target.ignored_xyxy, crowd)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size_hw=(64, 64)),
        Preprocessing(size_hw=(64, 64), colour="rgb", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    ],
    ids=["yolox", "normalised"],
)
def test_a_plain_sample_becomes_the_input_of_the_run_time(tmp_path, preprocessing):
    """Reading, fitting, stacking and normalising in torch give what `preprocess` gives, but for the HSV rounding."""
    from handeye.vision.data.transforms import HsvConfig

    augmentation = AugmentationConfig(
        flip_probability=0, hsv=HsvConfig(hue=0, saturation=0, value=0), weak_last_epochs=100
    )
    samples = TrainingSamples(small_set(tmp_path), tmp_path, augmentation, preprocessing, seed=0)
    requests = plan_of(weak_last_epochs=4).requests(0)
    inputs = normalise_images(samples.make_batch(requests).images, preprocessing)
    for request, values in zip(requests, inputs, strict=True):
        expected, _ = preprocess(samples.read_sample(request.index).image_rgb, preprocessing)
        per_level = preprocessing.scale / min(preprocessing.std)
        assert np.abs(values.numpy() - expected).max() <= 5 * per_level + 1e-5


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_is_named_in_one_line(tmp_path, num_workers):
    samples = samples_of(tmp_path)
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:100])
    with pytest.raises(DatasetError) as caught:
        list(iterate_batches(samples, plan_of(), 0, num_workers))
    assert "4.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_images_are_counted_before_training(tmp_path):
    annotations = small_set(tmp_path)
    (tmp_path / "2.png").unlink()
    (tmp_path / "5.png").unlink()
    with pytest.raises(DatasetError, match=r"2 of 7 images are missing, the first is .*2\.png"):
        TrainingSamples(annotations, tmp_path, AugmentationConfig(), PREPROCESSING, seed=0)


def test_an_image_of_another_size_than_annotated_is_rejected(tmp_path):
    samples = samples_of(tmp_path)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((50, 40, 3), np.uint8))
    with pytest.raises(DatasetError, match="is 40 x 50 pixels, but its annotations were made for 50 x 40"):
        samples.read_sample(0)


BREAKING = """
from handeye.vision.data import batches

class Samples(batches.TrainingSamples):
    def __init__(self):
        self.num_threads = 1
    def __getitem__(self, requests):
        return 1 / {divisor}

plan = batches.BatchPlan(num_images=7, batch_size=3, epochs=400, seed=3, size_hw=(64, 64))
for _ in batches.iterate_batches(Samples(), plan, 0, 2):
    raise RuntimeError("while training")
"""


@pytest.mark.parametrize(("divisor", "told"), [(0, "ZeroDivisionError"), (1, "while training")])
def test_an_unforeseen_error_ends_the_program_and_its_workers(divisor, told):
    """The workers ignore SIGTERM, with which the interpreter would end them; it would wait for them for ever."""
    code = BREAKING.format(divisor=divisor)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 1
    assert told in result.stderr

"""Training batches that can start at any step: which samples a batch holds is a pure function of (seed, step).

Loader workers keep no state: a `SampleRequest` carries everything, so a resumed run, another number of workers or
another number of processes makes exactly the same images.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from handeye.vision.data.annotations import AnnotationSet, LabelledBoxes
from handeye.vision.data.augmentation import AugmentationConfig, SampleRequest, augment, epoch_order
from handeye.vision.data.image_files import RecentImages, read_stated_image
from handeye.vision.data.transforms import LabelledImage
from handeye.vision.errors import DatasetError, SourceError, UserError
from handeye.vision.images import Preprocessing

SIZE_MULTIPLE_PX = 32
"""Multi-scale sizes are multiples of the coarsest stride."""
MAX_THREADS = 4
"""More threads wait for each other in Python."""
RECENT_BYTES = 256 * 2**20
"""Memory of each worker for the images it decoded last: 280 of 640 x 480, more than a mosaic chooses from."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of one training step and their boxes, in pixels of these images.

    Boxes stay numpy arrays until the training process turns them into `BoxTargets`: a loader sends each tensor through
    shared memory of its own, and there are hundreds.
    """

    images: UInt8[Tensor, "B 3 H W"]
    """Channels in the order of the network input, values 0..255, channels last in memory."""
    boxes: list[LabelledBoxes]

    def __getitem__(self, chosen: slice) -> Batch:
        """The chosen images and their boxes."""
        return Batch(self.images[chosen], self.boxes[chosen])


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which samples each step of a run trains on; steps count from 0 through all epochs."""

    num_images: int
    batch_size: int
    """Samples of one step over all processes."""
    epochs: int
    seed: int
    size_hw: tuple[int, int]
    multi_scale: tuple[float, float] | None = None
    weak_last_epochs: int = 0
    max_steps: int | None = None
    process: int = 0
    num_processes: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Every image is seen at least once an epoch; the last batch is filled up from the epoch's first images."""
        return -(-self.num_images // self.batch_size)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        num_steps = self.epochs * self.steps_per_epoch
        return num_steps if self.max_steps is None else min(num_steps, self.max_steps)

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, the last one perhaps cut short by max_steps."""
        return -(-self.num_steps // self.steps_per_epoch)

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 0, that step number `step` belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, steps_done: int) -> bool:
        """Whether an epoch is over after this many steps; the end of the run ends its epoch."""
        return steps_done % self.steps_per_epoch == 0 or steps_done == self.num_steps

    def is_among_last(self, epoch: int, num_last: int) -> bool:
        """Whether this epoch, counted from 0, is one of the last `num_last` of the run."""
        return epoch >= self.num_epochs - num_last

    def is_strong(self, epoch: int) -> bool:
        """Whether strong augmentation is on in this epoch, counted from 0."""
        return not self.is_among_last(epoch, self.weak_last_epochs)

    def requests(self, step: int) -> list[SampleRequest]:
        """The samples of this step that this process makes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, self.num_images)
        first = position * self.batch_size
        indices = np.take(order, np.arange(first, first + self.batch_size), mode="wrap")
        size_hw, is_strong = self.size_of_step(step), self.is_strong(epoch)
        mine = indices[self.process :: self.num_processes].tolist()
        return [SampleRequest(epoch, index, size_hw, is_strong) for index in mine]

    def size_of_step(self, step: int) -> tuple[int, int]:
        """Height and width of this step's images: one sample for the batch, rounded to multiples of 32."""
        epoch, _ = divmod(step, self.steps_per_epoch)
        if self.multi_scale is None or not self.is_strong(epoch):
            return self.size_hw
        factor = np.random.default_rng([self.seed, step, 1]).uniform(*self.multi_scale)
        height, width = (max(1, round(side * factor / SIZE_MULTIPLE_PX)) * SIZE_MULTIPLE_PX for side in self.size_hw)
        return height, width


class TrainingSamples(Dataset):
    """Makes batches from an AnnotationSet and its folder of images; stateless but for the cache of decoded images.

    Raises DatasetError, naming the files, when images are missing.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        images: Path,
        augmentation: AugmentationConfig,
        preprocessing: Preprocessing,
        seed: int,
        *,
        cache_images: bool = False,
        num_threads: int | None = None,
    ) -> None:
        """`num_threads` make the samples of a batch side by side; by default as many as there are cores for them."""
        self.annotations = annotations.images
        self.paths = [Path(images) / image.file_name for image in annotations.images]
        check_files(self.paths)
        if augmentation.copy_paste is not None and not any(image.masks for image in self.annotations):
            raise DatasetError("augmentation.copy_paste needs annotations with masks; leave it out, or use a COCO file")
        self.augmentation, self.preprocessing, self.seed = augmentation, preprocessing, seed
        self.num_threads = threads_for(num_processes=1) if num_threads is None else num_threads
        self.read_pixels = RecentImages(self._decode, RECENT_BYTES)
        if cache_images:
            self.read_pixels = [self._decode(index) for index in range(len(self.paths))].__getitem__

    def __getitem__(self, requests: Sequence[SampleRequest]) -> Batch | UserError:
        """A whole batch. A UserError comes back as a value: raised in a worker, it would become a long traceback."""
        try:
            return self.make_batch(requests)
        except UserError as error:
            return error

    def make_batch(self, requests: Sequence[SampleRequest]) -> Batch:
        """Augment the samples of one step and stack them."""
        if self.num_threads == 1:
            samples = [self.make_sample(request) for request in requests]
        else:
            # Most of a sample's time is spent in OpenCV, which lets other threads run.
            with ThreadPoolExecutor(self.num_threads) as threads:
                samples = list(threads.map(self.make_sample, requests))
        return Batch(
            torch.from_numpy(_stack(samples, self.preprocessing)).permute(0, 3, 1, 2),
            [sample.boxes for sample in samples],
        )

    def make_sample(self, request: SampleRequest) -> LabelledImage:
        """One augmented image, RGB, of the size asked for."""
        return augment(
            request,
            self.read_sample,
            len(self.paths),
            self.augmentation,
            self.preprocessing,
            seed=self.seed,
            read_masks=lambda index: self.annotations[index].masks,
        )

    def read_sample(self, index: int) -> LabelledImage:
        """Image number `index` as it is, with its boxes."""
        return LabelledImage(self.read_pixels(index), self.annotations[index].boxes)

    def _decode(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        path, stated_hw = self.paths[index], self.annotations[index].size_hw
        try:
            return read_stated_image(path, stated_hw)
        except SourceError as error:
            raise DatasetError(str(error)) from error


def iterate_batches(samples: TrainingSamples, plan: BatchPlan, start_step: int, num_workers: int) -> Iterator[Batch]:
    """The batches of steps `start_step`, `start_step` + 1, ... to the end of the run, made ahead by the workers.

    One loader serves all epochs, so workers are started once and never wait at an epoch's end. Raises the UserError
    that a sample met.
    """
    loader = DataLoader(
        samples,
        batch_size=None,  # a request is a whole batch already
        sampler=_StepRequests(plan, start_step),
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker if num_workers else None,
        # The loader draws its workers' seeds from here; with torch's global generator resuming would not be exact.
        generator=torch.Generator(),
        prefetch_factor=4 if num_workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    workers = set(multiprocessing.active_children()) - before
    # An error that ends the program keeps this generator alive in its traceback; the workers, deaf to SIGTERM, would
    # then never end, and the program would wait for them for ever.
    end_workers = functools.partial(_kill, workers)
    atexit.register(end_workers)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        del batches
        if not any(worker.is_alive() for worker in workers):
            atexit.unregister(end_workers)


def _stack(samples: Sequence[LabelledImage], preprocessing: Preprocessing) -> UInt8[np.ndarray, "B H W 3"]:
    """The images in one array, channels in the order of the network input."""
    stacked = np.empty((len(samples), *samples[0].image_rgb.shape), dtype=np.uint8)
    for number, sample in enumerate(samples):
        if preprocessing.colour == "bgr":
            cv2.cvtColor(sample.image_rgb, cv2.COLOR_RGB2BGR, dst=stacked[number, :])
        else:
            stacked[number] = sample.image_rgb
    return stacked


def normalise_images(images: UInt8[Tensor, "B 3 H W"], preprocessing: Preprocessing) -> Float[Tensor, "B 3 H W"]:
    """Images of a Batch -> network input, on whatever device they are: (value * scale - mean) / std."""
    values = images.float()
    if preprocessing.scale == 1.0 and preprocessing.mean == (0.0, 0.0, 0.0) and preprocessing.std == (1.0, 1.0, 1.0):
        return values
    mean, std = (
        torch.tensor(numbers, device=images.device).view(1, 3, 1, 1)
        for numbers in (preprocessing.mean, preprocessing.std)
    )
    return (values * preprocessing.scale - mean) / std


def check_files(paths: Sequence[Path]) -> None:
    """Raise DatasetError when image files are missing, before hours of training reach the first of them."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DatasetError(
            f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]}; "
            "check the folder of images against the file names in the annotations"
        )


@dataclass(frozen=True, slots=True)
class _StepRequests:
    """The sampler of the loader: the requests of each step that is left."""

    plan: BatchPlan
    start_step: int

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        return (self.plan.requests(step) for step in range(self.start_step, self.plan.num_steps))

    def __len__(self) -> int:
        return self.plan.num_steps - self.start_step


def _unchanged(batch: Any) -> Any:
    """Replaces the loader's collation: batches come stacked."""
    return batch


def threads_for(num_processes: int) -> int:
    """Threads of each process that makes batches, so that the processes of this machine share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) * num_processes
    return min(max(1, cores // processes_here), MAX_THREADS)


def _kill(workers: Iterable[BaseProcess]) -> None:
    # torch's own handler would call their end a failure, after the error that really happened.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        if worker.is_alive():
            worker.kill()


def _start_worker(_: int) -> None:
    # A worker is one process among several: OpenCV's own threads would only fight with the others.
    cv2.setNumThreads(0)
    worker = get_worker_info()
    if worker is not None and isinstance(worker.dataset, TrainingSamples):
        worker.dataset.num_threads = threads_for(worker.num_workers)
    # Ctrl-C and SIGTERM often reach the whole process group. The training process decides what follows; it must not
    # lose its workers before it has saved its state. They end when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

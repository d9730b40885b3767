"""Render labelled data sets in COCO format with several processes; interrupted runs resume.

Image i depends on (seed, i) alone. Its labels are written to a small file after the image; an image is done when both
exist. At the end the labels are collected in annotations.json and their folder is removed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from handeye.robot.config import CameraConfig, WorkCellConfig
from handeye.robot.simulator.gl_renderer import find_gl_backend
from handeye.robot.simulator.objects import CLUTTER_CLASS, CUBE_CLASSES, Profile
from handeye.robot.simulator.renderers import RendererKind
from handeye.robot.simulator.samples import LabelledSample, SampleRenderer
from handeye.vision.errors import DatasetError
from handeye.vision.files import write_json

JPEG_QUALITY = 95
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class DatasetSettings:
    """What determines the content of a data set."""

    images: int
    seed: int
    profile: Profile = Profile.TRAIN
    renderer: RendererKind = RendererKind.AUTO
    label_clutter: bool = False
    """Label distractors too, as one more class."""

    @property
    def categories(self) -> list[dict[str, object]]:
        """Class names of the data set; category ids count from 1."""
        names = (*CUBE_CLASSES, CLUTTER_CLASS) if self.label_clutter else CUBE_CLASSES
        return [{"id": number, "name": name} for number, name in enumerate(names, start=1)]

    def described(self) -> dict[str, object]:
        """The `info` entry of the annotations."""
        return {
            "description": "cubes on a table, rendered by handeye's simulator",
            "images": self.images,
            "seed": self.seed,
            "profile": self.profile.value,
            "renderer": self.renderer.value,
            "label_clutter": self.label_clutter,
        }


def render_dataset(
    output: Path, settings: DatasetSettings, *, workers: int, on_image: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Render what is missing below `output` and return the COCO annotations, which are also written there.

    `on_image` is called once for each image, existing ones included. Raises DatasetError when `output` holds a data set
    with other settings.
    """
    finished = output / "annotations.json"
    if finished.exists():
        return _reopen(finished, settings, on_image)
    _claim(output, settings)
    missing = [index for index in range(settings.images) if not _label_path(output, index).exists()]
    for _ in range(settings.images - len(missing)):
        on_image()
    for _ in _render_all(output, settings, missing, workers):
        on_image()
    annotations = _collect(output, settings, WorkCellConfig().camera)
    write_json(finished, annotations)
    shutil.rmtree(_label_path(output, 0).parent)
    return annotations


def _render_all(output: Path, settings: DatasetSettings, indices: list[int], workers: int) -> Iterator[int]:
    """Render these images in this process (one worker) or in several, yielding as they come."""
    if not indices:
        return
    if settings.renderer is not RendererKind.RAYS:
        find_gl_backend()  # found once here, inherited by the workers
    if workers <= 1:
        _start_worker(settings)
        yield from map(partial(_render_one, output, settings), indices)
        return
    # Spawned, not forked: a GL context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start_worker, (settings,)) as pool:
        yield from pool.imap_unordered(partial(_render_one, output, settings), indices, chunksize=_CHUNK)


# Of this process: a worker keeps its renderers between images.
_sample_renderer: SampleRenderer | None = None


def _start_worker(settings: DatasetSettings) -> None:
    global _sample_renderer
    if _sample_renderer is not None:
        _sample_renderer.close()
    cv2.setNumThreads(1)
    _sample_renderer = SampleRenderer(
        WorkCellConfig(), settings.profile, settings.renderer, label_clutter=settings.label_clutter
    )


def _render_one(output: Path, settings: DatasetSettings, index: int) -> int:
    assert _sample_renderer is not None
    sample = _sample_renderer.render(settings.seed, index)
    done, coded = cv2.imencode(".jpg", sample.image_rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done
    _write(output / "images" / _image_name(index), coded.tobytes())
    _write(_label_path(output, index), json.dumps(_described(sample)).encode())
    return index


def _described(sample: LabelledSample) -> dict[str, object]:
    return {
        "view": sample.view.value,
        "objects": [
            {
                "category_id": label.class_id + 1,
                "bbox": list(label.box_xywh),
                "area": label.visible_px,
                "iscrowd": int(label.is_ignored),
                "visible_fraction": round(label.visible_fraction, 4),
            }
            for label in sample.labels
        ],
    }


def _collect(output: Path, settings: DatasetSettings, camera: CameraConfig) -> dict[str, Any]:
    """The COCO file: image ids count from 1 in the order of the images, and so do annotation ids."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(settings.images):
        content = json.loads(_label_path(output, index).read_text(encoding="utf-8"))
        size = {"width": camera.width_px, "height": camera.height_px}
        images.append({"id": index + 1, "file_name": _image_name(index), **size, "view": content["view"]})
        for item in content["objects"]:
            identity = {"id": len(annotations) + 1, "image_id": index + 1}
            annotations.append({**identity, **item, "segmentation": []})
    return {
        "info": settings.described(),
        "images": images,
        "annotations": annotations,
        "categories": settings.categories,
    }


def _reopen(finished: Path, settings: DatasetSettings, on_image: Callable[[], None]) -> dict[str, Any]:
    annotations = json.loads(finished.read_text(encoding="utf-8"))
    _require_same(annotations.get("info"), settings, finished.parent)
    for _ in range(settings.images):
        on_image()
    return annotations


def _claim(output: Path, settings: DatasetSettings) -> None:
    """Store the settings of an unfinished data set, so that it is not finished with others."""
    note = output / ".labels" / "settings.json"
    (output / "images").mkdir(parents=True, exist_ok=True)
    if note.exists():
        _require_same(json.loads(note.read_text(encoding="utf-8")), settings, output)
    else:
        write_json(note, settings.described())


def _require_same(found: object, settings: DatasetSettings, output: Path) -> None:
    if found != settings.described():
        raise DatasetError(
            f"{output} holds a data set with other settings ({found}); choose another folder or remove it"
        )


def _write(path: Path, content: bytes) -> None:
    """Write atomically but without fsync: a lost image is rendered again."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)


def _image_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _label_path(output: Path, index: int) -> Path:
    return output / ".labels" / f"{index:06d}.json"

"""A data set in another format: a new folder with the annotations and the images, linked or copied, whole or absent."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

from typing_extensions import assert_never

from vision.data.annotations import AnnotationSet
from vision.data.coco import write_coco
from vision.data.entries import Omissions
from vision.data.formats import ANNOTATIONS_NAME, Format
from vision.data.voc import write_voc
from vision.data.yolo_txt import write_yolo
from vision.errors import DatasetError

ImagePlacement = Literal["link", "copy"]
IMAGES_NAME: dict[Format, str] = {"coco": "images", "voc": "JPEGImages", "yolo": "images"}


def convert(
    annotations: AnnotationSet, images: Path, target: Format, output: Path, placement: ImagePlacement
) -> Omissions:
    """Write `annotations` in the format `target` to the new folder `output`; returns what that format cannot say.

    Everything is written beside and renamed. Raises DatasetError when `output` exists, an image is missing, or two
    images would share one annotation file.
    """
    output = Path(os.path.abspath(output))  # noqa: PTH100 - resolve() follows links and fails on loops of them
    if os.path.lexists(output):
        raise DatasetError(f"{output}: exists already; name a new folder")
    _refuse_shared_names(annotations, target)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        for image in annotations.images:
            _place(images / image.file_name, beside / IMAGES_NAME[target] / image.file_name, placement)
        omissions = _write(beside, annotations, target)
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return omissions


def _write(folder: Path, annotations: AnnotationSet, target: Format) -> Omissions:
    match target:
        case "coco":
            write_coco(folder / ANNOTATIONS_NAME, annotations)
        case "voc":
            write_voc(folder, annotations)
        case "yolo":
            return write_yolo(folder, annotations)
        case _:
            assert_never(target)
    return Omissions()


def _place(source: Path, target: Path, placement: ImagePlacement) -> None:
    if not source.is_file():
        raise DatasetError(f"{source}: is missing; check the folder of images, or leave out what is broken")
    target.parent.mkdir(parents=True, exist_ok=True)
    if placement == "link":
        target.symlink_to(os.path.realpath(source))
    else:
        shutil.copyfile(source, target)


def _refuse_shared_names(annotations: AnnotationSet, target: Format) -> None:
    """a.jpg and a.png would both have their boxes in a.xml or a.txt."""
    if target == "coco":
        return
    counted = Counter(Path(image.file_name).with_suffix("") for image in annotations.images)
    if shared := [name for name, count in counted.items() if count > 1]:
        raise DatasetError(f"{shared[0]}: {counted[shared[0]]} images differ in their suffix only; {target} needs more")

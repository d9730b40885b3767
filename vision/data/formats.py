"""Read annotations in any format (COCO JSON, Pascal VOC, YOLO text), detect which, and convert between them.

A converted data set is a new folder with the annotations and the images, linked or copied, whole or absent.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

from typing_extensions import assert_never

from handeye.vision.data.annotations import AnnotationSet, Omissions
from handeye.vision.data.coco import read_coco, write_coco
from handeye.vision.data.voc import read_voc, voc_root, write_voc
from handeye.vision.data.yolo_layout import description_in, find_set, stated_splits, swapped
from handeye.vision.data.yolo_txt import read_yolo, write_yolo
from handeye.vision.errors import DatasetError
from handeye.vision.files import read_text
from handeye.vision.images import has_image_suffix, list_images

Format = Literal["coco", "voc", "yolo"]
ImagePlacement = Literal["link", "copy"]
ANNOTATIONS_NAME = "annotations.json"
IMAGES_NAME: dict[Format, str] = {"coco": "images", "voc": "JPEGImages", "yolo": "images"}
EXPECTED = "a COCO .json, a VOC folder or image list, or a YOLO data.yaml or folder of images and labels"


def read_annotations(
    path: Path,
    images: Path | None = None,
    *,
    split: str = "train",
    keep_masks: bool = False,
    skip_broken: bool = False,
) -> AnnotationSet:
    """Read annotations of whatever format; file names are relative to `images`.

    A COCO file is a .json; VOC is a folder with Annotations/ or XML files, or an image list below one; YOLO is a
    data.yaml or Darknet's obj.data, of which `split` is read, a folder with images and labels, or a list of image
    paths. `keep_masks` keeps masks where the format has them. Raises DatasetError, or with `skip_broken` lists what
    is broken in `left_out`.
    """
    path = Path(path)
    kind = format_of(path)
    match kind:
        case "coco":
            file = path / ANNOTATIONS_NAME if path.is_dir() else path
            return read_coco(file, images or images_folder(path), keep_masks=keep_masks, skip_broken=skip_broken)
        case "voc":
            return read_voc(path, images, skip_broken=skip_broken)
        case "yolo":
            return read_yolo(path, images, split=split, keep_masks=keep_masks, skip_broken=skip_broken)
        case _:
            assert_never(kind)


def format_of(path: Path) -> Format:
    """The format of a file or folder of annotations; DatasetError where nothing known is found."""
    if path.is_dir():
        return _format_of_folder(path)
    if not path.exists():
        raise DatasetError(f"{path}: cannot be read: there is no such file or folder")
    match path.suffix.lower():
        case ".json":
            return "coco"
        case ".yaml" | ".yml" | ".data":
            return "yolo"
        case ".txt":
            return "yolo" if voc_root(path) is None or _lists_files(path) else "voc"
        case suffix:
            raise DatasetError(f"{path}: {suffix or 'no suffix'}: expected {EXPECTED}")


def is_annotated(folder: Path) -> bool:
    """Whether a folder is that of a whole set, with annotations in it; one of images alone is not, whatever is near."""
    return description_in(folder) is not None or any(
        (folder / name).exists() for name in ("Annotations", "labels", ANNOTATIONS_NAME)
    )


def find_images(path: Path, given: Path | None = None, split: str = "train") -> Path:
    """The folder of the images: the one given, else `images_folder`. Raises DatasetError where there is none."""
    found = images_folder(path, split) if given is None else Path(given)
    if found is None:
        raise DatasetError(f"{path}: name the folder of its images with --images (data.images)")
    if not found.is_dir():
        raise DatasetError(f"{found}: is not a folder of images")
    return found


def images_folder(path: Path, split: str = "train") -> Path | None:
    """The folder of images where YOLO's layout (of a data.yaml, its `split`) or a usual one says; else None."""
    path = Path(path)
    return find_set(path, None, split).folder if format_of(path) == "yolo" else _usual_folder(path)


def other_splits(path: Path, other: Path, split: str) -> tuple[str, ...]:
    """Which splits of `other` to compare with `split` of `path`: where both are one data.yaml all others, else `split`.

    Raises DatasetError where the data.yaml has no other split.
    """
    description = description_in(Path(other))
    mine = description_in(Path(path))
    if description is None or mine is None or not description.samefile(mine):
        return (split,)
    others = tuple(name for name in stated_splits(description) if name != split)
    if not others:
        raise DatasetError(f"{other}: has no split other than {split!r} to compare with")
    return others


def convert(
    annotations: AnnotationSet, images: Path, target: Format, output: Path, placement: ImagePlacement
) -> Omissions:
    """Write `annotations` in the format `target` to the new folder `output`; returns what that format cannot hold.

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


def _format_of_folder(folder: Path) -> Format:
    if description_in(folder) or _holds(folder / "labels", ".txt"):
        return "yolo"
    if (folder / "Annotations").is_dir() or any(not file.name.startswith(".") for file in folder.glob("*.xml")):
        return "voc"
    if (folder / ANNOTATIONS_NAME).is_file():
        return "coco"
    # Last, because a set of any format may lie below folders of these names.
    here = folder.absolute()
    counterparts = {swapped(here, "images", "labels"), swapped(here, "labels", "images")} - {here}
    if (folder / "labels").is_dir() or _holds(folder, ".txt") or any(other.is_dir() for other in counterparts):
        return "yolo"
    raise DatasetError(f"{folder}: no annotations found; expected {EXPECTED}")


def _holds(folder: Path, suffix: str) -> bool:
    """Whether a folder or one below it has a file of that suffix."""
    return any(name.endswith(suffix) and not name.startswith(".") for _, _, names in os.walk(folder) for name in names)


def _usual_folder(path: Path) -> Path | None:
    root = path if path.is_dir() else voc_root(path) or path.parent
    folders = [folder for name in ("JPEGImages", "images") if (folder := root / name).is_dir()]
    return folders[0] if folders else root if list_images(root) else None


def _lists_files(path: Path) -> bool:
    """Whether the lines of a list are image files, rather than the bare names of VOC."""
    return has_image_suffix(Path(read_text(path).partition("\n")[0].strip()))


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

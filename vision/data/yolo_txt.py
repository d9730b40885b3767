"""Read and write YOLO text labels: labels/NAME.txt beside images/NAME.jpg, a line "class cx cy w h" for each box.

Numbers are fractions of the image's width and height. A line may hold a polygon instead (class x1 y1 x2 y2 ...), of
which the box is taken. data.yaml names the classes and the folders of each split.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from handeye.vision.data.annotations import (
    AnnotationSet,
    Categories,
    Entry,
    ImageAnnotations,
    Omissions,
    build_image,
    safe_name,
)
from handeye.vision.data.image_files import read_size
from handeye.vision.data.masks import Mask
from handeye.vision.data.voc import CLASSES_NAME, read_classes
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.images import IMAGE_SUFFIXES, list_images

DATA_NAME = "data.yaml"
CROWD = "a crowd, which YOLO text cannot hold"
NO_IMAGE = "a label file without an image"
SLACK = 0.1
"""A fraction this far outside 0..1 is a box over the edge; further out the numbers are no fractions."""


def read_yolo(
    path: Path, images: Path | None = None, *, split: str = "train", keep_masks: bool = False, skip_broken: bool = False
) -> AnnotationSet:
    """Read a data.yaml (its split), a folder with images and labels, a folder of either, or a list of image paths.

    Classes come from data.yaml or classes.txt. File names are relative to `images`, by default the folder that the
    images have in common; image ids count from 1. An image without a label file is one without objects. Raises
    DatasetError naming the file and line at fault, unless broken ones are to be skipped.
    """
    source = _find(_absolute(path), None if images is None else _absolute(images), split)
    if not source.images:
        raise DatasetError(f"{path}: no images in {source.folder}")
    omissions = Omissions(skip_broken)
    built: list[ImageAnnotations] = []
    for file in source.images:
        try:
            built.append(_build(file, source, len(built) + 1, omissions, keep_masks=keep_masks))
        except DatasetError as error:
            omissions.broken(error)
    for label in _labels_without_image(source):
        omissions.drop(NO_IMAGE, str(label))
    if not built:
        raise omissions.nothing_left(f"{path}: none of its {len(source.images)} images can be read")
    return AnnotationSet(tuple(built), source.categories, tuple(omissions.left_out))


def write_yolo(folder: Path, annotations: AnnotationSet) -> Omissions:
    """Write data.yaml and labels/ into a folder whose images are in images/; returns what could not be written.

    Boxes are cut at the image's edges, because a fraction beyond 0..1 is an error to other readers.
    """
    omissions = Omissions()
    for image in annotations.images:
        target = folder / "labels" / Path(image.file_name).with_suffix(".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(_lines(image, omissions)), encoding="utf-8")
    content = {"train": "images", "val": "images", "names": dict(enumerate(annotations.categories.names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / DATA_NAME).write_text(text, encoding="utf-8")
    return omissions


def label_path(image: Path) -> Path:
    """Where the labels of an image lie: the last folder called images becomes labels, the suffix .txt."""
    parts = list(image.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


@dataclass(frozen=True, slots=True)
class _Source:
    """The images of a set, the folder to which their names are relative, and the classes."""

    images: Sequence[Path]
    folder: Path
    categories: Categories


def _find(path: Path, images: Path | None, split: str) -> _Source:
    if path.is_dir() and (path / DATA_NAME).is_file():
        path = path / DATA_NAME
    if path.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(path, images, split)
    if path.is_dir():
        folder = images or _images_beside(path)
        files = list_images(folder, recursive=True)
    else:
        files = _listed(path)
        folder = images or _common_folder(files, path.parent)
    return _Source(_below(files, folder), folder, _named_categories(path, label_path(folder / "x")))


def _from_yaml(path: Path, images: Path | None, split: str) -> _Source:
    content = _read_yaml(path)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected keys such as {split} and names")
    if not content.get(split):
        raise DatasetError(f"{path}: names no folder for the split {split!r}")
    places = content[split] if isinstance(content[split], list) else [content[split]]
    found = [_place(path, content.get("path"), place) for place in places]
    files = [file for place in found for file in _files_of(place)]
    folder = images or (found[0] if len(found) == 1 and found[0].is_dir() else _common_folder(files, path.parent))
    return _Source(_below(files, folder), folder, _categories(path, content.get("names")))


def _files_of(place: Path) -> list[Path]:
    return list_images(place, recursive=True) if place.is_dir() else _listed(place)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def _place(path: Path, root: object, place: object) -> Path:
    """A split's folder or list. "../train" is tried as "train" too: one exporter writes one folder too many."""
    base = path.parent / str(root) if root else path.parent
    for candidate in (base / str(place), path.parent / str(place), path.parent / str(place).removeprefix("../")):
        if candidate.exists():
            return _absolute(candidate)
    raise DatasetError(f"{path}: there is no {base / str(place)}")


def _images_beside(folder: Path) -> Path:
    """The folder of images that belongs to a folder of a set, of its images or of its labels."""
    if (folder / "images").is_dir():
        return folder / "images"
    parts = list(folder.parts)
    if "labels" in parts:
        position = len(parts) - 1 - parts[::-1].index("labels")
        swapped = Path(*parts[:position], "images", *parts[position + 1 :])
        return swapped if swapped.is_dir() else folder
    return folder


def _listed(path: Path) -> list[Path]:
    """Image paths of a text file, relative to its folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a list of images: {error}") from error
    return [_absolute(path.parent / line.strip()) for line in lines if line.strip()]


def _absolute(path: Path) -> Path:
    """Without dots, so that paths can be compared; links stay, because loops of them have no end."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _below(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files, each once; DatasetError where one is not below the folder to which names are to be relative."""
    unique = list(dict.fromkeys(files))
    if outside := [file for file in unique if not file.is_relative_to(folder)]:
        raise DatasetError(f"{outside[0]}: is not below the folder of images {folder}")
    return unique


def _common_folder(files: Sequence[Path], default: Path) -> Path:
    folders = {file.parent for file in files}
    return folders.pop() if len(folders) == 1 else default


def _named_categories(path: Path, label: Path) -> Categories:
    """Names from data.yaml or classes.txt in the folder of the set, of its labels, or above."""
    places = list(dict.fromkeys([path if path.is_dir() else path.parent, label.parent, *label.parents[1:3]]))
    for place in places:
        if (place / CLASSES_NAME).is_file():
            return _categories(place / CLASSES_NAME, list(read_classes(place / CLASSES_NAME)))
        if (place / DATA_NAME).is_file():
            content = _read_yaml(place / DATA_NAME)
            return _categories(place / DATA_NAME, content.get("names") if isinstance(content, dict) else None)
    raise DatasetError(f"{path}: the names of the classes are missing; put a {DATA_NAME} or {CLASSES_NAME} beside it")


def _categories(path: Path, names: Any) -> Categories:
    if isinstance(names, list):
        names = dict(enumerate(names))
    whole = isinstance(names, dict) and names and all(isinstance(key, int) for key in names)
    if not whole or sorted(names) != list(range(len(names))):
        raise DatasetError(f"{path}: names must be a list, or a table with the keys 0, 1, 2, ... without a gap")
    return Categories.from_names({key: str(name) for key, name in names.items()})


def _build(file: Path, source: _Source, image_id: int, omissions: Omissions, *, keep_masks: bool) -> ImageAnnotations:
    name = safe_name(str(source.folder), file.relative_to(source.folder).as_posix())
    try:
        size_hw = read_size(file)
    except SourceError as error:
        raise DatasetError(str(error)) from error
    entries = _read_labels(label_path(file), size_hw, len(source.categories), omissions)
    return build_image(image_id, name, size_hw, entries, omissions, keep_masks=keep_masks)


def _read_labels(path: Path, size_hw: tuple[int, int], num_classes: int, omissions: Omissions) -> list[Entry]:
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                entries.append(_entry(f"{path}: line {number}", f"line {number}", line, size_hw, num_classes))
        except DatasetError as error:
            omissions.broken(error)
    return entries


def _entry(where: str, position: str, line: str, size_hw: tuple[int, int], num_classes: int) -> Entry:
    try:
        class_number, *numbers = (float(word) for word in line.split())
    except ValueError as error:
        raise DatasetError(f"{where}: expected numbers: {error}") from error
    if not math.isfinite(class_number) or class_number % 1 or not 0 <= class_number < num_classes:
        raise DatasetError(f"{where}: the class must be 0 to {num_classes - 1}, got {class_number:g}")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DatasetError(f"{where}: expected class cx cy w h, or a polygon's corners, got {len(numbers) + 1} numbers")
    if any(number < -SLACK or number > 1 + SLACK for number in numbers):
        raise DatasetError(f"{where}: expected fractions of the image's width and height, got {max(numbers):g}")
    height, width = size_hw
    if len(numbers) > 4:
        corners = np.array(numbers, dtype=np.float64).reshape(-1, 2) * (width, height)
        x1, y1, x2, y2 = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        mask = Mask(polygons=(corners.astype(np.float32),))
        return Entry(position, (x1, y1, x2, y2), int(class_number), mask=mask)
    x, y, box_width, box_height = (number * side for number, side in zip(numbers, (width, height) * 2, strict=True))
    box = (x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2)
    return Entry(position, box, int(class_number))


def _labels_without_image(source: _Source) -> list[Path]:
    """Label files in the set's label folders that belong to no image."""
    expected = {label_path(file) for file in source.images}
    folders = {label.parent for label in expected}
    found = (file for folder in folders if folder.is_dir() for file in folder.glob("*.txt"))
    others = {CLASSES_NAME, "labels.txt"}
    return sorted(file for file in found if file not in expected and file.name not in others and not _has_image(file))


def _has_image(label: Path) -> bool:
    """Whether an image of another split, in the same folder, has this label."""
    parts = ["images" if part == "labels" else part for part in label.parts]
    return any(Path(*parts).with_suffix(suffix).is_file() for suffix in IMAGE_SUFFIXES)


def _lines(image: ImageAnnotations, omissions: Omissions) -> Iterable[str]:
    height, width = image.size_hw
    edge = np.array([width, height, width, height], dtype=np.float64)
    for position, box in enumerate(image.boxes.xyxy.astype(np.float64)):
        if image.boxes.is_crowd[position]:
            omissions.drop(CROWD, f"{image.file_name}: box {position}")
            continue
        x1, y1, x2, y2 = np.clip(box / edge, 0, 1).tolist()
        numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        yield f"{int(image.boxes.class_ids[position])} {' '.join(f'{number:.8f}' for number in numbers)}\n"

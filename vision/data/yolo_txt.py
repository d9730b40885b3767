"""Read and write YOLO text labels: labels/NAME.txt beside images/NAME.jpg, a line "class cx cy w h" for each box.

Numbers are fractions of the image's width and height. A line may hold a polygon instead (class x1 y1 x2 y2 ...), of
which the box is taken, or with kpt_shape in data.yaml a box and keypoints. `yolo_layout` finds the files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from handeye.vision.data.annotations import (
    AnnotationSet,
    Entry,
    ImageAnnotations,
    Omissions,
    build_image,
    safe_name,
)
from handeye.vision.data.image_files import read_size
from handeye.vision.data.masks import Mask
from handeye.vision.data.yolo_layout import DATA_NAME, YoloSource, find_set, label_of, labels_without_image
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.files import read_text

CROWD = "a crowd, which YOLO text cannot hold"
NO_IMAGE = "a label file without an image"
POSE_HINT = f"; for keypoints state kpt_shape in {DATA_NAME}"
SLACK = 0.1
"""A fraction this far outside 0..1 is a box over the edge; further out the numbers are no fractions."""
POSES, MARGIN = 0.9, 0.25
"""Share of the lines that look like keypoints in a set of them; keypoints lie this share of half a side outside."""
PARALLEL = 0.005
"""Of an oriented box the diagonals' centres are this near to each other, as a fraction of the image."""


def read_yolo(
    path: Path, images: Path | None = None, *, split: str = "train", keep_masks: bool = False, skip_broken: bool = False
) -> AnnotationSet:
    """Read a data.yaml (its split), a folder with images and labels, a folder of either, or a list of image paths.

    Classes come from data.yaml, classes.txt or Darknet's obj.names. File names are relative to `images`, by default
    the folder that the images have in common; image ids count from 1. An image without a label file is one without
    objects. Raises DatasetError naming the file and line at fault, unless broken ones are to be skipped, and for
    keypoints that no kpt_shape announces.
    """
    source = find_set(path, images, split)
    if not source.images:
        raise DatasetError(f"{path}: no images in {source.folder}")
    lines = _Lines(path, len(source.categories), source.kpt_shape)
    omissions = Omissions(skip_broken)
    labels = {file: label_of(file, source) for file in source.images}
    built: list[ImageAnnotations] = []
    for file, label in labels.items():
        try:
            built.append(_build(file, label, source, len(built) + 1, lines, omissions, keep_masks=keep_masks))
        except DatasetError as error:
            omissions.broken(error)
    lines.refuse_poses()
    for orphan in labels_without_image(labels.values()):
        omissions.drop(NO_IMAGE, str(orphan))
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


@dataclass(frozen=True, slots=True)
class _Lines:
    """How the lines of a set are read, and what was seen of those that hold more than a box."""

    where: Path
    num_classes: int
    kpt_shape: tuple[int, int] | None
    lengths: Counter[int] = field(default_factory=Counter)
    """How many lines have that many numbers, the class included."""
    like_poses: Counter[int] = field(default_factory=Counter)
    """How many of them may be boxes with keypoints."""

    def refuse_poses(self) -> None:
        """DatasetError where lines that were read as polygons look like keypoints: one length, points in the box."""
        if self.kpt_shape is not None or len(self.lengths) != 1:
            return
        ((length, count),) = self.lengths.items()
        if self.like_poses[length] >= POSES * count:
            dims = 2 + (length - 5) % 2
            raise DatasetError(
                f"{self.where}: its lines of {length} numbers look like boxes with keypoints; state kpt_shape in "
                f"{DATA_NAME}, such as [{(length - 5) // dims}, {dims}], or [0, 0] if they are polygons"
            )


def _build(
    file: Path, label: Path, source: YoloSource, image_id: int, lines: _Lines, omissions: Omissions, *, keep_masks: bool
) -> ImageAnnotations:
    name = safe_name(str(source.folder), file.relative_to(source.folder).as_posix())
    try:
        size_hw = read_size(file)
    except SourceError as error:
        raise DatasetError(str(error)) from error
    entries = _read_labels(label, size_hw, lines, omissions)
    return build_image(image_id, name, size_hw, entries, omissions, keep_masks=keep_masks)


def _read_labels(path: Path, size_hw: tuple[int, int], lines: _Lines, omissions: Omissions) -> list[Entry]:
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            if line.strip():
                entries.append(_entry(f"{path}: line {number}", f"line {number}", line, size_hw, lines))
        except DatasetError as error:
            omissions.broken(error)
    return entries


def _entry(where: str, position: str, line: str, size_hw: tuple[int, int], lines: _Lines) -> Entry:
    try:
        class_number, *numbers = (float(word) for word in line.split())
    except ValueError as error:
        raise DatasetError(f"{where}: expected numbers: {error}") from error
    if not math.isfinite(class_number) or class_number % 1 or not 0 <= class_number < lines.num_classes:
        raise DatasetError(f"{where}: the class must be 0 to {lines.num_classes - 1}, got {class_number:g}")
    numbers = _box_or_polygon(where, numbers, lines)
    if any(number < -SLACK or number > 1 + SLACK for number in numbers):
        hint = POSE_HINT if len(numbers) > 4 else ""
        raise DatasetError(f"{where}: expected fractions of the image's width and height, got {max(numbers):g}{hint}")
    height, width = size_hw
    if len(numbers) > 4:
        corners = np.array(numbers, dtype=np.float64).reshape(-1, 2) * (width, height)
        x1, y1, x2, y2 = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        mask = Mask(polygons=(corners.astype(np.float32),))
        return Entry(position, (x1, y1, x2, y2), int(class_number), mask=mask)
    x, y, box_width, box_height = (number * side for number, side in zip(numbers, (width, height) * 2, strict=True))
    box = (x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2)
    return Entry(position, box, int(class_number))


def _box_or_polygon(where: str, numbers: list[float], lines: _Lines) -> list[float]:
    """The four numbers of a box, without its keypoints where kpt_shape announces them, or those of a polygon."""
    count, dims = lines.kpt_shape or (0, 0)
    if len(numbers) == 4 + count * dims or len(numbers) == 4:
        return numbers[:4]
    if count:
        expected = f"class cx cy w h and {count} keypoints of {dims} numbers (kpt_shape)"
        raise DatasetError(f"{where}: expected {expected}, got {len(numbers) + 1} numbers")
    if len(numbers) < 6:
        raise DatasetError(f"{where}: expected class cx cy w h, or a polygon's corners, got {len(numbers) + 1} numbers")
    lines.lengths[len(numbers) + 1] += 1
    lines.like_poses[len(numbers) + 1] += _may_be_pose(numbers)
    if len(numbers) % 2:
        expected = "class cx cy w h, or a polygon's corners"
        raise DatasetError(f"{where}: expected {expected}, got {len(numbers) + 1} numbers{POSE_HINT}")
    return numbers


def _may_be_pose(numbers: Sequence[float]) -> bool:
    """Whether the numbers may be a box within the image and keypoints in it: 0 0 is one that is not seen."""
    values = np.array(numbers)
    corners = values.reshape(-1, 2) if len(values) == 8 else None
    if corners is not None and np.abs(corners[0] - corners[1] + corners[2] - corners[3]).max() < PARALLEL:
        return False  # an oriented box
    centre, half = values[:2], values[2:4] / 2
    if (centre - half < -SLACK).any() or (centre + half > 1 + SLACK).any():
        return False
    for dims in (2, 3):
        if (len(values) - 4) % dims:
            continue
        points = values[4:].reshape(-1, dims)
        is_inside = (np.abs(points[:, :2] - centre) <= half * (1 + MARGIN)).all(axis=1)
        is_visibility = np.isin(points[:, 2:], (0, 1, 2)).all()
        if is_visibility and (is_inside | (points[:, :2] == 0).all(axis=1)).all():
            return True
    return False


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

"""Annotations of a data set: labelled boxes, images, classes; checked once here, so that later code need not doubt.

Class ids are contiguous from 0 in the order of the file's sorted category ids; category ids live only here and in
the readers and writers of this folder. `build_image` is what the readers of all formats share: structure that cannot
be trusted raises DatasetError, or is skipped and reported where that was asked for; boxes that are no boxes (zero
area, not finite) are always left out and reported, because real data sets hold a few of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from unicodedata import category

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from handeye.vision.data.masks import Mask
from handeye.vision.errors import DatasetError

ZERO_AREA = "width or height not positive"
NOT_FINITE = "not finite"
OUTSIDE = "wholly outside the image"
TOO_FAR = "edge farther off than any image is wide"
BROKEN = "broken"
FARTHEST_PX = 2**24
"""Beyond it single precision no longer tells neighbouring pixels apart."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledBoxes:
    """The labelled boxes of one image, from the annotation file through augmentation to the batch: three columns.

    xyxy is in pixels of whatever image holds the boxes. `BoxTargets` is what a loss makes of them, as tensors.
    """

    xyxy: Float32[np.ndarray, "N 4"]
    class_ids: Int64[np.ndarray, " N"]
    is_crowd: Bool[np.ndarray, " N"]
    """True for a box around a group: neither learnt nor background, nor counted as a missed object."""

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, chosen: Bool[np.ndarray, " N"] | Int64[np.ndarray, " M"] | slice) -> LabelledBoxes:
        """The chosen boxes: a mask, indices or a slice."""
        return LabelledBoxes(self.xyxy[chosen], self.class_ids[chosen], self.is_crowd[chosen])

    def moved(self, xyxy: Float32[np.ndarray, "N 4"]) -> LabelledBoxes:
        """The same objects at other places."""
        return LabelledBoxes(xyxy, self.class_ids, self.is_crowd)

    @classmethod
    def concatenate(cls, parts: Sequence[LabelledBoxes]) -> LabelledBoxes:
        """The boxes of all parts, one part after the other."""
        return cls(
            np.concatenate([part.xyxy for part in parts]),
            np.concatenate([part.class_ids for part in parts]),
            np.concatenate([part.is_crowd for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """The labelled objects of one image; raises DatasetError for anything that no box can be."""

    image_id: int
    file_name: str
    """Relative to the folder of the images, with forward slashes."""
    size_hw: tuple[int, int]
    """Height and width in pixels, as the annotation file states them."""
    boxes: LabelledBoxes
    """Pixels of the original image; x1 < x2 and y1 < y2. A box may reach over the image's edge."""
    areas: Float64[np.ndarray, " N"]
    """Square pixels as the file states them (of the mask, where the file has masks); COCO metrics sort sizes by it."""
    masks: tuple[Mask | None, ...] = ()
    """The outline of each object; empty where the reader was not asked to keep them."""
    stated_xywh: Float64[np.ndarray, "N 4"] | None = None
    """Corner, width and height as the file states them: the published AP depends on their last bits."""

    def __post_init__(self) -> None:
        name, boxes, num_boxes = self.file_name, self.boxes, len(self.boxes)
        if min(self.size_hw) <= 0:
            raise DatasetError(f"{name}: an image of {self.size_hw[0]} x {self.size_hw[1]} pixels (height x width)")
        if boxes.xyxy.shape != (num_boxes, 4):
            raise DatasetError(f"{name}: boxes of shape {boxes.xyxy.shape}, expected ({num_boxes}, 4)")
        if not len(boxes.class_ids) == len(boxes.is_crowd) == len(self.areas) == num_boxes:
            raise DatasetError(
                f"{name}: {num_boxes} boxes, {len(boxes.class_ids)} classes, {len(boxes.is_crowd)} flags"
            )
        if self.stated_xywh is not None and self.stated_xywh.shape != (num_boxes, 4):
            raise DatasetError(f"{name}: {num_boxes} boxes, but {len(self.stated_xywh)} as the file states them")
        if len(self.masks) not in (0, num_boxes):
            raise DatasetError(f"{name}: {num_boxes} boxes, but {len(self.masks)} masks")
        if not np.isfinite(boxes.xyxy).all():
            raise DatasetError(f"{name}: a box that is not finite")
        if not (boxes.xyxy[:, :2] < boxes.xyxy[:, 2:]).all():
            raise DatasetError(f"{name}: a box whose width or height is not positive")
        if num_boxes and boxes.class_ids.min() < 0:
            raise DatasetError(f"{name}: a negative class id")

    @property
    def boxes_xywh(self) -> Float64[np.ndarray, "N 4"]:
        """Corner, width and height of each box, with all digits that the file has."""
        if self.stated_xywh is not None:
            return self.stated_xywh
        corners = self.boxes.xyxy.astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


@dataclass(frozen=True, slots=True)
class Categories:
    """The classes of a data set: the file's ids and names, in the order of the class ids."""

    category_ids: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.category_ids) != len(self.names):
            raise DatasetError(f"{len(self.category_ids)} category ids but {len(self.names)} names")
        if list(self.category_ids) != sorted(set(self.category_ids)):
            raise DatasetError(f"category ids must be unique and sorted, got {list(self.category_ids)}")
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            ids = [number for number, name in zip(self.category_ids, self.names, strict=True) if name == twice[0]]
            raise DatasetError(f"the class name {twice[0]!r} is used twice (ids {', '.join(map(str, ids))})")

    def __len__(self) -> int:
        return len(self.category_ids)

    @staticmethod
    def from_names(names: Mapping[int, str]) -> Categories:
        """Categories from {category id: name}, sorted by id: the position is the class id."""
        ordered = sorted(names)
        return Categories(tuple(ordered), tuple(names[category_id] for category_id in ordered))

    def class_of_category(self) -> dict[int, int]:
        """{category id: class id}."""
        return {category_id: class_id for class_id, category_id in enumerate(self.category_ids)}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An annotation or image that a reader left out, and why."""

    reason: str
    item: str
    """Names the image or the place in the file."""

    def __str__(self) -> str:
        return self.item if self.reason == BROKEN else f"{self.item}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something wrong in a file that the reader could put right without loss."""

    kind: str
    item: str
    """Names the place in the file."""


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """All images of a data set, with or without objects, and its classes."""

    images: tuple[ImageAnnotations, ...]
    categories: Categories
    left_out: tuple[LeftOut, ...] = ()
    """Annotations and images that the reader left out."""
    remarks: tuple[Remark, ...] = ()
    """What is wrong in the file but was read all the same."""

    @property
    def dropped(self) -> Counter[str]:
        """How many annotations and images the reader left out, by reason."""
        return Counter(omission.reason for omission in self.left_out)

    def __len__(self) -> int:
        return len(self.images)

    def num_boxes(self) -> int:
        """Boxes in all images, crowds included."""
        return sum(len(image.boxes) for image in self.images)

    def num_objects(self) -> int:
        """Boxes that can be learnt and found: all but crowds."""
        return sum(int((~image.boxes.is_crowd).sum()) for image in self.images)

    def boxes_per_class(self) -> Int64[np.ndarray, " num_classes"]:
        """Count of boxes of each class, crowds included."""
        class_ids = [image.boxes.class_ids for image in self.images] or [np.zeros(0, dtype=np.int64)]
        return np.bincount(np.concatenate(class_ids), minlength=len(self.categories)).astype(np.int64)


def annotations_from_lists(
    image_id: int,
    file_name: str,
    size_hw: tuple[int, int],
    boxes_xyxy: Iterable[Iterable[float]],
    class_ids: Iterable[int],
    is_crowd: Iterable[bool] | None = None,
    areas: Iterable[float] | None = None,
) -> ImageAnnotations:
    """ImageAnnotations from plain lists; missing flags mean no crowd, missing areas are those of the boxes."""
    boxes = np.array([list(box) for box in boxes_xyxy], dtype=np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return ImageAnnotations(
        image_id=image_id,
        file_name=file_name,
        size_hw=size_hw,
        boxes=LabelledBoxes(
            boxes,
            np.array(list(class_ids), dtype=np.int64),
            np.zeros(len(boxes), dtype=bool) if is_crowd is None else np.array(list(is_crowd), dtype=bool),
        ),
        areas=np.array(sides[:, 0] * sides[:, 1] if areas is None else list(areas), dtype=np.float64),
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as a file states it, not yet checked: what a reader parses and `build_image` checks and stacks."""

    where: str
    box_xyxy: tuple[float, float, float, float]
    class_id: int
    is_crowd: bool = False
    area: float | None = None
    """Square pixels; None means the box's."""
    mask: Mask | None = None
    stated_xywh: tuple[float, float, float, float] | None = None
    """Where the file states a size, not a second corner."""

    def xywh(self) -> tuple[float, float, float, float]:
        """Corner, width and height."""
        if self.stated_xywh is not None:
            return self.stated_xywh
        x1, y1, x2, y2 = self.box_xyxy
        return x1, y1, x2 - x1, y2 - y1


@dataclass(slots=True)
class Omissions:
    """Records what a reader leaves out, and decides whether a broken entry ends the reading."""

    skip_broken: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def broken(self, error: DatasetError) -> None:
        """Record the entry and go on, or raise its error where skipping was not asked for."""
        if not self.skip_broken:
            raise error
        self.left_out.append(LeftOut(BROKEN, str(error)))

    def drop(self, reason: str, where: str) -> None:
        """Leave out what is no box."""
        self.left_out.append(LeftOut(reason, where))

    def remark(self, kind: str, where: str) -> None:
        """Record what was put right."""
        self.remarks.append(Remark(kind, where))

    def nothing_left(self, what: str) -> DatasetError:
        """The error of a set of which nothing is left, with the first reasons."""
        return DatasetError(what + first_reasons(self.left_out))


def first_reasons(left_out: Sequence[LeftOut], most: int = 2) -> str:
    """A clause with the first things that were left out and why; empty where nothing was."""
    if not left_out:
        return ""
    more = f" (and {len(left_out) - most} more)" if len(left_out) > most else ""
    return ": " + "; ".join(str(omission) for omission in left_out[:most]) + more


def build_image(
    image_id: int,
    file_name: str,
    size_hw: tuple[int, int],
    entries: Sequence[Entry],
    omissions: Omissions,
    *,
    keep_masks: bool = False,
) -> ImageAnnotations:
    """Image annotations of the entries that are boxes; raises DatasetError for an image of no pixels."""
    kept: list[Entry] = []
    for entry in entries:
        reason = _why_no_box(entry.box_xyxy, size_hw)
        if reason is None:
            kept.append(entry)
        else:
            omissions.drop(reason, f"{file_name}: {entry.where}")
    boxes = np.array([entry.box_xyxy for entry in kept], dtype=np.float32).reshape(-1, 4)
    stated = np.array([entry.xywh() for entry in kept], dtype=np.float64).reshape(-1, 4)
    areas = [
        entry.area if entry.area is not None else side[2] * side[3] for entry, side in zip(kept, stated, strict=True)
    ]
    return ImageAnnotations(
        image_id=image_id,
        file_name=file_name,
        size_hw=size_hw,
        boxes=LabelledBoxes(
            boxes,
            np.array([entry.class_id for entry in kept], dtype=np.int64),
            np.array([entry.is_crowd for entry in kept], dtype=bool),
        ),
        areas=np.array(areas, dtype=np.float64),
        masks=tuple(entry.mask for entry in kept) if keep_masks else (),
        stated_xywh=stated,
    )


def safe_name(where: str, value: object) -> str:
    """A relative path below the image folder, in one line; DatasetError for anything that leaves it."""
    name = value if isinstance(value, str) else ""
    # Control characters would break a report's lines, and halves of characters can be neither opened nor printed.
    is_text = not any(category(character) in ("Cc", "Cs") for character in name)
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts or not is_text:
        raise DatasetError(f"{where}: file_name must be one line, a path below the image folder, got {value!r}")
    return str(parts)


def _why_no_box(box_xyxy: tuple[float, float, float, float], size_hw: tuple[int, int]) -> str | None:
    if not all(math.isfinite(edge) for edge in box_xyxy):
        return NOT_FINITE
    if any(abs(edge) > FARTHEST_PX for edge in box_xyxy):
        return TOO_FAR
    # The corners must still differ once they are float32.
    x1, y1, x2, y2 = (np.float32(edge) for edge in box_xyxy)
    if not (x1 < x2 and y1 < y2):
        return ZERO_AREA
    height, width = size_hw
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return OUTSIDE
    return None

"""What the readers of all formats share: from what a file says about an image to boxes that can be learnt from.

Structure that cannot be trusted is refused by name, or named and skipped where that was asked for; single boxes that
are no boxes (zero area, not finite) are always left out and named, because real sets hold a few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from unicodedata import category

import numpy as np

from vision.data.annotations import ImageAnnotations, LeftOut
from vision.data.masks import Mask
from vision.errors import DatasetError

ZERO_AREA = "width or height not positive"
NOT_FINITE = "not finite"
OUTSIDE = "wholly outside the image"
TOO_FAR = "edge farther off than any image is wide"
BROKEN = "broken"
FARTHEST_PX = 2**24
"""Beyond it single precision no longer tells neighbouring pixels apart."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object as a file states it, not yet checked."""

    where: str
    box_xyxy: tuple[float, float, float, float]
    class_id: int
    is_crowd: bool = False
    area: float | None = None
    """Square pixels; None means the box's."""
    mask: Mask | None = None


@dataclass(slots=True)
class Omissions:
    """Keeps account of what a reader leaves out, and decides whether a broken entry ends the reading."""

    skip_broken: bool = False
    left_out: list[LeftOut] = field(default_factory=list)

    def broken(self, error: DatasetError) -> None:
        """Name the entry and go on, or raise its error where skipping was not asked for."""
        if not self.skip_broken:
            raise error
        self.left_out.append(LeftOut(BROKEN, str(error)))

    def drop(self, reason: str, where: str) -> None:
        """Leave out what is no box."""
        self.left_out.append(LeftOut(reason, where))


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
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = [
        entry.area if entry.area is not None else side[0] * side[1] for entry, side in zip(kept, sides, strict=True)
    ]
    return ImageAnnotations(
        image_id=image_id,
        file_name=file_name,
        size_hw=size_hw,
        boxes_xyxy=boxes,
        class_ids=np.array([entry.class_id for entry in kept], dtype=np.int64),
        is_crowd=np.array([entry.is_crowd for entry in kept], dtype=bool),
        areas=np.array(areas, dtype=np.float32),
        masks=tuple(entry.mask for entry in kept) if keep_masks else (),
    )


def safe_name(where: str, value: object) -> str:
    """A relative path below the image folder, in one line; anything that climbs out of it is refused."""
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

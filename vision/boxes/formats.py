"""Convert between box formats (xyxy, cxcywh, xywh; pixels, normalized), for numpy and torch alike (array API).

xyxy: left, top, right, bottom. cxcywh: centre, width, height. xywh: left, top, width, height (COCO files).
Coordinates are continuous: a box over the whole of pixel (0, 0) is [0, 0, 1, 1], and areas have no "+1".
"""

from __future__ import annotations

from typing import Any, TypeVar

from array_api_compat import array_namespace
from jaxtyping import Num

ArrayT = TypeVar("ArrayT", bound=Any)
"""numpy in, numpy out; torch in, torch out."""


def xyxy_to_cxcywh(boxes_xyxy: Num[ArrayT, "*batch 4"]) -> Num[ArrayT, "*batch 4"]:
    """Corners -> centre and size."""
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return _stack((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)


def cxcywh_to_xyxy(boxes_cxcywh: Num[ArrayT, "*batch 4"]) -> Num[ArrayT, "*batch 4"]:
    """Centre and size -> corners."""
    cx, cy, width, height = _columns(boxes_cxcywh)
    return _stack(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)


def xyxy_to_xywh(boxes_xyxy: Num[ArrayT, "*batch 4"]) -> Num[ArrayT, "*batch 4"]:
    """Corners -> top-left corner and size."""
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return _stack(x1, y1, x2 - x1, y2 - y1)


def xywh_to_xyxy(boxes_xywh: Num[ArrayT, "*batch 4"]) -> Num[ArrayT, "*batch 4"]:
    """Top-left corner and size -> corners."""
    x1, y1, width, height = _columns(boxes_xywh)
    return _stack(x1, y1, x1 + width, y1 + height)


def pixels_to_norm(boxes: Num[ArrayT, "*batch 4"], size_hw: tuple[int, int]) -> Num[ArrayT, "*batch 4"]:
    """Pixels -> fractions of an image of `size_hw`; any of the three formats."""
    height, width = _checked_size(size_hw)
    x, y, x_or_width, y_or_height = _columns(boxes)
    return _stack(x / width, y / height, x_or_width / width, y_or_height / height)


def norm_to_pixels(boxes_norm: Num[ArrayT, "*batch 4"], size_hw: tuple[int, int]) -> Num[ArrayT, "*batch 4"]:
    """Fractions of an image of `size_hw` -> pixels; any of the three formats."""
    height, width = _checked_size(size_hw)
    x, y, x_or_width, y_or_height = _columns(boxes_norm)
    return _stack(x * width, y * height, x_or_width * width, y_or_height * height)


def clip_xyxy(boxes_xyxy: Num[ArrayT, "*batch 4"], size_hw: tuple[int, int]) -> Num[ArrayT, "*batch 4"]:
    """The part of each box inside an image of `size_hw` pixels; a box outside becomes empty, on the border."""
    height, width = _checked_size(size_hw)
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return _stack(_clip(x1, width), _clip(y1, height), _clip(x2, width), _clip(y2, height))


def box_area(boxes_xyxy: Num[ArrayT, "*batch 4"]) -> Num[ArrayT, "*batch"]:
    """Width times height in square pixels; 0 for a box whose corners are swapped."""
    x1, y1, x2, y2 = _columns(boxes_xyxy)
    return positive_part(x2 - x1) * positive_part(y2 - y1)


def positive_part(values: Num[ArrayT, "*shape"]) -> Num[ArrayT, "*shape"]:
    """max(value, 0): the length of an interval whose ends may be swapped."""
    return array_namespace(values).where(values > 0, values, 0)


def _columns(boxes: ArrayT) -> tuple[ArrayT, ArrayT, ArrayT, ArrayT]:
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _clip(values: ArrayT, highest: int) -> ArrayT:
    # Not the array API's clip: array-api-compat's version for torch is several times slower than two selections.
    below = positive_part(values)
    return below - positive_part(below - highest)


def _stack(first: ArrayT, second: ArrayT, third: ArrayT, fourth: ArrayT) -> ArrayT:
    return array_namespace(first).stack((first, second, third, fourth), axis=-1)


def _checked_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    if min(size_hw) < 1:
        raise ValueError(f"expected an image size (height, width) of at least one pixel, got {size_hw}")
    return size_hw

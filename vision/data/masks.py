"""Instance masks as COCO files hold them (polygons or run lengths), rasterised when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from handeye.vision.errors import DatasetError


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """One object's outline in pixels of its image: the union of polygons, or run lengths, of which the other is empty.

    Compact on purpose: a data set has a million of them, and only those that are pasted become pixels.
    """

    polygons: tuple[Float32[np.ndarray, "_ 2"], ...] = ()
    run_lengths: bytes = b""
    """COCO's compressed run lengths, over an image of size_hw."""
    size_hw: tuple[int, int] = (0, 0)


def mask_from_coco(where: str, segmentation: object) -> Mask | None:
    """The mask of a COCO annotation's "segmentation"; None where it has none. Raises DatasetError for nonsense."""
    match segmentation:
        case None | []:
            return None
        case [*polygons]:
            return mask_from_polygons(where, polygons)
        case {"counts": [*counts], "size": [int(height), int(width)]}:
            from pycocotools import mask as coco_masks

            if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
                raise DatasetError(f"{where}: run lengths must be counts that add up to {height} x {width} pixels")
            uncompressed: Any = {"counts": counts, "size": [height, width]}
            compressed = coco_masks.frPyObjects(uncompressed, height, width)
            return Mask(run_lengths=compressed["counts"], size_hw=(height, width))
        case {"counts": str(counts), "size": [int(height), int(width)]}:
            return Mask(run_lengths=counts.encode("ascii", "replace"), size_hw=(height, width))
        case _:
            raise DatasetError(f"{where}: segmentation must be polygons or run lengths, got {str(segmentation)[:60]}")


def mask_from_polygons(where: str, polygons: Sequence[Any]) -> Mask:
    """A mask of lists x1, y1, x2, y2, ... in pixels; raises DatasetError where one has less than three corners."""
    corners = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise DatasetError(f"{where}: a polygon needs three corners x, y or more, got {str(polygon)[:60]}")
        if not all(isinstance(number, int | float) and np.isfinite(number) for number in polygon):
            raise DatasetError(f"{where}: a polygon's corners must be finite numbers, got {str(polygon)[:60]}")
        corners.append(np.array(polygon, dtype=np.float32).reshape(-1, 2))
    return Mask(polygons=tuple(corners))


def mask_to_coco(mask: Mask) -> object:
    """The "segmentation" of a COCO annotation."""
    if mask.run_lengths:
        return {"size": list(mask.size_hw), "counts": mask.run_lengths.decode("ascii")}
    return [polygon.ravel().tolist() for polygon in mask.polygons]


def draw_mask(mask: Mask, size_hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels of an object in an image of that size; raises DatasetError where run lengths are of another size."""
    from pycocotools import mask as coco_masks

    height, width = size_hw
    if mask.run_lengths:
        if mask.size_hw != size_hw:
            raise DatasetError(f"run lengths over {mask.size_hw} pixels do not fit an image of {size_hw}")
        pixels = coco_masks.decode({"size": [height, width], "counts": mask.run_lengths})
    else:
        parts = coco_masks.frPyObjects([polygon.ravel().tolist() for polygon in mask.polygons], height, width)
        pixels = coco_masks.decode(coco_masks.merge(parts))
    return pixels.astype(bool)

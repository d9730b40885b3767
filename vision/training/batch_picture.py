"""A batch as the network sees it: augmented images with the boxes that it is to learn from, on one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vision.data.batches import Batch
from vision.evaluation.figures import write_picture
from vision.images import Preprocessing
from vision.runtime.draw import class_colour, draw_box

MAX_IMAGES = 16
SIDE_PX = 320
"""Longer side of an image as it is drawn."""
CROWD_COLOUR = (150, 150, 150)


def draw_batch(path: Path, batch: Batch, class_names: tuple[str, ...], preprocessing: Preprocessing) -> None:
    """Write at most MAX_IMAGES images in a grid; grey boxes are regions that are left out of the loss."""
    pictures = batch.images[:MAX_IMAGES].permute(0, 2, 3, 1).cpu().numpy()
    if preprocessing.colour == "bgr":
        pictures = pictures[..., ::-1]
    tiles = [_tile(picture, batch, number, class_names) for number, picture in enumerate(pictures)]
    write_picture(path, _grid(tiles))


def _tile(
    picture: UInt8[np.ndarray, "h w 3"], batch: Batch, number: int, class_names: tuple[str, ...]
) -> UInt8[np.ndarray, "tile_h tile_w 3"]:
    scale = SIDE_PX / max(picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    tile = cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale, interpolation=method)
    rows = zip(batch.boxes_xyxy[number], batch.class_ids[number], batch.is_crowd[number], strict=True)
    for box, class_id, is_crowd in rows:
        colour = CROWD_COLOUR if is_crowd else class_colour(int(class_id))
        draw_box(tile, box * scale, class_names[class_id], colour, thickness=2)
    return tile


def _grid(tiles: Sequence[UInt8[np.ndarray, "tile_h tile_w 3"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Tiles of one size in rows, as near to a square as they go; white where none is left."""
    num_columns = math.ceil(math.sqrt(len(tiles)))
    missing = -len(tiles) % num_columns
    cells = [*tiles, *[np.full_like(tiles[0], 255)] * missing]
    rows = [np.hstack(cells[first : first + num_columns]) for first in range(0, len(cells), num_columns)]
    return np.vstack(rows)

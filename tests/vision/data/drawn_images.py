"""A data set of three small noise images, one box in each."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from handeye.vision.data.annotations import AnnotationSet, Categories, annotations_from_lists

SIZE_HW = (40, 50)


def draw_set(
    folder: Path, classes: tuple[str, ...] = ("one", "two"), class_ids: tuple[int, ...] = (0, 1, 0)
) -> tuple[AnnotationSet, Path]:
    """Annotations, and the folder images/ with 0.png, 1.png, 2.png of 50 x 40 pixels."""
    images_folder, rng = folder / "images", np.random.default_rng(0)
    images_folder.mkdir(exist_ok=True)
    images = []
    for index, class_id in enumerate(class_ids):
        picture = cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), SIZE_HW[::-1])
        cv2.imwrite(str(images_folder / f"{index}.png"), picture)
        boxes = [[5.0, 5.0, 25.0 + index, 30.0]]
        images.append(annotations_from_lists(index + 1, f"{index}.png", SIZE_HW, boxes, [class_id]))
    categories = Categories(tuple(range(1, len(classes) + 1)), classes)
    return AnnotationSet(tuple(images), categories), images_folder

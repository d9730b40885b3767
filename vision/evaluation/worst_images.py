"""The images that a detector does worst on, drawn beside what is annotated: where to look before training longer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from vision.data.annotations import AnnotationSet, ImageAnnotations
from vision.evaluation.figures import write_picture
from vision.evaluation.matching import Judgement, judge
from vision.images import read_image
from vision.runtime.detections import Detections
from vision.runtime.draw import class_colour, draw_box

SIDE_PX = 420
"""Longer side of an image as it is drawn."""
GAP_PX = 8
RIGHT_COLOUR, WRONG_COLOUR, MISSED_COLOUR, CROWD_COLOUR = (0, 170, 60), (230, 30, 30), (255, 150, 0), (150, 150, 150)
LEGEND = "left annotated: orange missed, grey crowd; right detected: green right, red wrong, grey in a crowd"


@dataclass(frozen=True, slots=True, eq=False)
class JudgedImage:
    """One image and how the detector did on it."""

    image: ImageAnnotations
    found: Detections
    judgement: Judgement

    @property
    def num_mistakes(self) -> int:
        """Wrong detections and missed objects."""
        return self.judgement.num_false + self.judgement.num_missed


def worst_images(
    annotations: AnnotationSet,
    detections: Mapping[int, Detections],
    score_threshold: float,
    most: int,
    iou_threshold: float = 0.5,
) -> list[JudgedImage]:
    """At most `most` images with a mistake, lowest F1 first, of equals the one with most mistakes."""
    judged = []
    for image in annotations.images:
        if image.image_id in detections:
            found = detections[image.image_id]
            found = found[found.scores >= score_threshold]
            judged.append(JudgedImage(image, found, judge(image, found, iou_threshold)))
    mistaken = [one for one in judged if one.num_mistakes]
    return sorted(mistaken, key=lambda one: (one.judgement.f1, -one.num_mistakes))[:most]


def draw_judged(path: Path, judged: JudgedImage, images: Path) -> None:
    """Write the image twice, side by side: with the annotated boxes and with the detected ones (see LEGEND).

    Raises SourceError when the image cannot be read.
    """
    picture = read_image(images / judged.image.file_name)
    scale = SIDE_PX / max(picture.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)
    gap = np.full((small.shape[0], GAP_PX, 3), 255, np.uint8)
    drawn = np.hstack([_annotated(small.copy(), judged, scale), gap, _detected(small.copy(), judged, scale)])
    write_picture(path, drawn)


def _annotated(picture: UInt8[np.ndarray, "h w 3"], judged: JudgedImage, scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """The true boxes in the colours of their classes, but for what was missed and for crowds."""
    image = judged.image
    for row, (box, class_id) in enumerate(zip(image.boxes_xyxy, image.class_ids, strict=True)):
        colour = class_colour(int(class_id))
        if judged.judgement.is_missed[row]:
            colour = MISSED_COLOUR
        elif image.is_crowd[row]:
            colour = CROWD_COLOUR
        draw_box(picture, box * scale, judged.found.class_names[class_id], colour, thickness=2)
    return picture


def _detected(picture: UInt8[np.ndarray, "h w 3"], judged: JudgedImage, scale: float) -> UInt8[np.ndarray, "h w 3"]:
    """The detected boxes, the best on top."""
    found, judgement = judged.found, judged.judgement
    for row in reversed(range(len(found))):
        colour = RIGHT_COLOUR if judgement.is_hit[row] else WRONG_COLOUR if judgement.counts[row] else CROWD_COLOUR
        label = f"{found.names[row]} {found.scores[row]:.2f}"
        draw_box(picture, found.boxes_xyxy[row] * scale, label, colour, thickness=2)
    return picture

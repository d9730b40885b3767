"""Match detections with ground truth by COCO's rule, classify the errors, and draw the worst images.

Average precision matches within each class; here the detections that are left over may then match objects of other
classes, which separates a wrong class from a false positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from handeye.vision.boxes.iou import pairwise_iou
from handeye.vision.data.annotations import AnnotationSet, ImageAnnotations
from handeye.vision.images import read_image, write_image
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.draw import class_colour, draw_box

SIDE_PX = 420
"""Longer side of an image as it is drawn."""
GAP_PX = 8
RIGHT_COLOUR, WRONG_COLOUR, MISSED_COLOUR, CROWD_COLOUR = (0, 170, 60), (230, 30, 30), (255, 150, 0), (150, 150, 150)
LEGEND = "left annotated: orange missed, grey crowd; right detected: green right, red wrong, grey in a crowd"


@dataclass(frozen=True, slots=True, eq=False)
class DetectionMatch:
    """The match of each detection of an image, and the objects that were missed."""

    object_of: Int64[np.ndarray, " N"]
    """Row of the annotation that a detection matches, of its class or of another; -1 for none."""
    is_hit: Bool[np.ndarray, " N"]
    """The object is of the detection's class."""
    counts: Bool[np.ndarray, " N"]
    """False for a detection that hits nothing but lies in a crowd of its class: neither right nor wrong."""
    is_missed: Bool[np.ndarray, " M"]
    """The annotation is no crowd, and no detection of its class matches it."""

    @property
    def num_hits(self) -> int:
        """Objects that were found."""
        return int(self.is_hit.sum())

    @property
    def num_false(self) -> int:
        """Detections that count and are wrong."""
        return int((self.counts & ~self.is_hit).sum())

    @property
    def num_missed(self) -> int:
        """Objects that were not found."""
        return int(self.is_missed.sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall in this image; 1 where there was nothing to find and nothing found."""
        wrong = self.num_false + self.num_missed
        return 2 * self.num_hits / (2 * self.num_hits + wrong) if self.num_hits + wrong else 1.0


def match_detections(image: ImageAnnotations, found: Detections, iou_threshold: float = 0.5) -> DetectionMatch:
    """Pair detections and objects one to one, best score first, each with the free object that it overlaps most.

    First within the classes, as COCO does, so that no detection of a wrong class takes an object from a right one; then
    across them. Class ids are those of the annotations.
    """
    overlaps = np.asarray(pairwise_iou(found.boxes_xyxy, image.boxes.xyxy))
    is_near = (overlaps >= iou_threshold) & ~image.boxes.is_crowd
    is_same = found.class_ids[:, None] == image.boxes.class_ids[None]
    order = np.argsort(-found.scores, kind="stable")
    object_of = np.full(len(found), -1, dtype=np.int64)
    _take_objects(object_of, order, np.where(is_near & is_same, overlaps, -1.0))
    is_hit = object_of >= 0
    counts = is_hit | ~_inside_a_crowd(found, image, iou_threshold)
    is_missed = ~image.boxes.is_crowd
    is_missed[object_of[is_hit]] = False
    _take_objects(object_of, order, np.where(is_near & ~is_same & counts[:, None], overlaps, -1.0))
    return DetectionMatch(object_of, is_hit, counts, is_missed)


@dataclass(frozen=True, slots=True, eq=False)
class MatchedImage:
    """One image, its detections and how they match."""

    image: ImageAnnotations
    found: Detections
    match: DetectionMatch

    @property
    def num_mistakes(self) -> int:
        """Wrong detections and missed objects."""
        return self.match.num_false + self.match.num_missed


def worst_images(
    annotations: AnnotationSet,
    detections: Mapping[int, Detections],
    score_threshold: float,
    most: int,
    iou_threshold: float = 0.5,
) -> list[MatchedImage]:
    """At most `most` images with a mistake, lowest F1 first, of equals the one with most mistakes."""
    matched = []
    for image in annotations.images:
        if image.image_id in detections:
            found = detections[image.image_id]
            found = found[found.scores >= score_threshold]
            matched.append(MatchedImage(image, found, match_detections(image, found, iou_threshold)))
    mistaken = [one for one in matched if one.num_mistakes]
    return sorted(mistaken, key=lambda one: (one.match.f1, -one.num_mistakes))[:most]


def draw_matched_image(path: Path, matched: MatchedImage, images: Path) -> None:
    """Write the image twice, side by side: with the annotated boxes and with the detected ones (see LEGEND).

    Raises SourceError when the image cannot be read.
    """
    image_rgb = read_image(images / matched.image.file_name)
    scale = SIDE_PX / max(image_rgb.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image_rgb, None, fx=scale, fy=scale, interpolation=method)
    gap = np.full((small.shape[0], GAP_PX, 3), 255, np.uint8)
    drawn = np.hstack(
        [_draw_annotated(small.copy(), matched, scale), gap, _draw_detected(small.copy(), matched, scale)]
    )
    write_image(path, drawn)


def _draw_annotated(
    image_rgb: UInt8[np.ndarray, "h w 3"], matched: MatchedImage, scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The true boxes in the colours of their classes, but for what was missed and for crowds."""
    image = matched.image
    for row, (box, class_id) in enumerate(zip(image.boxes.xyxy, image.boxes.class_ids, strict=True)):
        colour = class_colour(int(class_id))
        if matched.match.is_missed[row]:
            colour = MISSED_COLOUR
        elif image.boxes.is_crowd[row]:
            colour = CROWD_COLOUR
        draw_box(image_rgb, box * scale, matched.found.class_names[class_id], colour, thickness=2)
    return image_rgb


def _draw_detected(
    image_rgb: UInt8[np.ndarray, "h w 3"], matched: MatchedImage, scale: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The detected boxes, the best on top."""
    found, match = matched.found, matched.match
    for row in reversed(range(len(found))):
        colour = RIGHT_COLOUR if match.is_hit[row] else WRONG_COLOUR if match.counts[row] else CROWD_COLOUR
        label = f"{found.names[row]} {found.scores[row]:.2f}"
        draw_box(image_rgb, found.boxes_xyxy[row] * scale, label, colour, thickness=2)
    return image_rgb


def _take_objects(
    object_of: Int64[np.ndarray, " N"], order: Int64[np.ndarray, " N"], overlaps: Float[np.ndarray, "N M"]
) -> None:
    """Give each unmatched detection its best free object; `overlaps` is -1 for pairs that must not match."""
    is_free = np.ones(overlaps.shape[1], dtype=bool)
    is_free[object_of[object_of >= 0]] = False
    has_choice = (overlaps >= 0).any(axis=1) & (object_of < 0)
    for row in order[has_choice[order]]:
        allowed = np.where(is_free, overlaps[row], -1.0)
        best = int(allowed.argmax())
        if allowed[best] >= 0:
            object_of[row], is_free[best] = best, False


def _inside_a_crowd(found: Detections, image: ImageAnnotations, iou_threshold: float) -> Bool[np.ndarray, " N"]:
    """Whether at least `iou_threshold` of a box's own area lies in one crowd of its class (COCO's rule)."""
    if not image.boxes.is_crowd.any():
        return np.zeros(len(found), dtype=bool)
    boxes, crowds = found.boxes_xyxy, image.boxes.xyxy[image.boxes.is_crowd]
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    is_same = found.class_ids[:, None] == image.boxes.class_ids[image.boxes.is_crowd][None]
    return (is_same & (shared >= iou_threshold * np.maximum(areas, 1e-9)[:, None])).any(axis=1)

"""Which detection of an image answers for which object, by the rule of COCO, and what the wrong ones mistook.

Average precision asks class by class; here the detections that are left over may then take objects of other classes,
which tells a confusion from an invention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from vision.boxes.iou import pairwise_iou
from vision.data.annotations import ImageAnnotations
from vision.runtime.detections import Detections


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What each detection of an image is, and which objects are found."""

    object_of: Int64[np.ndarray, "N"]
    """Row of the annotation that a detection answers for, of its class or of another; -1 for none."""
    is_hit: Bool[np.ndarray, "N"]
    """The object is of the detection's class."""
    counts: Bool[np.ndarray, "N"]
    """False for a detection that hits nothing but lies in a crowd of its class: neither right nor wrong."""
    is_missed: Bool[np.ndarray, "M"]
    """The annotation is no crowd, and no detection of its class answers for it."""

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


def judge(image: ImageAnnotations, found: Detections, iou_threshold: float = 0.5) -> Judgement:
    """Pair detections and objects one to one, best score first, each with the free object that it overlaps most.

    First within the classes, as COCO does, so that no confusion takes an object from a detection that is right; then
    across them. Class ids are those of the annotations.
    """
    overlaps = np.asarray(pairwise_iou(found.boxes_xyxy, image.boxes_xyxy))
    is_near = (overlaps >= iou_threshold) & ~image.is_crowd
    is_same = found.class_ids[:, None] == image.class_ids[None]
    order = np.argsort(-found.scores, kind="stable")
    object_of = np.full(len(found), -1, dtype=np.int64)
    _take_objects(object_of, order, np.where(is_near & is_same, overlaps, -1.0))
    is_hit = object_of >= 0
    counts = is_hit | ~_inside_a_crowd(found, image, iou_threshold)
    is_missed = ~image.is_crowd
    is_missed[object_of[is_hit]] = False
    _take_objects(object_of, order, np.where(is_near & ~is_same & counts[:, None], overlaps, -1.0))
    return Judgement(object_of, is_hit, counts, is_missed)


def _take_objects(
    object_of: Int64[np.ndarray, "N"], order: Int64[np.ndarray, "N"], overlaps: Float[np.ndarray, "N M"]
) -> None:
    """Give each detection that has none its best free object; `overlaps` is -1 where a pair is out of question."""
    is_free = np.ones(overlaps.shape[1], dtype=bool)
    is_free[object_of[object_of >= 0]] = False
    has_choice = (overlaps >= 0).any(axis=1) & (object_of < 0)
    for row in order[has_choice[order]]:
        allowed = np.where(is_free, overlaps[row], -1.0)
        best = int(allowed.argmax())
        if allowed[best] >= 0:
            object_of[row], is_free[best] = best, False


def _inside_a_crowd(found: Detections, image: ImageAnnotations, iou_threshold: float) -> Bool[np.ndarray, "N"]:
    """Whether at least `iou_threshold` of a box's own area lies in one crowd of its class (COCO's rule)."""
    if not image.is_crowd.any():
        return np.zeros(len(found), dtype=bool)
    boxes, crowds = found.boxes_xyxy, image.boxes_xyxy[image.is_crowd]
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)
    is_same = found.class_ids[:, None] == image.class_ids[image.is_crowd][None]
    return (is_same & (shared >= iou_threshold * np.maximum(areas, 1e-9)[:, None])).any(axis=1)

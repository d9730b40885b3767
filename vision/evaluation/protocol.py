"""Evaluation protocols: what is done to the boxes of a detector before COCO's metrics are computed.

Training, `handeye evaluate` and `handeye export` measure by the same protocol, which is what `handeye detect` will run:
boxes end at the edge of the image and NMS has the model's own threshold. `published` is how detectors are compared in
the literature. Every result says which one it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes

ProtocolName = Literal["deployed", "published"]


@dataclass(frozen=True)
class Protocol:
    """How boxes are treated before they are scored. Average precision ranks all scores above `score_threshold`."""

    name: ProtocolName
    clip_boxes: bool
    """Cut boxes at the edges of the image."""
    score_threshold: float = 0.001
    """COCO's results keep nearly every detection, whatever threshold the model is run with."""
    iou_threshold: float | None = None
    """Of NMS; None means the model's own."""

    def thresholds(self, manifest: Manifest) -> tuple[float, float]:
        """Score and NMS threshold for a model; a file that filters its boxes itself keeps those of its graph."""
        score, iou = self.score_threshold, manifest.iou_threshold
        if isinstance(manifest.output, PostprocessedBoxes):
            return max(score, manifest.output.score_floor), manifest.output.iou_threshold or iou
        return score, iou if self.iou_threshold is None else self.iou_threshold

    def apply(self, detector: ImageDetector) -> ImageDetector:
        """The detector as it is to be measured."""
        score_threshold, iou_threshold = self.thresholds(detector.manifest)
        return detector.with_options(
            score_threshold=score_threshold, iou_threshold=iou_threshold, clip_boxes=self.clip_boxes
        )


PROTOCOLS: Mapping[ProtocolName, Protocol] = {
    "deployed": Protocol("deployed", clip_boxes=True),
    "published": Protocol("published", clip_boxes=False, iou_threshold=0.65),
}

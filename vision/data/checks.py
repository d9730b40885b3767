"""What is wrong with a data set, or looks wrong, item by item: annotations alone, and the image files they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handeye.vision.boxes.anchors import AnchorFit, kmeans_anchors
from handeye.vision.data.annotations import BROKEN, AnnotationSet, ImageAnnotations
from handeye.vision.data.image_files import read_stated_image
from handeye.vision.data.near_duplicates import DuplicatePair, Likeness, like_pairs, likeness_of
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.images import Preprocessing, place

MISSING, UNREADABLE, OTHER_SIZE = "missing image", "unreadable image", "image of another size"
OVER_EDGE, DUPLICATE, TINY = "box over the image's edge", "box given twice", "box smaller than a pixel"
LEAK = "image that is in another split too"
EDGE_SLACK_PX = 1.0
"""Rounding in other tools puts edges this far outside."""
MAX_ANCHOR_BOXES = 20_000
"""k-means takes a random choice of so many: more change the anchors by less than a pixel."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, in one line."""

    kind: str
    item: str
    """Image, box or place in the file."""
    image_id: int | None = None
    box: int | None = None
    """Its number in the image."""

    @property
    def is_image(self) -> bool:
        """Whether the image itself cannot be used."""
        return self.kind in (MISSING, UNREADABLE, OTHER_SIZE)


@dataclass(frozen=True, slots=True, eq=False)
class ImageReport:
    """What one image file is like."""

    findings: tuple[Finding, ...]
    likeness: Likeness | None = None


def check_annotations(annotations: AnnotationSet) -> list[Finding]:
    """What the reader left out, and boxes over the edge, given twice or smaller than a pixel."""
    findings = [
        Finding(omission.reason if omission.reason != BROKEN else "broken entry", omission.item)
        for omission in annotations.left_out
    ]
    for image in annotations.images:
        findings += _check_boxes(image)
    return findings


def check_image(image: ImageAnnotations, folder: Path) -> ImageReport:
    """Whether the image is there, can be decoded whole, and has the size that was annotated; and its likeness."""
    path = folder / image.file_name
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        return ImageReport((Finding(MISSING, f"{path}: {what}", image.image_id),))
    try:
        pixels = read_stated_image(path, image.size_hw)
    except SourceError as error:
        return ImageReport((Finding(UNREADABLE, str(error), image.image_id),))
    except DatasetError as error:
        return ImageReport((Finding(OTHER_SIZE, str(error), image.image_id),))
    return ImageReport((), likeness_of(pixels))


def check_images(
    annotations: AnnotationSet, folder: Path, after_image: Callable[[], None] | None = None, num_threads: int = 2
) -> dict[int, ImageReport]:
    """A report of every image, by image id; each is decoded once."""
    reports: dict[int, ImageReport] = {}
    with ThreadPoolExecutor(num_threads) as readers:
        checked = readers.map(lambda image: check_image(image, folder), annotations.images)
        for image, report in zip(annotations.images, checked, strict=True):
            reports[image.image_id] = report
            if after_image is not None:
                after_image()
    return reports


def check_leaks(
    ones: AnnotationSet,
    one_reports: dict[int, ImageReport],
    others: AnnotationSet,
    other_reports: dict[int, ImageReport],
) -> list[DuplicatePair]:
    """Images of one split that look like an image of another: a model would be judged on what it has learnt."""
    return like_pairs(_likenesses(ones, one_reports), _likenesses(others, other_reports))


def fit_anchors(annotations: AnnotationSet, preprocessing: Preprocessing, num_anchors: int) -> AnchorFit | None:
    """k-means anchors of the objects, crowds left out, in pixels of the network input; None for too few objects."""
    sizes = [np.zeros((0, 2), dtype=np.float32)]
    for image in annotations.images:
        boxes = image.boxes.xyxy[~image.boxes.is_crowd]
        placement, _ = place(image.size_hw, preprocessing)
        placed = placement.boxes_to_input(boxes)
        sizes.append(placed[:, 2:] - placed[:, :2])
    sizes_wh = np.concatenate(sizes)
    if len(sizes_wh) > MAX_ANCHOR_BOXES:
        sizes_wh = np.random.default_rng(0).permutation(sizes_wh)[:MAX_ANCHOR_BOXES]
    if len(np.unique(sizes_wh, axis=0)) < num_anchors:
        return None
    return kmeans_anchors(sizes_wh, num_anchors)


def count_kinds(findings: Sequence[Finding]) -> dict[str, int]:
    """How many findings of each kind, the most frequent first."""
    return dict(Counter(finding.kind for finding in findings).most_common())


def sizes_by_part(annotations: AnnotationSet) -> dict[str, int]:
    """Objects by COCO's sizes: area below 32^2, below 96^2, above, in pixels of the image."""
    areas = np.concatenate([np.zeros(0), *(image.areas[~image.boxes.is_crowd] for image in annotations.images)])
    small, medium = int((areas < 32**2).sum()), int(((areas >= 32**2) & (areas < 96**2)).sum())
    return {"small": small, "medium": medium, "large": len(areas) - small - medium}


def _check_boxes(image: ImageAnnotations) -> list[Finding]:
    boxes, (height, width) = image.boxes.xyxy, image.size_hw
    limit = np.array([width, height]) + EDGE_SLACK_PX
    over = (boxes[:, :2] < -EDGE_SLACK_PX).any(axis=1) | (boxes[:, 2:] > limit).any(axis=1)
    tiny = ((boxes[:, 2:] - boxes[:, :2]) < 1).any(axis=1)
    rows = np.column_stack([boxes, image.boxes.class_ids.astype(np.float32)])
    _, first = np.unique(rows, axis=0, return_index=True)
    twice = np.ones(len(boxes), dtype=bool)
    twice[first] = False
    findings = []
    for kind, is_so in ((OVER_EDGE, over), (DUPLICATE, twice), (TINY, tiny)):
        for number in np.flatnonzero(is_so).tolist():
            edges = ", ".join(f"{edge:g}" for edge in boxes[number])
            findings.append(Finding(kind, f"{image.file_name}: box {number} ({edges})", image.image_id, number))
    return findings


def _likenesses(annotations: AnnotationSet, reports: dict[int, ImageReport]) -> dict[str, Likeness]:
    return {
        image.file_name: likeness
        for image in annotations.images
        if (likeness := reports[image.image_id].likeness) is not None
    }

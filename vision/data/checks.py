"""Check a data set: problems of its annotations and image files, near-duplicate images across splits, k-means anchors.

Near duplicates are found by two perceptual hashes of 64 bits, compared by the number of bits that differ. Both must
agree, because each has its blind spots: signs of brightness steps (dHash), and signs of low frequencies around their
median (pHash, a cosine transform of 32 x 32). Featureless images have no hash worth comparing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from handeye.vision.boxes.anchors import AnchorFit, kmeans_anchors
from handeye.vision.data.annotations import BROKEN, AnnotationSet, ImageAnnotations
from handeye.vision.data.image_files import read_stated_image
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.images import Preprocessing, resize_transform

MISSING, UNREADABLE, OTHER_SIZE = "missing image", "unreadable image", "image of another size"
OVER_EDGE, DUPLICATE, TINY = "box over the image's edge", "box given twice", "box smaller than a pixel"
UNKNOWN_CLASS = "class that this split lacks"
LEAK = "image that is in another split too"
EDGE_SLACK_PX = 1.0
"""Rounding in other tools puts edges this far outside."""
MAX_ANCHOR_BOXES = 20_000
"""k-means takes a random choice of this many: more change the anchors by less than a pixel."""
BITS = 64
MAX_STEPS, MAX_FREQUENCIES = 8, 8
"""Bits that may differ, of 64, in images taken for the same: a new compression or size changes fewer."""
MIN_CONTRAST = 4.0
"""Standard deviation of the grey levels below which an image is featureless."""
ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class ImageHash:
    """Both perceptual hashes of one image, each bit as -1 or 1."""

    steps: Float32[np.ndarray, "64"]
    frequencies: Float32[np.ndarray, "64"]


@dataclass(frozen=True, slots=True, order=True)
class DuplicatePair:
    """Two images taken for the same, with the number of bits in which the hashes differ together."""

    distance: int
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class DatasetFinding:
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
    """The problems of one image file, and its hash."""

    findings: tuple[DatasetFinding, ...]
    image_hash: ImageHash | None = None


def check_annotations(annotations: AnnotationSet) -> list[DatasetFinding]:
    """What the reader left out or put right, and boxes over the edge, given twice or smaller than a pixel."""
    findings = [
        DatasetFinding(omission.reason if omission.reason != BROKEN else "broken entry", omission.item)
        for omission in annotations.left_out
    ]
    findings += [DatasetFinding(remark.kind, remark.item) for remark in annotations.remarks]
    for image in annotations.images:
        findings += _check_boxes(image)
    return findings


def check_classes(annotations: AnnotationSet, others: AnnotationSet, origin: str) -> list[DatasetFinding]:
    """Classes with boxes in another split that `annotations` does not name: no model of its classes can find them."""
    counted = zip(others.categories.names, others.boxes_per_class().tolist(), strict=True)
    known = set(annotations.categories.names)
    return [
        DatasetFinding(UNKNOWN_CLASS, f"{name}: {count} boxes in {origin}")
        for name, count in counted
        if count and name not in known
    ]


def check_image(image: ImageAnnotations, folder: Path) -> ImageReport:
    """Whether the image is there, can be decoded whole, and has the size that was annotated; and its hash."""
    path = folder / image.file_name
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        return ImageReport((DatasetFinding(MISSING, f"{path}: {what}", image.image_id),))
    try:
        pixels = read_stated_image(path, image.size_hw)
    except SourceError as error:
        return ImageReport((DatasetFinding(UNREADABLE, str(error), image.image_id),))
    except DatasetError as error:
        return ImageReport((DatasetFinding(OTHER_SIZE, str(error), image.image_id),))
    return ImageReport((), hash_of(pixels))


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
    """Images of one split that look like an image of another: a model would be evaluated on what it was trained on."""
    return near_duplicates(_hashes(ones, one_reports), _hashes(others, other_reports))


def hash_of(image_rgb: UInt8[np.ndarray, "h w 3"]) -> ImageHash | None:
    """The hashes of an image; None for one without features."""
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    if small.std() < MIN_CONTRAST:
        return None
    steps = cv2.resize(small, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32)
    frequencies = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    frequencies[0] = np.median(frequencies[1:])  # the mean brightness carries no information
    return ImageHash(_signs(np.diff(steps, axis=1).ravel()), _signs(frequencies - np.median(frequencies)))


def near_duplicates(ones: Mapping[str, ImageHash], others: Mapping[str, ImageHash]) -> list[DuplicatePair]:
    """Pairs of an image of `ones` and one of `others` that look the same, the closest first."""
    if not ones or not others:
        return []
    one_names, other_names = list(ones), list(others)
    steps, frequencies = (_stack(others, name) for name in ("steps", "frequencies"))
    found = []
    for first in range(0, len(one_names), ROWS_AT_ONCE):
        names = one_names[first : first + ROWS_AT_ONCE]
        part = {name: ones[name] for name in names}
        # Of vectors of -1 and 1 the product counts equal bits minus different ones.
        by_steps = (BITS - _stack(part, "steps") @ steps.T) / 2
        by_frequencies = (BITS - _stack(part, "frequencies") @ frequencies.T) / 2
        for row, column in np.argwhere((by_steps <= MAX_STEPS) & (by_frequencies <= MAX_FREQUENCIES)):
            distance = int(by_steps[row, column] + by_frequencies[row, column])
            found.append(DuplicatePair(distance, names[row], other_names[column]))
    return sorted(found)


def fit_anchors(annotations: AnnotationSet, preprocessing: Preprocessing, num_anchors: int) -> AnchorFit | None:
    """k-means anchors of the objects, crowds left out, in pixels of the network input; None for too few objects."""
    sizes = [np.zeros((0, 2), dtype=np.float32)]
    for image in annotations.images:
        boxes = image.boxes.xyxy[~image.boxes.is_crowd]
        transform, _ = resize_transform(image.size_hw, preprocessing)
        placed = transform.boxes_to_input(boxes)
        sizes.append(placed[:, 2:] - placed[:, :2])
    sizes_wh = np.concatenate(sizes)
    if len(sizes_wh) > MAX_ANCHOR_BOXES:
        sizes_wh = np.random.default_rng(0).permutation(sizes_wh)[:MAX_ANCHOR_BOXES]
    if len(np.unique(sizes_wh, axis=0)) < num_anchors:
        return None
    return kmeans_anchors(sizes_wh, num_anchors)


def count_kinds(findings: Sequence[DatasetFinding]) -> dict[str, int]:
    """How many findings of each kind, the most frequent first."""
    return dict(Counter(finding.kind for finding in findings).most_common())


def sizes_by_part(annotations: AnnotationSet) -> dict[str, int]:
    """Objects by COCO's sizes: area below 32^2, below 96^2, above, in pixels of the image."""
    areas = np.concatenate([np.zeros(0), *(image.areas[~image.boxes.is_crowd] for image in annotations.images)])
    small, medium = int((areas < 32**2).sum()), int(((areas >= 32**2) & (areas < 96**2)).sum())
    return {"small": small, "medium": medium, "large": len(areas) - small - medium}


def _check_boxes(image: ImageAnnotations) -> list[DatasetFinding]:
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
            findings.append(DatasetFinding(kind, f"{image.file_name}: box {number} ({edges})", image.image_id, number))
    return findings


def _hashes(annotations: AnnotationSet, reports: dict[int, ImageReport]) -> dict[str, ImageHash]:
    return {
        image.file_name: image_hash
        for image in annotations.images
        if (image_hash := reports[image.image_id].image_hash) is not None
    }


def _signs(values: np.ndarray) -> Float32[np.ndarray, "64"]:
    return np.where(values > 0, np.float32(1), np.float32(-1))


def _stack(hashes: Mapping[str, ImageHash], name: str) -> Float32[np.ndarray, "N 64"]:
    return np.stack([getattr(each, name) for each in hashes.values()])

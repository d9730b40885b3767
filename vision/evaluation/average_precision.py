"""COCO mAP and recall of boxes, computed by faster-coco-eval, whose numbers equal those of pycocotools.

A metric that is undefined, because nothing of that size is annotated, is -1 as in COCO, and None as `value`. At most
100 detections of a class in an image count, the best scores first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float

from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.coco import coco_content
from handeye.vision.data.formats import read_annotations
from handeye.vision.errors import DatasetError
from handeye.vision.evaluation.matching import match_detections
from handeye.vision.runtime.detections import Detections

UNDEFINED = -1.0


@dataclass(frozen=True)
class CocoMetrics:
    """The twelve metrics of COCO's summary in its order, as fractions in 0..1, and AP and AP50 of each class.

    AP averages over IoU 0.50 to 0.95; s, m and l are areas below 32^2, below 96^2 and above, in pixels of the
    annotated image; AR1, AR10 and AR100 allow that many detections in an image.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    AP_of_class: Mapping[str, float]
    AP50_of_class: Mapping[str, float]

    def summary(self) -> dict[str, float]:
        """The twelve metrics by name."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}

    def value(self, name: str) -> float | None:
        """One of the twelve; None where it is undefined."""
        return defined(self.summary()[name])


def defined(value: float) -> float | None:
    """The value of a metric; None for the -1 that stands for an undefined one."""
    return None if value == UNDEFINED else value


class GroundTruth:
    """The annotations of a data set as the evaluation takes them, made once and used for many evaluations.

    Boxes, areas and crowds are those of the reader that training uses; ids of annotations are counted anew.
    """

    def __init__(
        self, annotations: AnnotationSet, origin: Path | str = "annotations", image_ids: Iterable[int] | None = None
    ) -> None:
        """`origin` names the set in messages; `image_ids` restricts the evaluation to these images."""
        self.origin, self.category_ids = str(origin), annotations.categories.category_ids
        self.class_names = annotations.categories.names
        self.annotations = annotations
        self.names = {image.image_id: image.file_name for image in annotations.images}
        self.image_ids = sorted(self.names if image_ids is None else set(image_ids))
        if unknown := set(self.image_ids) - self.names.keys():
            raise DatasetError(f"{self.origin}: has no image with id {min(unknown)}")
        counts = annotations.boxes_per_class()
        self.annotated_names = {name for name, count in zip(self.class_names, counts, strict=True) if count}
        self.coco = COCO(coco_content(annotations))
        self._matched: dict[tuple[str, ...], dict[int, int]] = {}

    @classmethod
    def read(cls, path: Path, images: Path | None = None, *, split: str = "val") -> GroundTruth:
        """Read annotations of any format; file names are relative to `images`. Raises DatasetError."""
        return cls(read_annotations(path, images, split=split), path)

    def file_names(self) -> dict[int, str]:
        """The image file of each image_id that is evaluated."""
        return {image_id: self.names[image_id] for image_id in self.image_ids}

    def category_of_class(self, class_names: tuple[str, ...]) -> dict[int, int]:
        """class_id of a model -> category_id of this file: by name where the model has every annotated class.

        Otherwise by the order of the category ids, if both have equally many classes and no name stands at two
        different places (one list may say motorbike where the other says motorcycle). Classes that the file lacks
        are left out. Raises DatasetError when neither way is safe.
        """
        if class_names not in self._matched:
            self._matched[class_names] = self._match_classes(class_names)
        return self._matched[class_names]

    def _match_classes(self, class_names: tuple[str, ...]) -> dict[int, int]:
        own = dict(zip(self.class_names, self.category_ids, strict=True))
        if len(own) == len(self.category_ids) and self.annotated_names <= set(class_names):
            return {class_id: own[name] for class_id, name in enumerate(class_names) if name in own}
        moved = [
            name for name in class_names if name in own and self.class_names.index(name) != class_names.index(name)
        ]
        if len(class_names) == len(self.category_ids) and not moved:
            return dict(enumerate(self.category_ids))
        missing = sorted(self.annotated_names - set(class_names)) or moved
        raise DatasetError(
            f"{self.origin}: its classes are not the model's: {', '.join(missing[:5])} of its {len(self.class_names)} "
            f"do not match the model's {len(class_names)} ({', '.join(class_names[:5])}, ...)"
        )


def evaluate_boxes(ground_truth: GroundTruth, detections: Mapping[int, Detections]) -> CocoMetrics:
    """COCO metrics of `detections`, keyed by the image_id of the annotations; an image without an entry has none.

    Boxes are in pixels of the original images. Raises DatasetError for an unknown image or class.
    """
    if unknown := detections.keys() - set(ground_truth.image_ids):
        raise DatasetError(f"{ground_truth.origin}: detections name the image {min(unknown)}, which is not evaluated")
    return evaluate_rows(ground_truth, _result_rows(ground_truth, detections))


def evaluate_rows(ground_truth: GroundTruth, rows: Float[np.ndarray, "N 7"]) -> CocoMetrics:
    """COCO metrics of a result file as an array: (image_id, x, y, width, height, score, category_id) in each row."""
    results = ground_truth.coco.loadRes(rows)
    evaluation = COCOeval_faster(ground_truth.coco, results, iouType="bbox", print_function=_discard)
    evaluation.params.imgIds = ground_truth.image_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return CocoMetrics(
        *(float(figure) for figure in evaluation.stats[:12]),
        AP_of_class=_by_class(ground_truth.class_names, precision),
        AP50_of_class=_by_class(ground_truth.class_names, precision[:1]),
    )


def precision_and_recall(
    ground_truth: GroundTruth, detections: Mapping[int, Detections], score_threshold: float, iou_threshold: float = 0.5
) -> dict[str, float | None]:
    """precision and recall of the detections above a score, over all classes; None where there is nothing to count.

    A detection hits the object of its class that it overlaps by `iou_threshold` at least, one to one; crowds count
    neither way.
    """
    evaluated, hits, false, missed = set(ground_truth.image_ids), 0, 0, 0
    for image in ground_truth.annotations.images:
        if image.image_id in evaluated:
            found = _in_classes_of(ground_truth, detections[image.image_id]) if image.image_id in detections else None
            if found is None:
                missed += int((~image.boxes.is_crowd).sum())
                continue
            match = match_detections(image, found[found.scores > score_threshold], iou_threshold)
            hits, false, missed = hits + match.num_hits, false + match.num_false, missed + match.num_missed
    return {
        "precision": hits / (hits + false) if hits + false else None,
        "recall": hits / (hits + missed) if hits + missed else None,
    }


def _in_classes_of(ground_truth: GroundTruth, found: Detections) -> Detections:
    """The detections with the class ids of the annotations; those of classes that it lacks are left out."""
    category_of_class = ground_truth.category_of_class(found.class_names)
    class_of_category = {category: row for row, category in enumerate(ground_truth.category_ids)}
    found = found[np.isin(found.class_ids, list(category_of_class))]
    class_ids = [class_of_category[category_of_class[int(class_id)]] for class_id in found.class_ids]
    return Detections(found.boxes_xyxy, found.scores, np.array(class_ids, np.int64), tuple(ground_truth.class_names))


def _result_rows(ground_truth: GroundTruth, detections: Mapping[int, Detections]) -> Float[np.ndarray, "N 7"]:
    """The rows that `evaluate_rows` takes."""
    rows = [np.zeros((0, 7))]
    for image_id, found in detections.items():
        category_of_class = ground_truth.category_of_class(found.class_names)
        found = found[np.isin(found.class_ids, list(category_of_class))]
        category_ids = [category_of_class[int(class_id)] for class_id in found.class_ids]
        corners = found.boxes_xyxy.astype(np.float64)
        rows.append(
            np.column_stack(
                [
                    np.full(len(found), image_id),
                    corners[:, :2],
                    corners[:, 2:] - corners[:, :2],
                    found.scores,
                    np.array(category_ids, np.float64),
                ]
            )
        )
    return np.concatenate(rows)


def _by_class(class_names: tuple[str, ...], precision: Float[np.ndarray, "T R K"]) -> dict[str, float]:
    """Mean precision of each class; -1 marks classes without ground truth, as in COCO's arrays."""
    return {name: float(values.mean()) for name, values in zip(class_names, precision.transpose(2, 0, 1), strict=True)}


def _discard(*_: object) -> None:
    """Replaces the evaluator's print function."""

"""COCO detection JSON in and out (cocodataset.org, "Data format", object detection).

Structure that cannot be trusted (missing keys, unknown ids, a name twice) is refused by name; single boxes that are no
boxes (zero area, not finite) are left out and counted, because real sets hold a few of them.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vision.data.annotations import AnnotationSet, Categories, ImageAnnotations
from vision.errors import DatasetError
from vision.files import write_json

ZERO_AREA = "width or height not positive"
NOT_FINITE = "not finite"
OUTSIDE = "wholly outside the image"


def read_coco(path: Path) -> AnnotationSet:
    """Read a COCO detection file; images without objects are kept.

    Class ids count the file's categories in the order of their ids. Raises DatasetError naming the file and the entry
    at fault; boxes without area, not finite or wholly outside their image are left out and counted in `dropped`.
    """
    content = _read_object(Path(path))
    categories = _read_categories(path, content)
    boxes_of_image, dropped = _read_annotations(path, content, categories)
    images = _read_images(path, content)
    unknown = sorted(set(boxes_of_image) - {image["id"] for image in images})
    if unknown:
        raise DatasetError(f"{path}: annotations of images that are not listed: image_id {_some(unknown)}")
    built = tuple(_build_image(path, image, boxes_of_image.get(image["id"], []), dropped) for image in images)
    return AnnotationSet(built, categories, dropped)


def write_coco(path: Path, annotations: AnnotationSet) -> None:
    """Write an AnnotationSet as a COCO detection file, whole or not at all; annotation ids count from 1."""
    category_ids = annotations.categories.category_ids
    entries: list[dict[str, object]] = []
    for image in annotations.images:
        corners = image.boxes_xyxy.astype(np.float64)
        boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        for box, class_id, crowd, area in zip(
            boxes_xywh.tolist(), image.class_ids.tolist(), image.is_crowd.tolist(), image.areas.tolist(), strict=True
        ):
            entries.append(
                {
                    "id": len(entries) + 1,
                    "image_id": image.image_id,
                    "category_id": category_ids[class_id],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
            )
    write_json(
        path, {"images": _image_entries(annotations), "annotations": entries, "categories": _class_entries(annotations)}
    )


def _image_entries(annotations: AnnotationSet) -> list[dict[str, object]]:
    return [
        {"id": image.image_id, "file_name": image.file_name, "height": image.size_hw[0], "width": image.size_hw[1]}
        for image in annotations.images
    ]


def _class_entries(annotations: AnnotationSet) -> list[dict[str, object]]:
    names = zip(annotations.categories.category_ids, annotations.categories.names, strict=True)
    return [{"id": category_id, "name": name} for category_id, name in names]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a COCO file: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a JSON object with images, annotations and categories")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DatasetError(f"{path}: no list {' and no list '.join(missing)}; is it a COCO detection file?")
    return content


def _read_categories(path: Path, content: Mapping[str, Any]) -> Categories:
    names: dict[int, str] = {}
    for position, entry in enumerate(content["categories"]):
        where = f"{path}: categories[{position}]"
        category_id = _integer(where, _value(where, entry, "id"))
        if category_id in names:
            raise DatasetError(f"{where}: category id {category_id} is used twice")
        names[category_id] = str(_value(where, entry, "name"))
    if not names:
        raise DatasetError(f"{path}: no categories")
    return Categories.from_names(names)


def _read_images(path: Path, content: Mapping[str, Any]) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    seen_ids: set[int] = set()
    seen_names: set[str] = set()
    for position, entry in enumerate(content["images"]):
        where = f"{path}: images[{position}]"
        image_id, name = (
            _integer(where, _value(where, entry, "id")),
            _safe_name(where, _value(where, entry, "file_name")),
        )
        if image_id in seen_ids or name in seen_names:
            raise DatasetError(f"{where}: image id {image_id} or file name {name!r} is used twice")
        seen_ids.add(image_id)
        seen_names.add(name)
        size_hw = tuple(_integer(where, _value(where, entry, key)) for key in ("height", "width"))
        images.append({"id": image_id, "file_name": name, "size_hw": size_hw})
    if not images:
        raise DatasetError(f"{path}: no images")
    return images


def _read_annotations(
    path: Path, content: Mapping[str, Any], categories: Categories
) -> tuple[dict[int, list[tuple[list[float], int, bool, float]]], Counter[str]]:
    """Boxes (xywh), class, crowd flag and area of every image id; what is no box is counted by reason."""
    class_of_category = categories.class_of_category()
    boxes_of_image: dict[int, list[tuple[list[float], int, bool, float]]] = defaultdict(list)
    dropped: Counter[str] = Counter()
    for position, entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{position}]"
        box = _box(where, _value(where, entry, "bbox"))
        image_id = _integer(where, _value(where, entry, "image_id"))
        category_id = _integer(where, _value(where, entry, "category_id"))
        if category_id not in class_of_category:
            raise DatasetError(f"{where}: category_id {category_id} is not listed in categories")
        if not all(math.isfinite(side) for side in box):
            dropped[NOT_FINITE] += 1
        elif not _has_area(box):
            dropped[ZERO_AREA] += 1
        else:
            area = _number(where, entry.get("area", box[2] * box[3]))
            crowd = bool(_integer(where, entry.get("iscrowd", 0)))
            boxes_of_image[image_id].append((box, class_of_category[category_id], crowd, area))
    return boxes_of_image, dropped


def _build_image(
    path: Path, image: dict[str, Any], objects: list[tuple[list[float], int, bool, float]], dropped: Counter[str]
) -> ImageAnnotations:
    boxes = np.array([box for box, *_ in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image["size_hw"]
    inside = (boxes[:, 0] < width) & (boxes[:, 1] < height) & (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    if not inside.all():
        dropped[OUTSIDE] += int((~inside).sum())
    try:
        return ImageAnnotations(
            image_id=image["id"],
            file_name=image["file_name"],
            size_hw=(height, width),
            boxes_xyxy=boxes[inside].astype(np.float32),
            class_ids=np.array([class_id for _, class_id, _, _ in objects], dtype=np.int64)[inside],
            is_crowd=np.array([crowd for _, _, crowd, _ in objects], dtype=bool)[inside],
            areas=np.array([area for *_, area in objects], dtype=np.float32)[inside],
        )
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


def _has_area(box_xywh: Sequence[float]) -> bool:
    """Whether the corners still differ once they are float32."""
    x, y, width, height = box_xywh
    return bool(np.float32(x + width) > np.float32(x)) and bool(np.float32(y + height) > np.float32(y))


def _value(where: str, entry: object, key: str) -> Any:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object, got {type(entry).__name__}")
    if key not in entry:
        raise DatasetError(f"{where}: no {key!r}")
    return entry[key]


def _integer(where: str, value: object) -> int:
    """Ids and sizes; a float such as 3.0 is what some writers make of 3, a text or a flag is not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value % 1:
        raise DatasetError(f"{where}: expected a whole number, got {value!r}")
    return int(value)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DatasetError(f"{where}: expected a number, got {value!r}")
    return float(value)


def _box(where: str, value: object) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DatasetError(f"{where}: bbox must be [x, y, width, height], got {value!r}")
    return [_number(where, side) for side in value]


def _safe_name(where: str, value: object) -> str:
    """A relative path below the image folder; anything that climbs out of it is refused."""
    name = value if isinstance(value, str) else ""
    parts = PurePosixPath(name.replace("\\", "/"))
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise DatasetError(f"{where}: file_name must be a path below the image folder, got {value!r}")
    return str(parts)


def _some(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:3])
    return shown if len(values) <= 3 else f"{shown} and {len(values) - 3} more"

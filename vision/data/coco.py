"""Read and write COCO detection JSON (cocodataset.org, "Data format", object detection).

Missing keys, unknown ids and duplicate names raise DatasetError.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handeye.vision.data.annotations import AnnotationSet, Categories, Entry, Omissions, build_image, safe_name
from handeye.vision.data.masks import mask_from_coco, mask_to_coco
from handeye.vision.errors import DatasetError
from handeye.vision.files import write_json

LARGEST_ID = 2**53
"""Beyond it JSON readers of other languages, and the evaluation, no longer tell two ids apart."""


@dataclass(frozen=True, slots=True)
class _Image:
    image_id: int
    file_name: str
    size_hw: tuple[int, int]


def read_coco(path: Path, *, keep_masks: bool = False, skip_broken: bool = False) -> AnnotationSet:
    """Read a COCO detection file; images without objects are kept.

    Class ids count the file's categories in the order of their ids. Raises DatasetError naming the file and the entry
    at fault, or leaves that entry out where broken ones are to be skipped; boxes without area, not finite or wholly
    outside their image are always left out. What was left out is listed in `left_out`.
    """
    content = _read_object(Path(path))
    omissions = Omissions(skip_broken)
    categories = _read_categories(path, content)
    images = _read_images(path, content, omissions)
    image_ids = {image.image_id for image in images}
    entries = _read_entries(path, content, categories, image_ids, omissions, keep_masks=keep_masks)
    built = tuple(
        build_image(
            image.image_id,
            image.file_name,
            image.size_hw,
            entries.get(image.image_id, []),
            omissions,
            keep_masks=keep_masks,
        )
        for image in images
    )
    return AnnotationSet(built, categories, tuple(omissions.left_out))


def write_coco(path: Path, annotations: AnnotationSet) -> None:
    """Write an AnnotationSet as a COCO detection file, whole or not at all."""
    write_json(path, coco_content(annotations))


def coco_content(annotations: AnnotationSet) -> dict[str, object]:
    """An AnnotationSet as the content of a COCO detection file; annotation ids count from 1."""
    category_ids = annotations.categories.category_ids
    entries: list[dict[str, object]] = []
    for image in annotations.images:
        corners = image.boxes.xyxy.astype(np.float64)
        boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        for position, box in enumerate(boxes_xywh.tolist()):
            entry = {
                "id": len(entries) + 1,
                "image_id": image.image_id,
                "category_id": category_ids[int(image.boxes.class_ids[position])],
                "bbox": box,
                "area": float(image.areas[position]),
                "iscrowd": int(image.boxes.is_crowd[position]),
            }
            mask = image.masks[position] if image.masks else None
            entries.append(entry if mask is None else {**entry, "segmentation": mask_to_coco(mask)})
    return {
        "images": _image_entries(annotations),
        "annotations": entries,
        "categories": _class_entries(annotations),
    }


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
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a COCO file: {error}") from error
    except (ValueError, RecursionError) as error:
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


def _read_images(path: Path, content: Mapping[str, Any], omissions: Omissions) -> list[_Image]:
    images: list[_Image] = []
    seen_ids: set[int] = set()
    seen_names: set[str] = set()
    for position, entry in enumerate(content["images"]):
        try:
            image = _read_image(f"{path}: images[{position}]", entry)
            if image.image_id in seen_ids or image.file_name in seen_names:
                named = f"image id {image.image_id} or file name {image.file_name!r}"
                raise DatasetError(f"{path}: images[{position}]: {named} is used twice")
        except DatasetError as error:
            omissions.broken(error)
            continue
        seen_ids.add(image.image_id)
        seen_names.add(image.file_name)
        images.append(image)
    if not images:
        raise DatasetError(f"{path}: no images")
    return images


def _read_image(where: str, entry: object) -> _Image:
    image_id, name = _integer(where, _value(where, entry, "id")), safe_name(where, _value(where, entry, "file_name"))
    height, width = (_integer(where, _value(where, entry, key)) for key in ("height", "width"))
    if min(height, width) <= 0:
        raise DatasetError(f"{where}: {name}: an image of {height} x {width} pixels (height x width)")
    return _Image(image_id, name, (height, width))


def _read_entries(
    path: Path,
    content: Mapping[str, Any],
    categories: Categories,
    image_ids: set[int],
    omissions: Omissions,
    *,
    keep_masks: bool,
) -> dict[int, list[Entry]]:
    """The objects of every image id."""
    class_of_category = categories.class_of_category()
    entries: dict[int, list[Entry]] = defaultdict(list)
    for position, content_of_entry in enumerate(content["annotations"]):
        where = f"annotations[{position}]"
        try:
            image_id, entry = _read_entry(path, where, content_of_entry, class_of_category, keep_masks=keep_masks)
            if image_id not in image_ids:
                raise DatasetError(
                    f"{path}: {where}: an annotation of an image that is not listed: image_id {image_id}"
                )
        except DatasetError as error:
            omissions.broken(error)
            continue
        entries[image_id].append(entry)
    return entries


def _read_entry(
    path: Path, position: str, content: object, class_of_category: Mapping[int, int], *, keep_masks: bool
) -> tuple[int, Entry]:
    where = f"{path}: {position}"
    x, y, width, height = _box(where, _value(where, content, "bbox"))
    image_id = _integer(where, _value(where, content, "image_id"))
    category_id = _integer(where, _value(where, content, "category_id"))
    if category_id not in class_of_category:
        raise DatasetError(f"{where}: category_id {category_id} is not listed in categories")
    optional = content if isinstance(content, dict) else {}
    area = _number(where, optional.get("area", width * height))
    is_crowd = bool(_integer(where, optional.get("iscrowd", 0)))
    mask = mask_from_coco(where, optional.get("segmentation")) if keep_masks else None
    box = (x, y, x + width, y + height)
    return image_id, Entry(position, box, class_of_category[category_id], is_crowd, area, mask)


def _value(where: str, entry: object, key: str) -> Any:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object, got {type(entry).__name__}")
    if key not in entry:
        raise DatasetError(f"{where}: no {key!r}")
    return entry[key]


def _integer(where: str, value: object) -> int:
    """Ids and sizes; a float such as 3.0 is what some writers make of 3, a text or a flag is not."""
    is_fraction = isinstance(value, float) and not value.is_integer()  # nor are NaN and infinity whole
    if isinstance(value, bool) or not isinstance(value, int | float) or is_fraction:
        raise DatasetError(f"{where}: expected a whole number, got {value!r}")
    if abs(value) > LARGEST_ID:
        raise DatasetError(f"{where}: too large a number for an id or a size: beyond {LARGEST_ID}")
    return int(value)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DatasetError(f"{where}: expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise DatasetError(f"{where}: too large a number for a box or an area") from error


def _box(where: str, value: object) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DatasetError(f"{where}: bbox must be [x, y, width, height], got {value!r}")
    return [_number(where, side) for side in value]

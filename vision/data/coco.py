"""Read and write COCO detection JSON (cocodataset.org, "Data format", object detection).

Missing keys, unknown ids and duplicate names raise DatasetError. Annotation ids carry nothing and are counted anew;
repeated ones are remarked. Optional fields (area, iscrowd, the size of an image) may be absent or null.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handeye.vision.data.annotations import AnnotationSet, Categories, Entry, Omissions, Remark, build_image, safe_name
from handeye.vision.data.image_files import read_size
from handeye.vision.data.masks import mask_from_coco, mask_to_coco
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.files import write_json

ID_TWICE = "annotation id given twice"
UNUSED_PARENT = "parent category without a box, which becomes a class of the detector all the same"
NO_AREA = "area that is no area; that of the box is taken"
LARGEST_ID = 2**53
"""Beyond it JSON readers of other languages, and the evaluation, no longer tell two ids apart."""


@dataclass(frozen=True, slots=True)
class _Image:
    stated_id: int | str
    file_name: str
    size_hw: tuple[int, int]


def read_coco(
    path: Path, images: Path | None = None, *, keep_masks: bool = False, skip_broken: bool = False
) -> AnnotationSet:
    """Read a COCO detection file; images without objects are kept.

    Class ids count the file's categories in the order of their ids. Sizes that the file does not state are those of
    the image files, in `images` or beside the file. Raises DatasetError naming the file and the entry at fault, or
    leaves that entry out where broken ones are to be skipped; boxes without area, not finite or wholly outside their
    image are always left out. What was left out is listed in `left_out`, what was put right in `remarks`.
    """
    path = Path(path)
    content, folder = _read_object(path), images if images is not None else path.parent
    return parse_coco(content, path, folder, keep_masks=keep_masks, skip_broken=skip_broken)


def parse_coco(
    content: object, origin: Path, folder: Path, *, keep_masks: bool = False, skip_broken: bool = False
) -> AnnotationSet:
    """The same for the content of a COCO detection file; `origin` is its name in messages, `folder` has the images."""
    lists = _require_lists(origin, content)
    omissions = Omissions(skip_broken)
    categories = _read_categories(origin, lists)
    images = _read_images(origin, lists, folder, omissions)
    image_ids = _number_images(images)
    entries = _read_entries(origin, lists, categories, image_ids, omissions, keep_masks=keep_masks)
    built = tuple(
        build_image(
            image_ids[image.stated_id],
            image.file_name,
            image.size_hw,
            entries.get(image_ids[image.stated_id], []),
            omissions,
            keep_masks=keep_masks,
        )
        for image in images
    )
    annotations = AnnotationSet(built, categories, tuple(omissions.left_out), tuple(omissions.remarks))
    return replace(annotations, remarks=(*annotations.remarks, *_unused_parents(origin, lists, annotations)))


def write_coco(path: Path, annotations: AnnotationSet) -> None:
    """Write an AnnotationSet as a COCO detection file, whole or not at all."""
    write_json(path, coco_content(annotations))


def coco_content(annotations: AnnotationSet) -> dict[str, object]:
    """An AnnotationSet as the content of a COCO detection file; annotation ids count from 1."""
    category_ids = annotations.categories.category_ids
    entries: list[dict[str, object]] = []
    for image in annotations.images:
        for position, box in enumerate(image.boxes_xywh.tolist()):
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


def _read_object(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as a COCO file: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON: {error}") from error


def _require_lists(path: Path, content: object) -> dict[str, Any]:
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
        category_id, name = _numbered(where, _value(where, entry, "id")), _class_name(where, entry)
        if category_id in names:
            raise DatasetError(f"{where}: category id {category_id} is used twice")
        if name in names.values():
            twin = next(known for known, other in names.items() if other == name)
            raise DatasetError(f"{where}: the class name {name!r} is used twice (ids {twin} and {category_id})")
        names[category_id] = name
    if not names:
        raise DatasetError(f"{path}: no categories")
    return Categories.from_names(names)


def _unused_parents(path: Path, content: Mapping[str, Any], annotations: AnnotationSet) -> list[Remark]:
    """Roboflow's exports have a category 0 that only groups the others."""
    stated = [(str(entry["name"]), str(entry.get("supercategory"))) for entry in content["categories"]]
    parents = {parent for name, parent in stated if parent != name}
    counted = zip(annotations.categories.names, annotations.boxes_per_class(), strict=True)
    return [Remark(UNUSED_PARENT, f"{path}: {name}") for name, count in counted if name in parents and not count]


def _class_name(where: str, entry: object) -> str:
    """A text, or a number that some writer made of one."""
    name = _value(where, entry, "name")
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise DatasetError(f"{where}: expected the name of a class, got {name!r}")
    return str(name)


def _read_images(path: Path, content: Mapping[str, Any], folder: Path, omissions: Omissions) -> list[_Image]:
    images: list[_Image] = []
    seen_ids: set[int | str] = set()
    seen_names: set[str] = set()
    for position, entry in enumerate(content["images"]):
        try:
            image = _read_image(f"{path}: images[{position}]", entry, folder)
            if image.stated_id in seen_ids or image.file_name in seen_names:
                named = f"image id {image.stated_id} or file name {image.file_name!r}"
                raise DatasetError(f"{path}: images[{position}]: {named} is used twice")
        except DatasetError as error:
            omissions.broken(error)
            continue
        seen_ids.add(image.stated_id)
        seen_names.add(image.file_name)
        images.append(image)
    if not images:
        raise omissions.nothing_left(f"{path}: no images")
    return images


def _read_image(where: str, entry: object, folder: Path) -> _Image:
    stated_id, name = (
        _image_id(where, _value(where, entry, "id")),
        safe_name(where, _value(where, entry, "file_name")),
    )
    sides = [entry.get(key) for key in ("height", "width")] if isinstance(entry, dict) else []
    height, width = (0 if side is None else _integer(where, side) for side in sides)
    if min(height, width) > 0:
        return _Image(stated_id, name, (height, width))
    try:
        return _Image(stated_id, name, read_size(folder / name))
    except SourceError as error:
        raise DatasetError(f"{where}: states no size, and the image cannot tell it: {error}") from error


def _number_images(images: Iterable[_Image]) -> dict[int | str, int]:
    """The image id of each that the file states: numbers stay, texts are counted on from the largest."""
    stated = [image.stated_id for image in images]
    numbers = [each for each in stated if isinstance(each, int)]
    texts = (each for each in stated if isinstance(each, str))
    return {each: each for each in numbers} | {
        text: number for number, text in enumerate(texts, start=max([0, *numbers]) + 1)
    }


def _read_entries(
    path: Path,
    content: Mapping[str, Any],
    categories: Categories,
    image_ids: Mapping[int | str, int],
    omissions: Omissions,
    *,
    keep_masks: bool,
) -> dict[int, list[Entry]]:
    """The objects of every image id."""
    class_of_category = categories.class_of_category()
    entries: dict[int, list[Entry]] = defaultdict(list)
    seen_ids: set[int | float | str] = set()
    for position, content_of_entry in enumerate(content["annotations"]):
        where = f"{path}: annotations[{position}]"
        try:
            stated_id = _image_id(where, _value(where, content_of_entry, "image_id"))
            entry = _read_entry(where, position, content_of_entry, class_of_category, keep_masks=keep_masks)
            if stated_id not in image_ids:
                raise DatasetError(f"{where}: an annotation of an image that is not listed: image_id {stated_id}")
        except DatasetError as error:
            omissions.broken(error)
            continue
        entries[image_ids[stated_id]].append(entry)
        _remark(where, content_of_entry, entry, seen_ids, omissions)
    return entries


def _read_entry(
    where: str, position: int, content: object, class_of_category: Mapping[int, int], *, keep_masks: bool
) -> Entry:
    x, y, width, height = _box(where, _value(where, content, "bbox"))
    category_id = _numbered(where, _value(where, content, "category_id"))
    if category_id not in class_of_category:
        raise DatasetError(f"{where}: category_id {category_id} is not listed in categories")
    optional = content if isinstance(content, dict) else {}
    return Entry(
        f"annotations[{position}]",
        (x, y, x + width, y + height),
        class_of_category[category_id],
        _flag(where, optional.get("iscrowd")),
        _area(where, optional.get("area")),
        mask_from_coco(where, optional.get("segmentation")) if keep_masks else None,
        (x, y, width, height),
    )


def _remark(
    where: str, content: Mapping[str, Any], entry: Entry, seen_ids: set[int | float | str], omissions: Omissions
) -> None:
    annotation_id = content.get("id")
    if isinstance(annotation_id, int | float | str):
        if annotation_id in seen_ids:
            omissions.remark(ID_TWICE, f"{where}: id {annotation_id!r}")
        seen_ids.add(annotation_id)
    if entry.area is None and content.get("area") is not None:
        omissions.remark(NO_AREA, f"{where}: area {content['area']!r}")


def _value(where: str, entry: object, key: str) -> Any:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object, got {type(entry).__name__}")
    if key not in entry:
        raise DatasetError(f"{where}: no {key!r}")
    return entry[key]


def _image_id(where: str, value: object) -> int | str:
    """A number, or a text that is none."""
    is_name = isinstance(value, str) and value.strip() and not _is_digits(value)
    return str(value) if is_name else _numbered(where, value)


def _numbered(where: str, value: object) -> int:
    """An id; some writers make "3" of 3."""
    return _integer(where, int(value) if isinstance(value, str) and _is_digits(value) else value)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(LARGEST_ID))


def _flag(where: str, value: object) -> bool:
    """A field that may be absent, null, a flag or a number."""
    return value if isinstance(value, bool) else bool(_integer(where, 0 if value is None else value))


def _area(where: str, value: object) -> float | None:
    """None, the area of the box, where the field is absent, null or no area."""
    area = math.nan if value is None else _number(where, value)
    return area if math.isfinite(area) and area >= 0 else None


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

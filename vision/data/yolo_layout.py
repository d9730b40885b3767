"""Where a YOLO set keeps images, labels and class names: data.yaml, Darknet's obj.data, a folder, or an image list.

What is on disk decides, not one part of a path. Exporters write paths that begin one folder too high ("../train",
Darknet's "data/..."), and folders that keep the labels beside the images.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from handeye.vision.data.annotations import Categories
from handeye.vision.data.voc import CLASSES_NAME
from handeye.vision.errors import DatasetError
from handeye.vision.files import read_class_names, read_text
from handeye.vision.images import list_images

DATA_NAME = "data.yaml"
DARKNET_DATA, DARKNET_NAMES = "obj.data", "obj.names"
SPLITS = {"train": "train", "val": "valid", "test": "test"}
"""The splits of a data.yaml, and what obj.data and some exporters call them."""
NO_LABELS = frozenset({CLASSES_NAME, "labels.txt", "train.txt", "val.txt", "valid.txt", "test.txt"})
"""Text files beside images or labels that are none."""


@dataclass(frozen=True, slots=True)
class YoloSource:
    """The images of a set, the folder to which their names are relative, the classes, and how its lines are read."""

    images: Sequence[Path]
    folder: Path
    labels: Path | None
    """The folder that the user named, where labels may lie too."""
    categories: Categories
    kpt_shape: tuple[int, int] | None
    """Keypoints of each object and numbers of each keypoint, (0, 0) for none; None where data.yaml does not say."""


def find_set(path: Path, images: Path | None, split: str) -> YoloSource:
    """The images and classes of a data.yaml or obj.data (its split), a folder, or a list of image paths."""
    path, images = _absolute(path), None if images is None else _absolute(images)
    path = description_in(path) or path
    if is_description(path):
        return _described(path, images, split)
    if path.is_dir():
        folder = images or _images_beside(path)
        files = list_images(folder, recursive=True)
    else:
        files = _listed(path)
        folder = images or _common_folder(files, path.parent)
    categories, kpt_shape = _classes_above(path, swapped(folder / "x", "images", "labels"))
    return YoloSource(_below(files, folder), folder, path if path.is_dir() else None, categories, kpt_shape)


def label_of(image: Path, source: YoloSource) -> Path:
    """The label file of an image: in labels/ for an image in images/, else beside the image or in the folder named.

    The first of these places where there is none: an image without objects.
    """
    places = [swapped(image, "images", "labels").with_suffix(".txt"), image.with_suffix(".txt")]
    if source.labels is not None:
        name = image.relative_to(source.folder).with_suffix(".txt")
        places += [source.labels / name, source.labels / "labels" / name]
    return next((place for place in places if place.is_file()), places[0])


def labels_without_image(labels: Iterable[Path]) -> list[Path]:
    """Label files beside the labels of a set that belong to no image, of another split neither."""
    expected = set(labels)
    found: list[Path] = []
    for folder in {label.parent for label in expected}:
        texts = {file for file in folder.glob("*.txt") if not file.name.startswith(".") and file.name not in NO_LABELS}
        places = (folder, swapped(folder, "labels", "images"))
        stems = {image.stem for place in places for image in list_images(place)}
        found += [file for file in texts - expected if file.stem not in stems]
    return sorted(found)


def description_in(path: Path) -> Path | None:
    """The data.yaml or obj.data of a folder, or the path itself where it is one; None where there is none."""
    if path.is_dir():
        return next((path / name for name in (DATA_NAME, DARKNET_DATA) if (path / name).is_file()), None)
    return path if is_description(path) else None


def is_description(path: Path) -> bool:
    """Whether a file is a data.yaml or obj.data by its suffix."""
    return path.suffix.lower() in (".yaml", ".yml", ".data") and not path.is_dir()


def stated_splits(path: Path) -> tuple[str, ...]:
    """The splits that a data.yaml or obj.data names."""
    content = _read_description(path)
    return tuple(split for split in SPLITS if content.get(split))


def swapped(path: Path, part: str, other: str) -> Path:
    """The path with its last folder called `part` called `other`; the path itself where it has none."""
    parts = list(path.parts)
    for position in range(len(parts) - 1, -1, -1):
        if parts[position] == part:
            parts[position] = other
            break
    return Path(*parts)


class _TextLoader(yaml.BaseLoader):
    """Every scalar stays text, because a class may be called no, on or 1.10; a key written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _described(path: Path, images: Path | None, split: str) -> YoloSource:
    content = _read_description(path)
    stated = content.get(split)
    if not stated:
        others = ", ".join(stated_splits(path)) or "none"
        raise DatasetError(f"{path}: names no folder for the split {split!r}; it has {others}")
    places = stated if isinstance(stated, list) else [stated]
    found = [_place(path, content.get("path"), str(place)) for place in places]
    files = [
        file for place in found for file in (list_images(place, recursive=True) if place.is_dir() else _listed(place))
    ]
    folder = images or (found[0] if len(found) == 1 and found[0].is_dir() else _common_folder(files, path.parent))
    categories, kpt_shape = _classes(path, content)
    return YoloSource(_below(files, folder), folder, None, categories, kpt_shape)


def _read_description(path: Path) -> dict[str, Any]:
    """What a data.yaml or obj.data holds, every scalar as text, without what is null."""
    text = read_text(path)
    if path.suffix.lower() == ".data":
        return _read_darknet(path, text)
    try:
        content = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - it makes text, lists and tables only
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DatasetError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected keys such as train and names")
    return _with_usual_splits({key: value for key, value in content.items() if value not in ("", "~", "null")})


def _read_darknet(path: Path, text: str) -> dict[str, Any]:
    pairs = (line.partition("=") for line in text.splitlines())
    stated = {key.strip(): value.strip() for key, _, value in pairs if value.strip()}
    if "names" not in stated:
        raise DatasetError(f"{path}: expected lines such as names = data/{DARKNET_NAMES}")
    return _with_usual_splits(stated) | {"names": list(read_class_names(_resolve(path.parent, stated["names"])))}


def _with_usual_splits(content: dict[str, Any]) -> dict[str, Any]:
    """What the file calls valid is the split val, unless it has both."""
    return {split: content[other] for split, other in SPLITS.items() if other in content} | content


def _place(path: Path, root: object, place: str) -> Path:
    """A split's folder or list: below the folder that `path:` names, or beside the file."""
    base = _resolve(path.parent, str(root)) if root else path.parent
    candidates = (_resolve(base, place), _resolve(path.parent, place))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DatasetError(f"{path}: there is no {candidates[0]}")


def _resolve(folder: Path, stated: str) -> Path:
    """Where a stated path leads: from the folder, or from the one above, which may have been renamed since."""
    text = stated.replace("\\", "/")
    from_above = Path(*PurePosixPath(text).parts[1:])
    candidates = (folder / text, folder / from_above) if from_above.parts else (folder / text,)
    return _absolute(next((candidate for candidate in candidates if candidate.exists()), candidates[0]))


def _images_beside(folder: Path) -> Path:
    """The folder of images that belongs to a folder of a set, of its images or of its labels."""
    if (folder / "images").is_dir():
        return folder / "images"
    beside = swapped(folder, "labels", "images")
    return beside if beside.is_dir() and not list_images(folder, recursive=True) else folder


def _listed(path: Path) -> list[Path]:
    """Image paths of a text file, relative to its folder."""
    return [_resolve(path.parent, line.strip()) for line in read_text(path).splitlines() if line.strip()]


def _absolute(path: Path) -> Path:
    """Without dots, so that paths can be compared; links stay, because loops of them have no end."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _below(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files, each once; DatasetError where one is not below the folder to which names are to be relative."""
    unique = list(dict.fromkeys(files))
    if outside := [file for file in unique if not file.is_relative_to(folder)]:
        raise DatasetError(f"{outside[0]}: is not below the folder of images {folder}")
    return unique


def _common_folder(files: Sequence[Path], default: Path) -> Path:
    return Path(os.path.commonpath([file.parent for file in files])) if files else default


def _classes_above(path: Path, label: Path) -> tuple[Categories, tuple[int, int] | None]:
    """Names from data.yaml, classes.txt or obj.names in the folder of the set, of its labels, or above."""
    places = [path if path.is_dir() else path.parent, label.parent, *label.parents[1:3]]
    for place in dict.fromkeys(places):
        for name in (CLASSES_NAME, DARKNET_NAMES):
            if (place / name).is_file():
                return _classes(place / name, {"names": list(read_class_names(place / name))})
        if (place / DATA_NAME).is_file():
            return _classes(place / DATA_NAME, _read_description(place / DATA_NAME))
    known = f"{DATA_NAME}, {CLASSES_NAME} or {DARKNET_NAMES}"
    raise DatasetError(f"{path}: the names of the classes are missing; put a {known} beside it")


def _classes(path: Path, content: dict[str, Any]) -> tuple[Categories, tuple[int, int] | None]:
    names = content.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    table = names if isinstance(names, dict) else {}
    numbered = {int(key): name for key, name in table.items() if key.isdecimal()}
    is_text = all(isinstance(name, str) for name in numbered.values())
    if not numbered or not is_text or sorted(numbered) != list(range(len(table))):
        raise DatasetError(f"{path}: names must be a list, or a table with the keys 0, 1, 2, ... without a gap")
    if twice := [name for name, count in Counter(numbered.values()).items() if count > 1]:
        raise DatasetError(f"{path}: names has {twice[0]!r} twice")
    return Categories.from_names(numbered), _kpt_shape(path, content.get("kpt_shape"))


def _kpt_shape(path: Path, stated: Any) -> tuple[int, int] | None:
    if stated is None:
        return None
    try:
        count, dims = (int(number) for number in stated)
    except (TypeError, ValueError):
        count, dims = -1, -1
    if count < 0 or (count and dims not in (2, 3)):
        raise DatasetError(f"{path}: kpt_shape: expected keypoints and 2 or 3 numbers each, got {stated}")
    return (count, dims) if count else (0, 0)

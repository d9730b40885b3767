"""Read and write Pascal VOC folders: one XML file for each image (VOC2007 development kit, section "Annotations").

Corners are read as continuous pixels, without the 1 that VOC's pixel counting would subtract: that is what today's
labelling tools write. "difficult" objects are to VOC what crowds are to COCO: neither learnt nor counted as missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, TreeBuilder, indent
from xml.parsers import expat

from handeye.vision.data.annotations import (
    AnnotationSet,
    Categories,
    Entry,
    ImageAnnotations,
    Omissions,
    build_image,
    safe_name,
)
from handeye.vision.data.image_files import read_size
from handeye.vision.errors import DatasetError, SourceError
from handeye.vision.files import read_class_names, read_text
from handeye.vision.images import IMAGE_SUFFIXES

CLASSES_NAME = "classes.txt"
"""Names in the order of the class ids, one a line; VOC itself has no such list."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = {"": False, "unspecified": False, "false": False, "no": False, "none": False, "true": True, "yes": True}
"""Words that stand where VOC has 0 and 1."""


def read_voc(path: Path, images: Path | None = None, *, skip_broken: bool = False) -> AnnotationSet:
    """Read a VOC folder, a folder of XML files, or an image list such as ImageSets/Main/train.txt.

    Classes are the lines of classes.txt, or all names in the folder in alphabetical order, so that every list of a
    folder has the same; image ids count from 1. `images` is where the files lie, JPEGImages by default; it is needed
    where the XML states no size. Raises DatasetError naming the file at fault, unless broken ones are to be skipped.
    """
    source = _find(Path(path))
    omissions = Omissions(skip_broken)
    roots: dict[str, Element] = {}
    for name in _names_to_read(source):
        try:
            roots[name] = _parse(source.annotations / f"{name}.xml")
        except DatasetError as error:
            if name in source.names:
                omissions.broken(error)
    categories = _categories(source, roots)
    class_of_name = {name: class_id for class_id, name in enumerate(categories.names)}
    built: list[ImageAnnotations] = []
    for name in source.names:
        if name not in roots:
            continue
        try:
            built.append(_build(source, name, roots[name], class_of_name, images, len(built) + 1, omissions))
        except DatasetError as error:
            omissions.broken(error)
    if not built:
        raise omissions.nothing_left(f"{path}: no annotated images")
    return AnnotationSet(tuple(built), categories, tuple(omissions.left_out))


def write_voc(folder: Path, annotations: AnnotationSet) -> None:
    """Write Annotations/, ImageSets/Main/all.txt and classes.txt into a folder; VOC holds no masks or areas."""
    names = annotations.categories.names
    for image in annotations.images:
        target = folder / "Annotations" / Path(image.file_name).with_suffix(".xml")
        target.parent.mkdir(parents=True, exist_ok=True)
        tree = ElementTree(_to_xml(image, names))
        indent(tree)
        tree.write(target, encoding="utf-8", xml_declaration=True)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    stems = [str(Path(image.file_name).with_suffix("")) for image in annotations.images]
    (lists / "all.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    (folder / CLASSES_NAME).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def voc_root(path: Path) -> Path | None:
    """The folder that holds Annotations/ and of which `path` is an image list; None where there is none."""
    return next((parent for parent in Path(path).absolute().parents if (parent / "Annotations").is_dir()), None)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the XML files of a set lie, and the names (without suffix) of those that belong to it."""

    root: Path
    annotations: Path
    names: tuple[str, ...]


def _find(path: Path) -> _Source:
    if path.is_dir():
        annotations = path / "Annotations" if (path / "Annotations").is_dir() else path
        names = tuple(sorted(_names_in(annotations)))
        if not names:
            raise DatasetError(f"{path}: no XML file in {annotations}")
        return _Source(path, annotations, names)
    root = voc_root(path)
    if root is None:
        raise DatasetError(f"{path}: an image list needs a folder Annotations above it")
    lines = read_text(path).splitlines()
    # Lists of a single class have a second column; the name of an image holds no space there.
    rows = [line.strip() for line in lines if line.strip()]
    known = (name if (root / "Annotations" / f"{name}.xml").exists() else name.split()[0] for name in rows)
    return _Source(root, root / "Annotations", tuple(safe_name(str(path), name) for name in known))


def _names_to_read(source: _Source) -> Sequence[str]:
    """A list's own files, and all others too where the classes are known from all files only."""
    if (source.root / CLASSES_NAME).is_file():
        return source.names
    return sorted(_names_in(source.annotations) | set(source.names))


def _names_in(folder: Path) -> set[str]:
    """Of every XML file below the folder the path without its suffix; hidden ones are companions that macOS leaves."""
    files = (file for file in folder.rglob("*.xml") if not file.name.startswith("."))
    return {file.relative_to(folder).with_suffix("").as_posix() for file in files}


def _parse(path: Path) -> Element:
    """The root element. A document type raises DatasetError: it could declare entities that expand without end."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise DatasetError(f"{path}: has a document type declaration, which no VOC annotation needs")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)  # noqa: FBT003 - it takes no keywords
        root = builder.close()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (expat.ExpatError, ValueError, AssertionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: not valid XML: {error}") from error
    if root.tag != "annotation":
        raise DatasetError(f"{path}: expected the element annotation, got {root.tag}")
    return root


def _categories(source: _Source, roots: Mapping[str, Element]) -> Categories:
    if (source.root / CLASSES_NAME).is_file():
        names = read_class_names(source.root / CLASSES_NAME)
    else:
        found = (element.findtext("name", "").strip() for root in roots.values() for element in root.iter("object"))
        names = tuple(sorted({name for name in found if name}))
    return Categories(tuple(range(1, len(names) + 1)), names)


def _build(
    source: _Source,
    name: str,
    root: Element,
    class_of_name: Mapping[str, int],
    images: Path | None,
    image_id: int,
    omissions: Omissions,
) -> ImageAnnotations:
    where = str(source.annotations / f"{safe_name(str(source.annotations), name)}.xml")
    folder = images if images is not None else source.root / "JPEGImages"
    file_name = _file_name(where, name, root, folder)
    size_hw = _size(where, root, folder / file_name)
    entries = []
    for position, element in enumerate(root.findall("object")):
        try:
            entries.append(_entry(where, f"object[{position}]", element, class_of_name))
        except DatasetError as error:
            omissions.broken(error)
    return build_image(image_id, file_name, size_hw, entries, omissions)


def _file_name(where: str, name: str, root: Element, folder: Path) -> str:
    """The image with the name of the XML file where it exists, because tools leave stale file names inside."""
    stated = (root.findtext("filename") or "").strip()
    suffixes = [Path(stated).suffix, *sorted(IMAGE_SUFFIXES)]
    beside = (f"{name}{suffix}" for suffix in suffixes if suffix)
    return safe_name(where, next((known for known in beside if (folder / known).is_file()), stated or f"{name}.jpg"))


def _size(where: str, root: Element, image: Path) -> tuple[int, int]:
    """Height and width as stated, or of the image itself where the file states none or 0."""
    try:
        height, width = (int(float(root.findtext(f"size/{side}", "0"))) for side in ("height", "width"))
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where}: size must be two whole numbers: {error}") from error
    if height > 0 and width > 0:
        return height, width
    try:
        return read_size(image)
    except SourceError as error:
        raise DatasetError(f"{where}: states no size, and the image cannot tell it: {error}") from error


def _entry(where: str, position: str, element: Element, class_of_name: Mapping[str, int]) -> Entry:
    name = element.findtext("name", "").strip()
    if name not in class_of_name:
        raise DatasetError(f"{where}: {position}: the class {name!r} is not among {', '.join(class_of_name) or 'none'}")
    corners = [element.findtext(f"bndbox/{corner}") for corner in CORNERS]
    try:
        x1, y1, x2, y2 = (float(corner or "missing") for corner in corners)
    except ValueError as error:
        raise DatasetError(f"{where}: {position}: expected numbers for {', '.join(CORNERS)}: {error}") from error
    is_difficult = _is_difficult(f"{where}: {position}", element)
    return Entry(position, (x1, y1, x2, y2), class_of_name[name], is_crowd=is_difficult)


def _is_difficult(where: str, element: Element) -> bool:
    """Optional: absent, empty and Unspecified (what VOC's own tool wrote for pose) mean no."""
    word = element.findtext("difficult", "").strip().lower()
    if word.isdecimal():
        return bool(int(word))
    if word not in DIFFICULT:
        raise DatasetError(f"{where}: difficult is {word!r}, expected 0 or 1")
    return DIFFICULT[word]


def _to_xml(image: ImageAnnotations, names: Sequence[str]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = image.file_name
    size = SubElement(root, "size")
    for tag, side in zip(("width", "height", "depth"), (image.size_hw[1], image.size_hw[0], 3), strict=True):
        SubElement(size, tag).text = str(side)
    for box, class_id, crowd in zip(image.boxes.xyxy, image.boxes.class_ids, image.boxes.is_crowd, strict=True):
        element = SubElement(root, "object")
        SubElement(element, "name").text = names[int(class_id)]
        SubElement(element, "difficult").text = str(int(crowd))
        bounds = SubElement(element, "bndbox")
        for corner, edge in zip(CORNERS, box.tolist(), strict=True):
            SubElement(bounds, corner).text = f"{edge:.3f}".rstrip("0").rstrip(".")
    return root

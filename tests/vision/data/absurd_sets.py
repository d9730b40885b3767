"""Data sets broken in every way that people have managed: each case spoils a good set of three images."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from handeye.vision.data.annotations import AnnotationSet
from handeye.vision.data.coco import coco_content, write_coco

Spoil = Callable[[Path, Path, AnnotationSet], None]
"""Spoils (annotation file, folder of images, the set that both hold)."""


def edit(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the content of the COCO file."""

    def spoil(file: Path, _: Path, annotations: AnnotationSet) -> None:
        content: dict[str, Any] = json.loads(json.dumps(coco_content(annotations)))
        change(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    return spoil


def rewrite(change: Callable[[bytes], bytes]) -> Spoil:
    """Change the bytes of the COCO file."""
    return lambda file, _, __: file.write_bytes(change(file.read_bytes())) and None


def picture(make: Callable[[Path], object]) -> Spoil:
    """Put something else in the place of the image 1.png."""

    def spoil(_: Path, images: Path, __: AnnotationSet) -> None:
        path = images / "1.png"
        path.unlink()
        make(path)

    return spoil


def renamed(name: str, write: Callable[[Path], object]) -> Spoil:
    """Give the image 1.png another name, in the file and on disk, and write it in another way."""

    def spoil(file: Path, images: Path, annotations: AnnotationSet) -> None:
        content: dict[str, Any] = json.loads(json.dumps(coco_content(annotations)))
        content["images"][1]["file_name"] = name
        file.write_text(json.dumps(content), encoding="utf-8")
        (images / "1.png").unlink()
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        write(images / name)

    return spoil


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def colours(height: int = 40, width: int = 50) -> np.ndarray:
    return cv2.resize(np.random.default_rng(5).integers(0, 256, (5, 6, 3), dtype=np.uint8), (width, height))


def exif_jpeg(pixels: np.ndarray, orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment, jpeg = b"Exif\0\0" + tiff, encoded(".jpg", pixels)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of some hundred bytes that declares billions of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def pillow(mode: str, suffix: str) -> Callable[[Path], object]:
    """Write the colours in a mode that OpenCV does not write."""

    def write(path: Path) -> None:
        from PIL import Image

        image = Image.fromarray(colours())
        image = image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)
        image.save(path, format=suffix)

    return write


def many_boxes(content: dict[str, Any]) -> None:
    corners = np.random.default_rng(0).uniform(0, 30, (20_000, 2))
    template = content["annotations"][0]
    content["annotations"] = [
        {**template, "id": number + 1, "bbox": [*corner, 6.0, 6.0], "area": 36.0}
        for number, corner in enumerate(corners.tolist())
    ]


def set_box(content: dict[str, Any], box: list[float]) -> None:
    content["annotations"][0]["bbox"] = box


def set_category(content: dict[str, Any], category_id: int) -> None:
    """Give the first category another id, wherever it is named."""
    for entry in content["annotations"]:
        if entry["category_id"] == content["categories"][0]["id"]:
            entry["category_id"] = category_id
    content["categories"][0]["id"] = category_id


def write_good(folder: Path, annotations: AnnotationSet) -> Path:
    write_coco(folder / "a.json", annotations)
    return folder / "a.json"


LONG_NAME = "l" * 240 + ".png"
UNICODE_NAME = "übung ☃ 图像/мой файл (1).png"

REFUSED: dict[str, tuple[Spoil, str]] = {
    "JSON cut in the middle": (rewrite(lambda text: text[: len(text) // 2]), "not valid JSON"),
    "empty JSON": (rewrite(lambda _: b""), "not valid JSON"),
    "image id that no annotation knows": (edit(lambda c: c["images"][1].update(id="two")), "not listed: image_id 2"),
    "image id twice": (edit(lambda c: c["images"][1].update(id=1)), "is used twice"),
    "annotation of no image": (edit(lambda c: c["annotations"][1].update(image_id=99)), "image_id 99"),
    "unknown category": (edit(lambda c: c["annotations"][1].update(category_id=77)), "category_id 77"),
    "huge category id": (edit(lambda c: set_category(c, 10**40)), "too large a number"),
    "category id of text": (edit(lambda c: c["annotations"][1].update(category_id="one")), "number, got 'one'"),
    "id of 400 digits": (edit(lambda c: c["images"][1].update(id=10**400)), "too large a number"),
    "box of 400 digits": (edit(lambda c: set_box(c, [0, 0, 10**400, 5])), "too large a number"),
    "null for an id": (edit(lambda c: c["annotations"][1].update(image_id=None)), "expected a whole number, got None"),
    "text in place of an object": (
        edit(lambda c: c["annotations"].__setitem__(1, "box")),
        "expected an object, got str",
    ),
    "half a character in a name": (
        edit(lambda c: c["images"][1].update(file_name="\ud83d.png")),
        "below the image folder",
    ),
    "line break in a name": (edit(lambda c: c["images"][1].update(file_name="1\n.png")), "below the image folder"),
    "size with a fraction": (edit(lambda c: c["images"][1].update(width=50.5)), "expected a whole number, got 50.5"),
    "name that climbs out": (edit(lambda c: c["images"][1].update(file_name="../../1.png")), "below the image folder"),
    "no images at all": (edit(lambda c: c.update(images=[], annotations=[])), "no images"),
    "box of text": (edit(lambda c: set_box(c, ["1", 2, 3, 4])), "expected a number, got '1'"),  # type: ignore[list-item]
    "missing image": (picture(lambda _: None), "1 of 3 images are missing"),
    "folder in place of an image": (picture(lambda path: path.mkdir()), "1 of 3 images are missing"),
    "link in a loop": (picture(lambda path: path.symlink_to(path)), "1 of 3 images are missing"),
    "link to nothing": (picture(lambda path: path.symlink_to("nowhere")), "1 of 3 images are missing"),
    "empty file": (picture(lambda path: path.write_bytes(b"")), "is empty"),
    "text in place of an image": (picture(lambda path: path.write_text("hello")), "is not an image"),
    "PNG cut off": (picture(lambda path: path.write_bytes(encoded(".png", colours())[:300])), "is cut off"),
    "JPEG cut off": (
        renamed("1.jpg", lambda path: path.write_bytes(encoded(".jpg", colours())[:-200])),
        "is cut off",
    ),
    "image of another size": (picture(lambda path: path.write_bytes(encoded(".png", colours(30, 30)))), "is 30 x 30"),
    "decompression bomb": (picture(lambda path: path.write_bytes(bomb())), "declares 60000 x 60000 pixels"),
    "annotations of the picture as stored, which EXIF turns": (
        renamed("1.jpg", lambda path: path.write_bytes(exif_jpeg(colours(40, 50), 6))),
        "is its EXIF orientation the reason?",
    ),
}
"""What training refuses in one line, and leaves out by name where skip_broken is set."""

SURVIVED: dict[str, tuple[Spoil, int]] = {
    "NaN in a box": (edit(lambda c: set_box(c, [float("nan"), 1, 5, 5])), 2),
    "infinite box": (edit(lambda c: set_box(c, [0, 0, float("inf"), 5])), 2),
    "box beyond single precision": (edit(lambda c: set_box(c, [0, 0, 1e300, 5])), 2),
    "box over a billion pixels": (edit(lambda c: set_box(c, [-5e8, -5e8, 1e9, 1e9])), 2),
    "zero area": (edit(lambda c: set_box(c, [3, 3, 0, 5])), 2),
    "box outside": (edit(lambda c: set_box(c, [500, 3, 5, 5])), 2),
    "box over the edge": (edit(lambda c: set_box(c, [-20, -20, 500, 500])), 3),
    "no annotations at all": (edit(lambda c: c.update(annotations=[])), 0),
    "category id 0": (edit(lambda c: set_category(c, 0)), 3),
    "negative category id": (edit(lambda c: set_category(c, -5)), 3),
    "whole numbers written as floats": (edit(lambda c: c["images"][1].update(width=50.0, height=40.0)), 3),
    "annotation id twice": (edit(lambda c: c["annotations"][1].update(id=1)), 3),
    "byte order mark": (rewrite(lambda text: b"\xef\xbb\xbf" + text), 3),
    "Windows line ends": (rewrite(lambda text: text.replace(b"\n", b"\r\n")), 3),
    "20,000 boxes in one image": (edit(many_boxes), 20_000),
    "unicode, spaces and folders in a name": (
        renamed(UNICODE_NAME, lambda path: path.write_bytes(encoded(".png", colours()))),
        3,
    ),
    "very long name": (renamed(LONG_NAME, lambda path: path.write_bytes(encoded(".png", colours()))), 3),
    "PNG named .jpg": (renamed("1.jpg", lambda path: path.write_bytes(encoded(".png", colours()))), 3),
    "grey": (picture(lambda path: path.write_bytes(encoded(".png", colours()[..., 0]))), 3),
    "16 bits": (picture(lambda path: path.write_bytes(encoded(".png", colours().astype(np.uint16) * 257))), 3),
    "16 bits of grey in a TIFF": (
        renamed("1.tif", lambda path: path.write_bytes(encoded(".tif", colours()[..., 0].astype(np.uint16) * 257))),
        3,
    ),
    "grey with transparency": (picture(pillow("LA", "PNG")), 3),
    "one bit": (picture(pillow("1", "PNG")), 3),
    "transparency": (picture(pillow("RGBA", "PNG")), 3),
    "palette": (picture(pillow("P", "PNG")), 3),
    "GIF": (renamed("1.gif", pillow("P", "GIF")), 3),
    "CMYK JPEG": (renamed("1.jpg", pillow("CMYK", "JPEG")), 3),
    "EXIF turn, annotated upright": (
        renamed("1.jpg", lambda path: path.write_bytes(exif_jpeg(colours(50, 40), 6))),
        3,
    ),
}
"""What can be trained on, with the number of boxes that are left."""

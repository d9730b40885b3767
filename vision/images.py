"""Read and preprocess images: resize, letterbox, normalise, for training and at run time; map boxes back to the image.

The defaults are YOLOX's convention (section "preproc" of its data_augment.py): BGR, 0..255, aspect ratio kept,
placed top-left, the rest filled with 114. Deployed models carry a `Preprocessing` inside their file, so that what
was trained and what runs cannot drift apart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field
from scipy.sparse import csr_array
from typing_extensions import assert_never

from handeye.vision.config import Config
from handeye.vision.errors import SourceError, UserError
from handeye.vision.files import replacing
from handeye.vision.jpeg import decode_jpeg, is_cut_off

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for names in ("avif bmp dib gif jfif jp2 jpe", "jpeg jpg pbm pgm png pnm", "ppm tif tiff webp")
    for name in names.split()
)
"""Suffixes of the files that are taken for images, in lower case."""
HEIF_BRANDS = {
    b"avif",
    b"avis",
    b"heic",
    b"heim",
    b"heis",
    b"heix",
    b"hevc",
    b"hevm",
    b"hevs",
    b"hevx",
    b"mif1",
    b"msf1",
}
"""Of HEIC and AVIF images, which share their container with mp4."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue on the scale 0..1, as all published weights that start from it have them."""


class Preprocessing(Config):
    """How an RGB image becomes a network input: input = (pixel * scale - mean) / std, channel by channel."""

    size_hw: tuple[PositiveInt, PositiveInt] = (416, 416)
    """Height and width of the network input in pixels."""
    resize: Literal["letterbox", "stretch", "shorter_side"] = "letterbox"
    """letterbox keeps the aspect ratio and pads right and below; stretch fills the input whatever the ratio.

    shorter_side keeps the ratio and pads nothing: the input is as large as the image with its shorter side at the
    smaller number of size_hw, or smaller so that its longer side keeps to the larger number.
    """
    antialias: bool = False
    """Antialias when shrinking (PIL's bilinear filter) instead of reading the nearest four pixels only."""
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    """Value of the padding, on the 0..255 scale of the pixels."""
    colour: Literal["rgb", "bgr"] = "bgr"
    """Order of the channels in the network input."""
    scale: PositiveFloat = 1.0
    """Factor on the 0..255 pixel values; 1/255 gives 0..1."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted after scaling, in the order of `colour`."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    """Divided by after the mean is subtracted, in the order of `colour`."""


@dataclass(frozen=True, slots=True)
class ResizeTransform:
    """Where an image lies in the network input: input = image * scale, the image's top-left corner at (0, 0)."""

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale_x: float
    scale_y: float

    def boxes_to_image(
        self, boxes_xyxy: Float32[np.ndarray, "N 4"], *, clip: bool = True
    ) -> Float32[np.ndarray, "N 4"]:
        """Boxes in pixels of the network input -> pixels of the original image, clipped to it by default."""
        boxes = boxes_xyxy / self._scales()
        if not clip:
            return boxes
        height, width = self.image_hw
        return np.clip(boxes, np.float32(0), np.array([width, height, width, height], np.float32))

    def boxes_to_input(self, boxes_xyxy: Float32[np.ndarray, "N 4"]) -> Float32[np.ndarray, "N 4"]:
        """Boxes in pixels of the original image -> pixels of the network input."""
        return boxes_xyxy * self._scales()

    def _scales(self) -> Float32[np.ndarray, "4"]:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)


def preprocess(
    image_rgb: UInt8[np.ndarray, "h w 3"],
    preprocessing: Preprocessing,
    out: Float32[np.ndarray, "3 H W"] | None = None,
) -> tuple[Float32[np.ndarray, "3 H W"], ResizeTransform]:
    """Resize, pad, order the channels and normalise one image; `out` is filled and returned when given.

    Resizing happens on 8-bit values: by OpenCV's bilinear interpolation, as YOLOX does it, or with `antialias` by the
    filter that PIL calls bilinear, as DETR and RT-DETR do it. Raises ValueError for an empty image.
    """
    canvas, transform = fit_image(image_rgb, preprocessing)
    order = (0, 1, 2) if preprocessing.colour == "rgb" else (2, 1, 0)
    if out is None:
        out = np.empty((3, *transform.input_hw), np.float32)
    for channel, source in enumerate(order):
        out[channel] = cv2.extractChannel(canvas, source)
    _normalise(out, preprocessing)
    return out, transform


def fit_image(
    image_rgb: UInt8[np.ndarray, "h w 3"], preprocessing: Preprocessing
) -> tuple[UInt8[np.ndarray, "H W 3"], ResizeTransform]:
    """The resized and padded image, still RGB and 0..255, and where it lies. Raises ValueError for an empty image."""
    transform, resized_hw = resize_transform(image_rgb.shape[:2], preprocessing)
    return _fit(image_rgb, resized_hw, preprocessing), transform


def resize_transform(
    image_hw: tuple[int, int], preprocessing: Preprocessing
) -> tuple[ResizeTransform, tuple[int, int]]:
    """The ResizeTransform of an image of that size, and its resized (height, width) in pixels.

    letterbox truncates the resized size to whole pixels but scales boxes by the exact ratio, as YOLOX does.
    """
    height, width = image_hw
    if height < 1 or width < 1:
        raise ValueError(f"expected an image of at least one pixel, got height {height} and width {width}")
    input_height, input_width = preprocessing.size_hw
    match preprocessing.resize:
        case "letterbox":
            ratio = min(input_height / height, input_width / width)
            resized = max(1, int(height * ratio)), max(1, int(width * ratio))
            return ResizeTransform((height, width), preprocessing.size_hw, ratio, ratio), resized
        case "stretch":
            resized = preprocessing.size_hw
        case "shorter_side":
            resized = shorter_side_size(image_hw, min(preprocessing.size_hw), max(preprocessing.size_hw))
        case _:
            assert_never(preprocessing.resize)
    return ResizeTransform((height, width), resized, resized[1] / width, resized[0] / height), resized


def shorter_side_size(image_hw: tuple[int, int], shorter: int, longest: int) -> tuple[int, int]:
    """DETR's rule (its datasets/transforms.py): the shorter side as given unless the longer one would exceed `longest`.

    The longer side is cut to whole pixels, but the shorter one rounded where `longest` decides.
    """
    height, width = image_hw
    low, high = min(image_hw), max(image_hw)
    if high / low * shorter > longest:
        shorter = round(longest * low / high)
    if low == shorter:
        return image_hw
    scaled = max(1, int(shorter * high / low))
    return (shorter, scaled) if height < width else (scaled, shorter)


def at_fixed_size(preprocessing: Preprocessing, size_hw: tuple[int, int]) -> Preprocessing:
    """The same for inputs of one size, as batches and exports need them: shorter_side becomes letterbox."""
    resize = "letterbox" if preprocessing.resize == "shorter_side" else preprocessing.resize
    return preprocessing.model_copy(update={"size_hw": size_hw, "resize": resize})


def resize_antialiased(
    image: UInt8[np.ndarray, "h w 3"], resized_hw: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize by a triangle as wide as a pixel of the result, rows and columns in turn, rounded to 8 bits between.

    The filter that PIL calls bilinear; agrees with it to one in 255, where it rounds otherwise. An enlarged image
    is what OpenCV's bilinear interpolation gives.
    """
    height, width = resized_hw
    narrow = _resample_rows(np.ascontiguousarray(cv2.transpose(image)), width)
    return _resample_rows(np.ascontiguousarray(cv2.transpose(narrow)), height)


def list_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Image files of a folder by suffix, in natural order; with `recursive` of its subfolders too.

    Hidden files are left out: half-written ones of a killed process, and macOS's companions. Links are followed, and
    loops of links end.
    """
    found: list[Path] = []
    seen: set[str] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or not recursive:
            subfolders.clear()
        if real not in seen:
            visible = (Path(place, name) for name in names if not name.startswith("."))
            found += [path for path in visible if has_image_suffix(path)]
        seen.add(real)
    return natural_order(found)


def natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sorted with numbers by their value: 2.jpg before 10.jpg, as cameras and editors count their frames."""
    return sorted(paths, key=lambda path: ([_text_and_numbers(part) for part in path.parts], path))


def has_image_suffix(path: Path) -> bool:
    """Whether a file's name is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_heif(head: bytes) -> bool:
    """Whether a file of these first twelve bytes is a HEIC or AVIF image."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image file as 8-bit RGB, upright as its EXIF orientation says.

    Grey images get three equal channels, transparency is dropped, 16-bit values are scaled to 8 bits.
    Raises SourceError naming the file when it is missing, empty, cut off or not an image.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decode_image(content, origin=str(path))


def write_image(path: Path, image_rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write an image in the format of its suffix, whole or not at all.

    Raises UserError for a suffix of no image format, OSError where OpenCV's writer would silently leave a broken file.
    """
    try:
        _, content = cv2.imencode(path.suffix, cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise UserError(f"{path}: this OpenCV cannot write such an image; use .png") from error
    with replacing(path) as beside:
        beside.write_bytes(content.tobytes())


def decode_image(content: bytes, origin: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the bytes of an image file as `read_image` does; `origin` names them in the SourceError."""
    if not content:
        raise SourceError(f"{origin}: is empty")
    if _is_cut_off(content):
        raise SourceError(f"{origin}: is cut off; the end of the image is missing")
    lost = ""
    try:
        if content.startswith(b"\xff\xd8"):
            image_bgr, lost = decode_jpeg(content, origin)
        else:
            image_bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"{origin}: cannot be decoded as an image: {' '.join(str(error).split())}") from error
    if lost:
        raise SourceError(f"{origin}: is damaged, part of the image is missing ({lost})")
    if image_bgr is None and is_heif(content[:12]):
        raise SourceError(f"{origin}: is a HEIC image, which OpenCV does not decode; convert it to JPEG or PNG")
    if image_bgr is None:
        raise SourceError(f"{origin}: is not an image that OpenCV can decode, or it is damaged")
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB, dst=image_bgr)


def _text_and_numbers(name: str) -> list[str | int]:
    """The name cut into text and whole numbers, which take turns, so that lists of two names can be compared."""
    return [int(piece) if index % 2 else piece for index, piece in enumerate(re.split("([0-9]+)", name))]


def _fit(image: np.ndarray, resized_hw: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """The resized image on a padded canvas of the network's input size."""
    height, width = resized_hw
    if preprocessing.antialias:
        resized = resize_antialiased(image, resized_hw)
    else:
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if preprocessing.resize != "letterbox" or resized_hw == preprocessing.size_hw:
        return resized
    input_height, input_width = preprocessing.size_hw
    return cv2.copyMakeBorder(
        resized,
        0,
        input_height - height,
        0,
        input_width - width,
        cv2.BORDER_CONSTANT,
        value=(preprocessing.pad_value,) * 3,
    )


def _resample_rows(image: UInt8[np.ndarray, "h w 3"], num_rows: int) -> UInt8[np.ndarray, "num_rows w 3"]:
    if len(image) == num_rows:
        return image
    mixed = _triangle_weights(len(image), num_rows) @ image.reshape(len(image), -1).astype(np.float32)
    # Halves go up as in PIL, not to even numbers: there are many of them at ratios like 2 or 3/2.
    return cv2.convertScaleAbs(mixed, beta=1e-4).reshape(num_rows, -1, 3)


@lru_cache(maxsize=32)
def _triangle_weights(num_in: int, num_out: int) -> csr_array:
    """(num_out, num_in), sparse: the weight of each row of an image in each row of the resized one."""
    ratio = num_in / num_out
    reach = max(ratio, 1.0)
    centres = (np.arange(num_out) + 0.5) * ratio
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), num_in)
    taken = first[:, None] + np.arange((end - first).max())
    weights = np.maximum(1 - np.abs(taken + 0.5 - centres[:, None]) / reach, 0) * (taken < end[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    row, tap = weights.nonzero()
    return csr_array((weights[row, tap].astype(np.float32), (row, taken[row, tap])), shape=(num_out, num_in))


def _normalise(values: np.ndarray, preprocessing: Preprocessing) -> None:
    """(value * scale - mean) / std in place, skipped where it would change nothing."""
    for plane, mean, std in zip(values, preprocessing.mean, preprocessing.std, strict=True):
        factor, shift = preprocessing.scale / std, -mean / std
        if factor != 1.0:
            plane *= np.float32(factor)
        if shift:
            plane += np.float32(shift)


def _is_cut_off(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; their decoders fill the missing rows with grey and report nothing."""
    if content.startswith(b"\xff\xd8"):
        return is_cut_off(content)
    if content.startswith(b"\x89PNG"):
        return b"IEND\xaeB`\x82" not in content
    return False

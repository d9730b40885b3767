"""One way from an image to the input of a network, for training and for run time, and the way back for boxes.

The defaults are YOLOX's convention (section "preproc" of its data_augment.py): BGR, 0..255, aspect ratio kept,
placed top-left, the rest filled with 114. Deployed models carry a `Preprocessing` inside their file, so that what
was trained and what runs can not drift apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field
from typing_extensions import assert_never

from vision.config import Config
from vision.errors import SourceError

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Preprocessing(Config):
    """How an RGB image becomes a network input: input = (pixel * scale - mean) / std, channel by channel."""

    size_hw: tuple[PositiveInt, PositiveInt] = (416, 416)
    """Height and width of the network input in pixels."""
    resize: Literal["letterbox", "stretch"] = "letterbox"
    """letterbox keeps the aspect ratio and pads right and below; stretch fills the input whatever the ratio."""
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
class Placement:
    """Where an image lies in the network input: input = image * scale, the image's top-left corner at (0, 0)."""

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale_x: float
    scale_y: float

    def boxes_to_image(
        self, boxes_xyxy: Float32[np.ndarray, "N 4"], *, clip: bool = True
    ) -> Float32[np.ndarray, "N 4"]:
        """Boxes in pixels of the network input -> pixels of the original image, clipped to it unless told not to."""
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


def prepare(
    image_rgb: UInt8[np.ndarray, "h w 3"],
    preprocessing: Preprocessing,
    out: Float32[np.ndarray, "3 H W"] | None = None,
) -> tuple[Float32[np.ndarray, "3 H W"], Placement]:
    """Resize, pad, order the channels and normalise one image; `out` is filled and returned when given.

    Resizing is OpenCV's bilinear interpolation on 8-bit values, as YOLOX does it. Raises ValueError for an empty image.
    """
    placement, resized_hw = place(image_rgb.shape[:2], preprocessing)
    canvas = _fit(image_rgb, resized_hw, preprocessing)
    order = (0, 1, 2) if preprocessing.colour == "rgb" else (2, 1, 0)
    if out is None:
        out = np.empty((3, *preprocessing.size_hw), np.float32)
    for channel, source in enumerate(order):
        out[channel] = cv2.extractChannel(canvas, source)
    _normalise(out, preprocessing)
    return out, placement


def place(image_hw: tuple[int, int], preprocessing: Preprocessing) -> tuple[Placement, tuple[int, int]]:
    """The placement of an image of that size, and its resized (height, width) in pixels.

    letterbox truncates the resized size to whole pixels but scales boxes by the exact ratio, as YOLOX does.
    """
    height, width = image_hw
    if height < 1 or width < 1:
        raise ValueError(f"expected an image of at least one pixel, got height {height} and width {width}")
    input_height, input_width = preprocessing.size_hw
    if preprocessing.resize == "letterbox":
        ratio = min(input_height / height, input_width / width)
        resized = max(1, int(height * ratio)), max(1, int(width * ratio))
        return Placement((height, width), preprocessing.size_hw, ratio, ratio), resized
    if preprocessing.resize == "stretch":
        scale_x, scale_y = input_width / width, input_height / height
        return Placement((height, width), preprocessing.size_hw, scale_x, scale_y), preprocessing.size_hw
    assert_never(preprocessing.resize)


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


def decode_image(content: bytes, origin: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode the bytes of an image file as `read_image` does; `origin` names them in the SourceError."""
    if not content:
        raise SourceError(f"{origin}: is empty")
    if _is_cut_off(content):
        raise SourceError(f"{origin}: is cut off; the end of the image is missing")
    try:
        image_bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"{origin}: cannot be decoded as an image: {' '.join(str(error).split())}") from error
    if image_bgr is None:
        raise SourceError(f"{origin}: is not an image that OpenCV can decode, or it is damaged")
    return cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB, dst=image_bgr)


def _fit(image: np.ndarray, resized_hw: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """The resized image on a padded canvas of the network's input size."""
    height, width = resized_hw
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if resized_hw == preprocessing.size_hw:
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
        return content.find(b"\xff\xd9", _start_of_scan(content)) < 0
    if content.startswith(b"\x89PNG"):
        return b"IEND\xaeB`\x82" not in content
    return False


def _start_of_scan(content: bytes) -> int:
    """Offset of the JPEG's first scan: segments are skipped by length, for an EXIF thumbnail has an end of its own."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xDA:
            return position
        has_length = marker != 0xFF and marker != 0x01 and not 0xD0 <= marker <= 0xD9
        length = int.from_bytes(content[position + 2 : position + 4], "big") + 2 if has_length else 2
        position += 1 if marker == 0xFF else length
    return len(content)

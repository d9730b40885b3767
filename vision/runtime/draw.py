"""Draw detections and attention maps: anti-aliased boxes, labels readable on any colour and inside the image."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from handeye.vision.runtime.detections import Detections

if TYPE_CHECKING:
    from PIL import ImageFont

Colour = tuple[int, int, int]
FONT = cv2.FONT_HERSHEY_SIMPLEX
FONT_FILES = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "malgun.ttf",
)
"""Fonts of Linux, macOS and Windows for letters beyond ASCII, as Pillow finds them."""
NO_LETTER = "\U0010ffff"
"""No font has it: fonts draw the same box for it as for every letter that they lack."""
GOLDEN_RATIO = 0.618034
BACKGROUND = 0.5
"""Brightness of the image where there is no attention."""
SHIFT = 4
"""Fractional bits of the coordinates given to OpenCV: boxes are drawn where they are, not at whole pixels."""


def draw_detections(image_rgb: UInt8[np.ndarray, "h w 3"], detections: Detections) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the image with boxes, class names and scores; the best detection is drawn last, on top."""
    drawn = image_rgb.copy()
    thickness = line_width(image_rgb)
    rows = zip(detections.boxes_xyxy, detections.scores, detections.class_ids, detections.names, strict=True)
    for box, score, class_id, name in reversed(list(rows)):
        draw_box(drawn, box, f"{name} {score:.2f}", class_colour(int(class_id)), thickness)
    return drawn


def draw_attention(
    image_rgb: UInt8[np.ndarray, "h w 3"], detections: Detections, maps: Float32[np.ndarray, "N h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The image dark and grey, overlaid with each detection's attention map and box in the detection's colour.

    maps[i] belongs to detection i, from 0 (no attention) to 1. Where maps overlap, their colours mix.
    """
    grey = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * BACKGROUND
    heat = maps.max(axis=0, initial=0.0)[..., None]
    own_colours = np.array([class_colour(number) for number in range(len(maps))], np.float32).reshape(-1, 3)
    colours = np.einsum("nhw,nc->hwc", maps, own_colours) / np.maximum(maps.sum(axis=0), 1e-6)[..., None]
    drawn = (grey * (1 - heat) + (0.5 * image_rgb + 0.5 * colours) * heat).round().astype(np.uint8)
    thickness = line_width(image_rgb)
    for number in reversed(range(len(detections))):
        label = f"{detections.names[number]} {detections.scores[number]:.2f}"
        draw_box(drawn, detections.boxes_xyxy[number], label, class_colour(number), thickness)
    return drawn


def draw_box(
    image_rgb: UInt8[np.ndarray, "h w 3"], box_xyxy: np.ndarray, label: str, colour: Colour, thickness: int
) -> None:
    """Draw one box (pixels) and its label into the image."""
    corners = _fixed_point(box_xyxy).tolist()
    cv2.rectangle(image_rgb, corners[:2], corners[2:], colour, thickness, cv2.LINE_AA, SHIFT)
    if label:
        _draw_label(image_rgb, label, (int(box_xyxy[0]), int(box_xyxy[1])), colour, thickness)


def draw_line(
    image_rgb: UInt8[np.ndarray, "h w 3"], points: Float[np.ndarray, "P 2"], colour: Colour, thickness: int
) -> None:
    """Draw a line through the points (x, y in pixels) into the image."""
    cv2.polylines(
        image_rgb,
        [_fixed_point(points)],
        isClosed=False,
        color=colour,
        thickness=thickness,
        lineType=cv2.LINE_AA,
        shift=SHIFT,
    )


def line_width(image_rgb: UInt8[np.ndarray, "h w 3"]) -> int:
    """How thick lines are in an image of this size."""
    return max(2, round(max(image_rgb.shape[:2]) / 400))  # an edge between two pixels needs both


def class_colour(class_id: int) -> Colour:
    """A saturated RGB colour for each class; neighbours in number are far apart in hue."""
    hue = (0.02 + class_id * GOLDEN_RATIO) % 1.0
    value = 0.95 if class_id % 2 == 0 else 0.8
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever has the higher WCAG 2 contrast against the background."""
    linear = [(value / 255 / 12.92) if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (255, 255, 255)


def _fixed_point(points: Float[np.ndarray, "..."]) -> Int32[np.ndarray, "..."]:
    """OpenCV's fixed-point coordinates: they count pixel centres, half a pixel off from box edges."""
    return np.round((np.asarray(points, np.float64) - 0.5) * (1 << SHIFT)).astype(np.int32)


def _draw_label(image_rgb: np.ndarray, label: str, corner: tuple[int, int], colour: Colour, thickness: int) -> None:
    """A filled tag above the box, or inside it where the image ends.

    OpenCV's font has ASCII only. Other letters are drawn by Pillow with a font found here, or else as code points.
    """
    scale = 0.4 + 0.15 * (thickness - 1)
    if not label.isascii():
        tag = _tag_beyond_ascii(label, colour, size_px=round(32 * scale))
        if tag is not None:
            _paste(image_rgb, tag, corner)
            return
        label = label.encode("ascii", "backslashreplace").decode()
    (width, height), baseline = cv2.getTextSize(label, FONT, scale, max(1, thickness // 2))
    tag_height = height + baseline + 2
    left = max(0, min(corner[0], image_rgb.shape[1] - width - 4))
    top = corner[1] - tag_height if corner[1] >= tag_height else corner[1]
    top = max(0, min(top, image_rgb.shape[0] - tag_height))
    cv2.rectangle(image_rgb, (left, top), (left + width + 4, top + tag_height), colour, cv2.FILLED)
    origin = (left + 2, top + height + 2)
    cv2.putText(image_rgb, label, origin, FONT, scale, text_colour(colour), max(1, thickness // 2), cv2.LINE_AA)


def _tag_beyond_ascii(label: str, colour: Colour, size_px: int) -> UInt8[np.ndarray, "h w 3"] | None:
    """The label on its colour; None without Pillow or a font that has its letters."""
    font = _font_with("".join(sorted({letter for letter in label if not letter.isascii()})), size_px)
    if font is None:
        return None
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(label)
    tag = Image.new("RGB", (int(right - left) + 4, int(bottom - top) + 4), colour)
    ImageDraw.Draw(tag).text((2 - left, 2 - top), label, fill=text_colour(colour), font=font)
    return np.asarray(tag)


def _paste(image_rgb: np.ndarray, tag: UInt8[np.ndarray, "h w 3"], corner: tuple[int, int]) -> None:
    height, width = tag.shape[:2]
    left = max(0, min(corner[0], image_rgb.shape[1] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    top = max(0, min(top, image_rgb.shape[0] - height))
    place = image_rgb[top : top + height, left : left + width]
    place[:] = tag[: place.shape[0], : place.shape[1]]


@lru_cache(maxsize=256)
def _font_with(letters: str, size_px: int) -> ImageFont.FreeTypeFont | None:
    """The first of FONT_FILES on this computer that has all the letters."""
    try:
        from PIL import ImageFont
    except ImportError:  # no dependency of ours: it comes with torchvision and Matplotlib
        return None
    for name in FONT_FILES:
        try:
            font = ImageFont.truetype(name, size_px)
        except OSError:
            continue
        missing = _drawn_by(font, NO_LETTER)
        if all(_drawn_by(font, letter) != missing for letter in letters):
            return font
    return None


def _drawn_by(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    """The pixels of a letter."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (round(2 * font.size), round(2 * font.size)))
    ImageDraw.Draw(canvas).text((0, 0), letter, fill=255, font=font)
    return canvas.tobytes()

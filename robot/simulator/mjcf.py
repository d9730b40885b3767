"""Write MuJoCo XML (MJCF) from Python values, floats with all their digits."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from handeye.robot.config import CameraConfig

Numbers = Iterable[float | int]
Value = str | float | int | Numbers


def add(parent: Element, tag: str, **attributes: Value) -> Element:
    """Append `<tag .../>` to `parent` and return it. A trailing underscore in a name is dropped (`class_`)."""
    texts = {name.removesuffix("_"): text(value) for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, texts)


def text(value: Value) -> str:
    """A value as MuJoCo reads it: strings as they are, numbers with all digits, vectors separated by spaces."""
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return " ".join(text(number) for number in value)
    return str(value) if isinstance(value, Integral) else repr(float(value))


def to_xml(root: Element) -> str:
    """The document as a string."""
    return ElementTree.tostring(root, encoding="unicode")


def camera_lens(camera: CameraConfig) -> dict[str, tuple[float, float] | tuple[int, int]]:
    """Attributes of a MuJoCo camera with these intrinsics.

    MuJoCo measures the principal point from the image's centre, ours from the centre of the top left pixel.
    """
    centre_x, centre_y = (camera.width_px - 1) / 2, (camera.height_px - 1) / 2
    return {
        "resolution": (camera.width_px, camera.height_px),
        "sensorsize": (camera.width_px * 1e-5, camera.height_px * 1e-5),
        "focalpixel": (camera.fx_px, camera.fy_px),
        "principalpixel": (centre_x - camera.cx_px, centre_y - camera.cy_px),
    }

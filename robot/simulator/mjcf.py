"""A few words for writing MuJoCo's XML from numbers: floats keep all their digits, vectors become lists."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

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

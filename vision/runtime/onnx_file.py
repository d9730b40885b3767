"""Reads what a deployed ONNX file says about itself, without the onnx package: its metadata and a hash of its graph.

An ONNX file is one protocol buffer message (onnx.proto, ModelProto): field 7 is the graph with the weights, field
14 repeats the metadata entries, each with a key (1) and a value (2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vision.errors import ModelFileError

GRAPH_FIELD = 7
METADATA_FIELD = 14
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The metadata of an ONNX file and the SHA-256 of its serialised graph, weights included."""

    metadata: dict[str, str]
    graph_sha256: str


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the metadata of an ONNX file; ModelFileError when it is missing, empty, cut off or something else."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not content:
        raise ModelFileError(f"{path}: is empty, expected an ONNX model")
    return parse_onnx(content, origin=str(path))


def parse_onnx(content: bytes, origin: str) -> OnnxFile:
    """The same for the bytes of a file; `origin` names them in the ModelFileError."""
    metadata: dict[str, str] = {}
    graph_sha256 = ""
    try:
        for number, value in _fields(memoryview(content)):
            if number == GRAPH_FIELD:
                graph_sha256 = hashlib.sha256(value).hexdigest()
            elif number == METADATA_FIELD:
                entry = {key: bytes(text).decode() for key, text in _fields(value)}
                metadata[entry[1]] = entry.get(2, "")
    except (IndexError, KeyError, ValueError) as error:
        raise ModelFileError(f"{origin}: is no ONNX model, or it is cut off or damaged") from error
    if not graph_sha256:
        raise ModelFileError(f"{origin}: is no ONNX model: it holds no graph")
    return OnnxFile(metadata, graph_sha256)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the length-delimited fields of a message; other fields are stepped over."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == DELIMITED:
            length, position = _varint(message, position)
            end = position + length
        elif wire_type == VARINT:
            _, end = _varint(message, position)
        elif wire_type in (FIXED32, FIXED64):
            end = position + (4 if wire_type == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire_type} does not exist in a model")
        if end > len(message) or number == 0:
            raise ValueError("a field reaches beyond the end")
        if wire_type == DELIMITED:
            yield number, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than 64 bits")

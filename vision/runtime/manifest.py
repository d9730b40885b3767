"""The manifest of a deployed model: how to preprocess its input, decode its output and name its classes.

It is stored in the ONNX file's metadata under the key "handeye" and checked against the graph when it is loaded.
Reading needs no onnx package. An ONNX file is one protocol buffer message (onnx.proto, ModelProto): field 7 is the
graph with the weights, field 14 repeats the metadata entries, each with a key (1) and a value (2).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from handeye.vision.config import Config
from handeye.vision.errors import ModelFileError
from handeye.vision.images import Preprocessing

METADATA_KEY = "handeye"
FORMAT_VERSION = 1
GRAPH_FIELD = 7
METADATA_FIELD = 14
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class YoloxRows(Config):
    """One output (1, rows, 5 + classes): box, objectness, class scores; cells by stride, then row by row.

    Scores are already between 0 and 1. Decoded boxes are cx, cy, w, h in pixels of the network input; otherwise
    cx = (tx + column) * stride, cy = (ty + row) * stride, w = exp(tw) * stride, h = exp(th) * stride.
    """

    kind: Literal["yolox_rows"] = "yolox_rows"
    decoded: bool = True
    strides: tuple[int, ...] = (8, 16, 32)
    boxes_per_cell: tuple[PositiveInt, ...] | None = None
    """Rows of a cell for each stride; null means one. Heads with anchors have several, and theirs are decoded."""

    @model_validator(mode="after")
    def _one_number_for_each_stride(self) -> YoloxRows:
        if self.boxes_per_cell is not None and len(self.boxes_per_cell) != len(self.strides):
            raise ValueError(f"boxes_per_cell needs {len(self.strides)} numbers, got {len(self.boxes_per_cell)}")
        return self


class QueryRows(Config):
    """One output (1, queries, 4 + classes): cx, cy, w, h as fractions of the network input, then class scores.

    Scores are already between 0 and 1; there is no NMS, because queries are trained not to repeat each other.
    """

    kind: Literal["query_rows"] = "query_rows"
    classes_per_query: Literal["any", "one"] = "any"
    """any: each class of a query is a detection of its own (RT-DETR, D-FINE); one: only its best class is (DETR)."""


class PostprocessedBoxes(Config):
    """One output (1, N, 6): x1, y1, x2, y2 in pixels of the network input, score, class; filtered inside the file."""

    kind: Literal["labelled_boxes"] = "labelled_boxes"
    score_floor: Fraction = 0.0
    """The file gives no box with a lower score."""
    iou_threshold: Fraction | None = None
    """Of the NMS inside the file; null where it has none, or it is not known."""


OutputLayout = Annotated[YoloxRows | QueryRows | PostprocessedBoxes, Field(discriminator="kind")]
"""How the numbers of a network's output are to be read."""


class Manifest(Config):
    """Everything that the runtime must know of a model besides its graph."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str = "detector"
    """What the model is called in tables and files."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing = Preprocessing()
    output: OutputLayout = YoloxRows()
    score_threshold: Fraction = 0.3
    """Detections below are dropped unless the caller asks otherwise."""
    iou_threshold: Fraction = 0.65
    """Of two boxes of a class that overlap more, the one with the lower score is dropped; queries need none of it."""
    graph_sha256: str | None = None
    """SHA-256 of the serialised graph with its weights; None where the graph is not ours (a third-party file)."""
    made_by: str = ""
    """Program, version and source that wrote the file."""

    @field_validator("class_names")
    @classmethod
    def _names_differ(cls, class_names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name, number in Counter(class_names).items() if number > 1]:
            raise ValueError(f"two classes share a name: {', '.join(twice)}")
        return class_names


def read_manifest(path: Path) -> Manifest:
    """The manifest inside an ONNX file that handeye exported.

    Raises ModelFileError when there is none, when it is of another version or when the graph was changed after it
    was written.
    """
    file = read_onnx_file(path)
    text = file.metadata.get(METADATA_KEY)
    if text is None:
        raise ModelFileError(
            f"{path}: carries no handeye manifest; if another program made it, name its format: "
            "--model-format yolox or rtdetr"
        )
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"{path}: its handeye manifest cannot be used: Invalid JSON: {error}") from error
    manifest = validate_manifest(content, origin=f"{path}: its handeye manifest cannot be used")
    if manifest.graph_sha256 != file.graph_sha256:
        raise ModelFileError(f"{path}: the graph is not the one its manifest was written for; export the model again")
    return manifest


def validate_manifest(content: object, origin: str) -> Manifest:
    """The manifest with that content. Raises ModelFileError, which begins with `origin`, where there is none."""
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ModelFileError(f"{origin}: {f'{key}: ' * bool(key)}{reason}") from error


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

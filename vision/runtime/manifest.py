"""The contract inside a deployed model: how to prepare its input, read its output and name its classes.

It lives in the ONNX file's metadata under the key "handeye" and is checked against the file when it is loaded.
Foreign ONNX files have no manifest; naming their format supplies one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator

from vision.config import Config
from vision.errors import ModelFileError
from vision.images import Preprocessing
from vision.runtime.onnx_file import read_onnx_file

METADATA_KEY = "handeye"
FORMAT_VERSION = 1

Fraction = Annotated[float, Field(ge=0, le=1)]


class YoloxRows(Config):
    """One output (1, cells, 5 + classes): box, objectness, class scores; cells by stride, then row by row.

    Scores are already between 0 and 1. Decoded boxes are cx, cy, w, h in pixels of the network input; otherwise
    cx = (tx + column) * stride, cy = (ty + row) * stride, w = exp(tw) * stride, h = exp(th) * stride.
    """

    kind: Literal["yolox_rows"] = "yolox_rows"
    decoded: bool = True
    strides: tuple[int, ...] = (8, 16, 32)


class Manifest(Config):
    """Everything that the run time must know of a model besides its graph."""

    format_version: Literal[1] = FORMAT_VERSION
    name: str = "detector"
    """What the model is called in tables and files."""
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing = Preprocessing()
    output: YoloxRows = YoloxRows()
    score_threshold: Fraction = 0.3
    """Detections below are dropped unless the caller asks otherwise."""
    iou_threshold: Fraction = 0.65
    """Of two boxes of a class that overlap more, the one with the lower score is dropped."""
    graph_sha256: str | None = None
    """SHA-256 of the serialised graph with its weights; None where the graph is not ours (a foreign file)."""
    made_by: str = ""
    """Program, version and source that wrote the file."""

    @field_validator("class_names")
    @classmethod
    def _names_differ(cls, class_names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(class_names)) < len(class_names):
            raise ValueError("two classes share a name")
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
            f"{path}: carries no handeye manifest; if another program made it, name its format: --model-format yolox"
        )
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"{path}: its handeye manifest cannot be used: {key}: {first['msg']}") from error
    if manifest.graph_sha256 != file.graph_sha256:
        raise ModelFileError(f"{path}: the graph is not the one its manifest was written for; export the model again")
    return manifest


def foreign_yolox_manifest(path: Path, input_hw: tuple[int, int], num_classes: int) -> Manifest:
    """The manifest of a YOLOX network exported elsewhere: raw head values, classes from coco_classes.txt beside it.

    Without that file classes are named by their number. Raises ModelFileError when the number of names is wrong.
    """
    names_file = Path(path).with_name("coco_classes.txt")
    names = tuple(str(number) for number in range(num_classes))
    if names_file.is_file():
        names = tuple(line.strip() for line in names_file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) != num_classes:
        raise ModelFileError(f"{names_file}: holds {len(names)} names, but {path} has {num_classes} classes")
    return Manifest(
        name=Path(path).stem,
        class_names=names,
        preprocessing=Preprocessing(size_hw=input_hw),
        output=YoloxRows(decoded=False),
        made_by="named by --model-format yolox",
    )

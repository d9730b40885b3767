"""ONNX files that other projects' exporters wrote: YOLOX, and RT-DETR or D-FINE with their post-processing inside.

They have no manifest; naming their format supplies one. Whether YOLOX's exporter decoded the boxes
(--decode_in_inference) shows in the numbers that the network gives for a grey image. The graphs of RT-DETR and D-FINE
filter their boxes themselves: besides the image they take the size to which boxes are scaled (`orig_target_sizes`,
width and height), and they give `labels` (1, N), `boxes` (1, N, 4) as corners and `scores` (1, N). Given the size of
the network's input, their boxes are in its pixels, as ours are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import assert_never

from handeye.vision.errors import DatasetError, ModelFileError
from handeye.vision.files import read_class_names
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.decode import boxes_are_decoded, grid_cells
from handeye.vision.runtime.engines import Session, Shape
from handeye.vision.runtime.manifest import Manifest, PostprocessedBoxes, YoloxRows, validate_manifest

ModelFormat = Literal["yolox", "yolox-raw", "yolox-decoded", "rtdetr"]
IMAGE, SIZE = "images", "orig_target_sizes"
OUTPUTS = ("boxes", "scores", "labels")
ROWS = "rows"
COCO_CLASSES = 80
SCORE_SLACK = 1e-3
"""What a sigmoid in float16 may exceed 0 and 1 by."""


def open_third_party(path: Path, session: Session, model_format: ModelFormat) -> tuple[Session, Manifest]:
    """The session of a third-party file as our runtime runs it, and the manifest that the file lacks."""
    match model_format:
        case "yolox" | "yolox-raw" | "yolox-decoded":
            manifest = _manifest_from_shapes(path, session)
            return session, _with_box_convention(path, session, manifest, model_format)
        case "rtdetr":
            input_hw = _rtdetr_input_hw(session, path)
            manifest = rtdetr_manifest(path, input_hw)
            return RtdetrSession(session, path, input_hw, len(manifest.class_names)), manifest
        case _:
            assert_never(model_format)


def yolox_manifest(path: Path, input_hw: tuple[int, int], num_classes: int) -> Manifest:
    """The manifest of a YOLOX network exported elsewhere: raw head values, classes from coco_classes.txt beside it.

    Without that file classes are named by their number. Raises ModelFileError when the number of names is wrong.
    """
    names = _names_beside(path) or tuple(str(number) for number in range(num_classes))
    if len(names) != num_classes:
        raise ModelFileError(f"{_names_file(path)}: holds {len(names)} names, but {path} has {num_classes} classes")
    content = {
        "name": Path(path).stem,
        "class_names": names,
        "preprocessing": Preprocessing(size_hw=input_hw),
        "output": YoloxRows(decoded=False),
        "made_by": "named by --model-format yolox",
    }
    return validate_manifest(content, origin=str(_names_file(path)))


def rtdetr_manifest(path: Path, input_hw: tuple[int, int]) -> Manifest:
    """The manifest of a file from RT-DETR's or D-FINE's exporter: boxes are filtered inside, the input is RGB / 255.

    Classes come from coco_classes.txt beside it. The file does not tell how many classes it has, so without that list
    the names are "0" to "79", COCO's.
    """
    content = {
        "name": Path(path).stem,
        "class_names": _names_beside(path) or tuple(str(number) for number in range(COCO_CLASSES)),
        "preprocessing": Preprocessing(size_hw=input_hw, resize="stretch", colour="rgb", scale=1 / 255),
        "output": PostprocessedBoxes(),
        "made_by": "named by --model-format rtdetr",
    }
    return validate_manifest(content, origin=str(_names_file(path)))


class RtdetrSession:
    """images (1, 3, H, W) -> rows (1, N, 6): corners in pixels of the input, score, class."""

    def __init__(self, session: Session, path: Path, input_hw: tuple[int, int], num_classes: int) -> None:
        self._session, self._path, self._num_classes = session, path, num_classes
        self._size_wh = np.array([input_hw[::-1]], np.int64)
        self.engine, self.num_threads = session.engine, session.num_threads
        self.inputs: Mapping[str, Shape] = {IMAGE: (None, 3, *input_hw)}
        self.outputs: Mapping[str, Shape] = {ROWS: (None, None, 6)}

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the rows of one image. Raises ModelFileError for a label that is no class."""
        given = self._session.run({IMAGE: inputs[IMAGE], SIZE: self._size_wh})
        boxes, scores, labels = (given[name].astype(np.float32) for name in OUTPUTS)
        if labels.size and not 0 <= labels.min() <= labels.max() < self._num_classes:
            raise ModelFileError(
                f"{self._path}: gave the label {int(labels.max())}, but {self._num_classes} classes are named; put all "
                "names, one a line, into coco_classes.txt beside it"
            )
        return {ROWS: np.concatenate([boxes, scores[..., None], labels[..., None]], axis=-1)}


def _rtdetr_input_hw(session: Session, path: Path) -> tuple[int, int]:
    """Height and width of the network input of such a file.

    Raises ModelFileError when the inputs and outputs are not those of the exporter, or the image has no fixed size.
    """
    if set(session.inputs) != {IMAGE, SIZE} or not set(OUTPUTS) <= set(session.outputs):
        raise ModelFileError(
            f"{path}: expected the inputs {IMAGE} and {SIZE} and the outputs {', '.join(OUTPUTS)}, "
            f"got {', '.join(session.inputs)} and {', '.join(session.outputs)}"
        )
    shape = session.inputs[IMAGE]
    if len(shape) != 4 or shape[2] is None or shape[3] is None:
        raise ModelFileError(f"{path}: expected {IMAGE} of shape (N, 3, height, width) of fixed size, got {shape}")
    return shape[2], shape[3]


def _manifest_from_shapes(path: Path, session: Session) -> Manifest:
    """The manifest of a YOLOX file, from the shapes that the engine reports."""
    shape_in, shape_out = next(iter(session.inputs.values())), next(iter(session.outputs.values()))
    sizes = [*shape_in[2:], *shape_out[2:]]
    if len(shape_in) != 4 or len(shape_out) != 3 or None in sizes:
        raise ModelFileError(
            f"{path}: expected input (1, 3, height, width) and output (1, cells, 5 + classes) of fixed size, "
            f"got {shape_in} and {shape_out}"
        )
    height, width, channels = (int(size or 0) for size in sizes)
    if channels <= 5:
        raise ModelFileError(f"{path}: expected at least 6 output channels (box, objectness, classes), got {channels}")
    return yolox_manifest(path, (height, width), channels - 5)


def _with_box_convention(path: Path, session: Session, manifest: Manifest, model_format: ModelFormat) -> Manifest:
    """The manifest, with `decoded` as the rows for a grey image show it.

    Raises ModelFileError where they contradict the format that was named, or do not show it and none was named.
    """
    (input_name, shape), (output_name, *_) = next(iter(session.inputs.items())), session.outputs
    layout, input_hw = manifest.output, manifest.preprocessing.size_hw
    assert isinstance(layout, YoloxRows)
    grey = np.full((1, shape[1] or 3, *input_hw), manifest.preprocessing.pad_value, np.float32)
    rows = np.asarray(session.run({input_name: grey})[output_name], np.float32)[0]
    num_cells = len(grid_cells(input_hw, layout.strides)[0])
    if len(rows) != num_cells:
        raise ModelFileError(
            f"{path}: expected one output of shape (1, {num_cells}, 5 + classes), one row for each cell of strides "
            f"{layout.strides}, the file has {dict(session.outputs)}"
        )
    scores = rows[:, 4:]
    if not ((scores >= -SCORE_SLACK) & (scores <= 1 + SCORE_SLACK)).all():
        raise ModelFileError(
            f"{path}: expected objectness and class scores between 0 and 1, got {scores.min():.3g} to "
            f"{scores.max():.3g}; export it with the sigmoid inside"
        )
    seen = boxes_are_decoded(rows, input_hw, layout.strides)
    stated = {"yolox-raw": False, "yolox-decoded": True}.get(model_format)
    if seen is None and stated is None:
        raise ModelFileError(
            f"{path}: its numbers do not show whether its boxes are decoded; name it: --model-format yolox-raw or "
            "yolox-decoded"
        )
    if None not in (seen, stated) and seen != stated:
        found = "decoded boxes, in pixels" if seen else "raw head values"
        raise ModelFileError(f"{path}: gives {found}, so it is not {model_format}; leave it to --model-format yolox")
    decoded = bool(stated if seen is None else seen)
    return manifest.model_copy(update={"output": layout.model_copy(update={"decoded": decoded})})


def _names_file(path: Path) -> Path:
    return Path(path).with_name("coco_classes.txt")


def _names_beside(path: Path) -> tuple[str, ...]:
    """The names in coco_classes.txt beside a model, one a line; none where there is no such file."""
    names_file = _names_file(path)
    if not names_file.is_file():
        return ()
    try:
        return read_class_names(names_file)
    except DatasetError as error:
        raise ModelFileError(str(error)) from error

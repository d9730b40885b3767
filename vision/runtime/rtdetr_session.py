"""Files that the exporters of RT-DETR and D-FINE write, behind the run time's `Session`.

Their graph judges by itself: besides the image it takes the size to which boxes are to be scaled (`orig_target_sizes`,
width and height), and it gives `labels` (1, N), `boxes` (1, N, 4) as corners and `scores` (1, N). Asked for the size of
the network's input, its boxes lie where ours do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engines import Session, Shape

IMAGE, SIZE = "images", "orig_target_sizes"
OUTPUTS = ("boxes", "scores", "labels")
ROWS = "rows"


def rtdetr_input_hw(session: Session, path: Path) -> tuple[int, int]:
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

"""A detector as one ONNX file that says by itself how to use it: decoded rows in the graph, manifest in the metadata.

Opset 17, the lowest that the engines on robot computers run without known faults. Size and batch are fixed unless asked
for otherwise: static shapes are what small engines are fast with.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxslim
import torch
from jaxtyping import Float
from torch import Tensor, nn

from handeye.export.graph.folding import fold_for_inference
from handeye.export.graph.free_shapes import FIXED, FreeShapes, require_free_size
from handeye.export.graph.operator_support import require_supported
from handeye.vision.detector import Detector
from handeye.vision.evaluation.torch_session import INPUT_NAME, OUTPUT_NAME, detector_manifest, row_columns
from handeye.vision.files import replacing
from handeye.vision.images import at_fixed_size
from handeye.vision.runtime.manifest import METADATA_KEY, Manifest, parse_onnx

OPSET = 17


class DecodedRows(nn.Module):
    """images -> (B, rows, channels): the part of a detector that belongs into a graph, for some or all classes."""

    def __init__(self, detector: Detector, class_names: Sequence[str]) -> None:
        super().__init__()
        self.detector = detector
        columns = row_columns(detector, class_names)
        is_whole = columns == row_columns(detector, detector.config.class_names)
        self.columns = None if is_whole else columns

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B rows channels"]:
        """Decoded boxes and probabilities, as the manifest's layout says."""
        rows = self.detector(images).rows
        return rows if self.columns is None else rows[..., self.columns]


def export_onnx(
    detector: Detector,
    path: Path,
    *,
    made_by: str = "",
    class_names: Sequence[str] | None = None,
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
    free: FreeShapes = FIXED,
) -> Manifest:
    """Write `detector` to `path` as ONNX, for one image of the size in its configuration, and return its manifest.

    `free` leaves the batch or the size open; the run time goes on giving it one image of the configured size.

    A detector whose inputs follow the shape of the image (`shorter_side`) gets letterboxed images of one size instead.
    class_names are the classes that the file names, in this order; None means all. A detector may be trained with a
    class that only teaches it (everything that is no cube, say): what is deployed need not name it. Thresholds are the
    defaults that the file will be run with; `made_by` says what it was made from. Raises UserError for a class that
    the detector does not know, for a layer that TensorRT's parser does not take, and for a size that cannot be free.
    """
    names = detector.config.class_names if class_names is None else class_names
    if free.size:
        require_free_size(detector)
    model = simplify(trace_onnx(DecodedRows(fold_for_inference(detector), names), free))
    require_supported(model, path.name)
    thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    manifest = detector_manifest(detector, path.stem, names)
    changes: dict[str, object] = {key: value for key, value in thresholds.items() if value is not None}
    fixed = at_fixed_size(manifest.preprocessing, manifest.preprocessing.size_hw)
    manifest = manifest.model_copy(update=changes | {"made_by": made_by, "preprocessing": fixed})
    return write_onnx(path, model, manifest)


def write_onnx(path: Path, model: onnx.ModelProto, manifest: Manifest) -> Manifest:
    """Check `model`, put the manifest with the hash of its graph into its metadata and write it."""
    onnx.checker.check_model(model, full_check=True)
    del model.metadata_props[:]
    graph_sha256 = parse_onnx(model.SerializeToString(), origin=str(path)).graph_sha256
    manifest = Manifest.model_validate(manifest.model_copy(update={"graph_sha256": graph_sha256}).model_dump())
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())
    return manifest


def trace_onnx(network: DecodedRows, free: FreeShapes = FIXED) -> onnx.ModelProto:
    """The graph as torch's exporter writes it, not yet simplified."""
    image = torch.zeros(1, 3, *network.detector.config.preprocessing.size_hw)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The sizes that tracing turns into constants are meant to be constant.
        warnings.filterwarnings("ignore", message="Converting a tensor", category=Warning)
        warnings.filterwarnings("ignore", message="You are using the legacy", category=DeprecationWarning)
        # The tracing exporter: the newer one writes opset 17 only through a converter and takes ten times as long.
        torch.onnx.export(
            network.eval(),
            (image,),
            f"{folder}/traced.onnx",
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes=free.axes,
            dynamo=False,
        )
        return onnx.load(f"{folder}/traced.onnx")


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants folded, operations that change nothing removed, shapes in between left out."""
    slim = onnxslim.slim(model)
    if not isinstance(slim, onnx.ModelProto):
        raise TypeError(f"onnxslim gave {type(slim).__name__} instead of a model")
    del slim.graph.value_info[:]  # shapes that every engine infers again
    return slim

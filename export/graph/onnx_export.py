"""Export a detector to ONNX, with box decoding in the graph and a manifest in the metadata; write and load ONNX files.

Opset 17, the lowest that the engines on robot computers run without known faults. Size and batch are fixed by default,
because small engines are fastest with static shapes.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx.version_converter
import onnxslim
import torch
from jaxtyping import Float
from torch import Tensor, nn

from handeye.export.graph.folding import fold_for_inference
from handeye.export.graph.free_shapes import FIXED, FreeShapes, require_free_size
from handeye.export.graph.operator_support import require_supported
from handeye.vision.detector import Detector
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.evaluation.torch_session import INPUT_NAME, OUTPUT_NAME, detector_manifest, row_columns
from handeye.vision.files import replacing
from handeye.vision.images import at_fixed_size
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat
from handeye.vision.runtime.manifest import METADATA_KEY, Manifest, parse_onnx, read_manifest

OPSET = 17


class DecodedRows(nn.Module):
    """Network to export: images -> (B, rows, channels), decoded boxes and scores of some or all classes."""

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
    """Write `detector` to `path` as ONNX, for one image of the configured size, and return its manifest.

    A detector whose input follows the shape of the image (`shorter_side`) gets letterboxed images of one size instead.
    class_names: classes to keep, in this order, None for all; classes that only help in training ("no cube") can be
    left out. Thresholds are the defaults stored in the file, `made_by` is its provenance. `free` leaves the batch or
    the size dynamic; handeye's run time still feeds one image of the configured size. Raises UserError for an unknown
    class, for a layer that TensorRT's parser does not take, and for a size that cannot be free.
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
    """Check `model`, store the manifest with the hash of the graph in its metadata, and write it."""
    onnx.checker.check_model(model, full_check=True)
    del model.metadata_props[:]
    graph_sha256 = parse_onnx(model.SerializeToString(), origin=str(path)).graph_sha256
    manifest = Manifest.model_validate(manifest.model_copy(update={"graph_sha256": graph_sha256}).model_dump())
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.model_dump_json()})
    with replacing(path) as beside:
        beside.write_bytes(model.SerializeToString())
    return manifest


def trace_onnx(network: DecodedRows, free: FreeShapes = FIXED) -> onnx.ModelProto:
    """The graph from torch's tracing exporter, not yet simplified."""
    image = torch.zeros(1, 3, *network.detector.config.preprocessing.size_hw)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Sizes that tracing turns into constants are meant to be constant.
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
    """Fold constants, remove no-ops, and drop intermediate shapes."""
    slim = onnxslim.slim(model)
    if not isinstance(slim, onnx.ModelProto):
        raise TypeError(f"onnxslim gave {type(slim).__name__} instead of a model")
    del slim.graph.value_info[:]  # shapes that every engine infers again
    return slim


def open_onnx(path: Path, model_format: ModelFormat | None) -> tuple[onnx.ModelProto, Manifest]:
    """Load an ONNX file of handeye or, with `model_format`, of another program: the graph at opset 17, and a manifest.

    Raises ModelFileError for a file that cannot be used, UserError for a graph that is already quantised or has inputs
    other than the image.
    """
    manifest = (
        read_manifest(path) if model_format is None else ImageDetector.load(path, model_format=model_format).manifest
    )
    model = onnx.load(path)
    if len(model.graph.input) - len({tensor.name for tensor in model.graph.initializer} & _input_names(model)) != 1:
        raise UserError(
            f"{path}: has inputs other than the image; import its weights (handeye import) and export the checkpoint"
        )
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise UserError(f"{path}: is quantised already; expected a float32 file")
    own = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(own)
    return _at_our_opset(model, path), manifest


def _input_names(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}


def _at_our_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Converted to opset 17 and simplified; a newer opset stays as it is."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except RuntimeError as error:
            raise ModelFileError(
                f"{path}: its opset {opset} cannot be raised to {OPSET} ({' '.join(str(error).split())[:200]}); "
                f"export it again with opset {OPSET}"
            ) from error
    return simplify(model)

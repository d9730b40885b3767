"""ONNX files that other programs exported, brought to where ours stand: opset 17, folded, with a manifest."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter

from handeye.export.graph.onnx_export import OPSET, simplify
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime.image_detector import ImageDetector, ModelFormat
from handeye.vision.runtime.manifest import METADATA_KEY, Manifest, read_manifest


def open_onnx(path: Path, model_format: ModelFormat | None) -> tuple[onnx.ModelProto, Manifest]:
    """The graph and the manifest of a file that handeye or, if its format is named, another program exported.

    Raises ModelFileError for a file that cannot be used, UserError for one whose graph is already quantised or takes
    more than an image.
    """
    manifest = (
        read_manifest(path) if model_format is None else ImageDetector.load(path, model_format=model_format).manifest
    )
    model = onnx.load(path)
    if len(model.graph.input) - len({tensor.name for tensor in model.graph.initializer} & _input_names(model)) != 1:
        raise UserError(
            f"{path}: takes more than an image; import its weights (handeye import) and export the checkpoint"
        )
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise UserError(f"{path}: is quantised already; expected a float32 file")
    own = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(own)
    return _modernised(model, path), manifest


def _input_names(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input}


def _modernised(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Opset 17 and no weights among the inputs; a newer opset stays as it is."""
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

"""A detector as one ONNX file that says by itself how to use it: decoded rows in the graph, manifest in the metadata.

Opset 17, the lowest that the engines on robot computers run without known faults. Size and batch are fixed: static
shapes are what small engines are fast with.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnx
import onnxslim
import torch
from jaxtyping import Float
from torch import Tensor, nn

from export.folding import fold_for_inference
from vision.detector import Detector
from vision.evaluation.torch_session import INPUT_NAME, OUTPUT_NAME, detector_manifest
from vision.files import replacing
from vision.runtime.manifest import METADATA_KEY, Manifest
from vision.runtime.onnx_file import parse_onnx

OPSET = 17


class DecodedRows(nn.Module):
    """images -> (B, cells, 5 + classes): the part of a detector that belongs into a graph."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B cells channels"]:
        """Decoded boxes, objectness and class probabilities, row by row."""
        return self.detector(images).raw


def export_onnx(
    detector: Detector,
    path: Path,
    *,
    made_by: str = "",
    score_threshold: float | None = None,
    iou_threshold: float | None = None,
) -> Manifest:
    """Write `detector` to `path` as ONNX, for one image of the size in its configuration, and return its manifest.

    Thresholds are the defaults that the file will be run with; `made_by` says what it was made from.
    """
    model = simplify(trace_onnx(fold_for_inference(detector)))
    thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    manifest = detector_manifest(detector, name=path.stem).model_copy(
        update={key: value for key, value in thresholds.items() if value is not None} | {"made_by": made_by}
    )
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


def trace_onnx(detector: Detector) -> onnx.ModelProto:
    """The graph as torch's exporter writes it, not yet simplified."""
    image = torch.zeros(1, 3, *detector.config.preprocessing.size_hw)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The sizes that tracing turns into constants are meant to be constant.
        warnings.filterwarnings("ignore", message="Converting a tensor", category=Warning)
        warnings.filterwarnings("ignore", message="You are using the legacy", category=DeprecationWarning)
        # The tracing exporter: the newer one writes opset 17 only through a converter and takes ten times as long.
        torch.onnx.export(
            DecodedRows(detector).eval(),
            (image,),
            f"{folder}/traced.onnx",
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
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

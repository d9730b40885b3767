"""Acceptance of exported files, the report, and the count of parameters and GFLOPs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from torch import nn

from handeye.export.acceptance import accept_or_reject
from handeye.export.artefacts import compare_artefacts, count_size, open_for_comparison, write_artefact
from handeye.export.graph.graph_index import GraphIndex, attribute, count_gflops, count_parameters
from handeye.export.graph.onnx_export import export_onnx, write_onnx
from handeye.export.measurement import Latency, measure_latencies
from handeye.export.quantization.int8_recipe import Int8Result
from handeye.export.report import write_report
from handeye.export.result import Artefact, artefacts_as_json
from handeye.vision.checkpoints.yolox import yolox_config
from handeye.vision.detector import Detector
from handeye.vision.errors import UserError
from handeye.vision.images import Preprocessing
from handeye.vision.runtime.manifest import Manifest
from tests.export.graphs import chain, model_of


def artefact(folder: Path, precision, ap: dict[str, float], ms: dict[str, float]) -> Artefact:
    path = folder / f"m.{precision}.onnx"
    path.write_bytes(b"content")
    latency = {name: Latency(f"{name} 1.0", 2, value + 1, value + 2, value, 0.2) for name, value in ms.items()}
    return Artefact(precision, path, 7, "abc", dict(ap), dict(ap), latency)


BOTH = {"onnxruntime": 10.0, "openvino": 8.0}
FLOAT_AP = {"onnxruntime": 0.34, "openvino": 0.34}


@pytest.mark.parametrize(
    ("precision", "ap", "ms", "rejected"),
    [
        ("int8", {"onnxruntime": 0.335, "openvino": 0.335}, {"onnxruntime": 20.0, "openvino": 20.0}, ""),
        ("int8", {"onnxruntime": 0.3, "openvino": 0.34}, BOTH, "loses 0.0400 AP on onnxruntime, allowed are 0.0100"),
        ("int8_x86", FLOAT_AP, {"onnxruntime": 9.0, "openvino": 20.0}, ""),
        ("int8_x86", FLOAT_AP, {"onnxruntime": 11.0, "openvino": 1.0}, "takes 11.00 ms on onnxruntime, float32 takes"),
        ("int8_openvino", FLOAT_AP, {"onnxruntime": 20.0, "openvino": 7.0}, ""),
        (
            "int8_openvino",
            {"onnxruntime": 0.34, "openvino": 0.1},
            {"onnxruntime": 9.0, "openvino": 7.0},
            "0.2400 AP on",
        ),
        ("int8_plain", {"onnxruntime": 0.0, "openvino": 0.0}, {"onnxruntime": 99.0, "openvino": 99.0}, ""),
    ],
)
def test_what_is_rejected(tmp_path: Path, precision, ap, ms, rejected: str):
    reference = artefact(tmp_path, "float32", FLOAT_AP, BOTH)
    checked = artefact(tmp_path, precision, ap, ms)
    accept_or_reject([reference, checked], allowed_loss=0.01)
    assert (rejected in checked.rejected) if rejected else checked.rejected == ""
    assert checked.path.name == (f"m.{precision}.rejected.onnx" if rejected else f"m.{precision}.onnx")
    assert checked.path.is_file()
    assert reference.rejected == ""


def test_an_engine_that_computes_a_file_wrongly_is_named(tmp_path: Path):
    checked = artefact(tmp_path, "int8", {"onnxruntime": 0.335, "openvino": 0.11}, BOTH)
    accept_or_reject([artefact(tmp_path, "float32", FLOAT_AP, BOTH), checked], allowed_loss=0.01)
    assert checked.rejected == ""
    assert checked.remarks == (
        "do not run it on openvino: AP 0.1100 there, 0.3350 on onnxruntime",
        "made for tensorrt, which is not installed here: speed not checked",
    )
    assert checked.deciding_engine == "onnxruntime"


def test_a_file_that_tensorrt_would_not_take_is_rejected(tmp_path: Path, float_model):
    from handeye.export.quantization.calibration import Range
    from handeye.export.quantization.quantize_x86 import quantize_for_openvino

    model, manifest = float_model
    names = {name for node in model.graph.node for name in node.input}
    wrong = quantize_for_openvino(model, dict.fromkeys(names, Range(-1.0, 1.0)))
    recipe = Int8Result(wrong, "minmax", {}, frozenset(), 1, None)
    written = write_artefact(tmp_path, "m", "int8", wrong, manifest, recipe)
    assert "faults for TensorRT" in written.rejected
    assert "uint8" in written.rejected
    assert written.path == tmp_path / "m.int8.onnx"


def test_a_float_file_that_tensorrt_would_not_take_serves_others(tmp_path: Path, float_model):
    third_party = onnx.ModelProto()
    third_party.CopyFrom(float_model[0])
    assert write_artefact(tmp_path, "m", "float32", third_party, float_model[1], None).remarks == ()
    third_party.opset_import[0].version = 21
    written = write_artefact(tmp_path, "m", "float32", third_party, float_model[1], None)
    assert "TensorRT will not take it: layer 'the whole graph'" in written.remarks[0]
    assert written.rejected == ""


def test_the_report_holds_what_was_measured(tmp_path: Path):
    checked = artefact(tmp_path, "int8", {"onnxruntime": 0.3, "openvino": 0.31}, BOTH)
    shown = [artefact(tmp_path, "float32", FLOAT_AP, BOTH), checked]
    accept_or_reject(shown, allowed_loss=0.01)
    page = write_report(tmp_path, "a <network>", shown, {"GFLOPs": "1.2"}).read_text()
    for text in (
        "a &lt;network&gt;",
        "GFLOPs: 1.2",
        "0.3000",
        "10.00",
        "onnxruntime 1.0, 2 threads, 0.2 s pause",
        "abc",
    ):
        assert text in page
    assert "Rejected: loses 0.0400 AP" in page
    assert (tmp_path / "report.png").stat().st_size > 5000
    content = artefacts_as_json(shown)
    assert content["AP"] == {"float32": 0.34, "int8": 0.3}
    assert set(content["rejected"]) == {"int8"}
    assert content["latency"]["int8"]["openvino"]["threads"] == 2


def test_a_file_exported_earlier_has_its_own_row(tmp_path: Path, float_model: tuple[onnx.ModelProto, Manifest]):
    model, manifest = float_model
    reference = write_artefact(tmp_path, "m", "float32", model, manifest, None)
    count_size(reference, model)
    write_onnx(tmp_path / "pruned.onnx", with_half_of_a_layer(model), manifest)
    earlier = open_for_comparison(tmp_path / "pruned.onnx", manifest)
    shown = [reference, earlier]
    compare_artefacts(shown, ["onnxruntime"], None, 1, 0.0)
    accept_or_reject(shown, allowed_loss=0.0)
    assert (earlier.title, earlier.rejected, earlier.path) == ("pruned", "", tmp_path / "pruned.onnx")
    assert 0 < earlier.parameters < reference.parameters
    assert earlier.gflops is not None
    assert reference.gflops is not None
    assert 0 < earlier.gflops < reference.gflops
    content = artefacts_as_json(shown)
    assert set(content["latency"]) == set(content["parameters"]) == {"float32", "pruned"}
    assert set(content["difference"]) == {"float32"}, "another network may compute something else"
    page = write_report(tmp_path, "m", shown, {}).read_text()
    for row in shown:
        assert f"<td>{row.title}</td><td>{row.parameters / 1e6:.3f}</td><td>{row.gflops:.3f}</td>" in page


def with_half_of_a_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a pair of layers has half of the channels between them: one that a pruning might leave."""
    from onnx import numpy_helper

    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    index = GraphIndex(pruned.graph)
    first, second = next(
        (node, then) for node in index.layers() for then in index.layers() if _follows(index, node, then)
    )
    half = index.value(first.input[1]).shape[0] // 2
    for node, place, axis in ((first, 1, 0), (first, 2, 0), (second, 1, 1)):
        cut = np.take(index.value(node.input[place]), range(half), axis)
        node.input[place] = index.unused_name(f"{node.input[place]}_half")
        pruned.graph.initializer.append(numpy_helper.from_array(cut, node.input[place]))
    read = {name for node in pruned.graph.node for name in node.input}
    for tensor in [tensor for tensor in pruned.graph.initializer if tensor.name not in read]:
        pruned.graph.initializer.remove(tensor)
    return pruned


def _follows(index: GraphIndex, node: onnx.NodeProto, then: onnx.NodeProto) -> bool:
    """Whether `then` alone reads `node`, through an activation, and neither is depthwise."""
    readers = list(index.met_from(node, lambda reader: reader.op_type not in {"Sigmoid", "Mul"}))
    others = {reader.name for reader, _ in readers if reader.op_type not in {"Sigmoid", "Mul"}}
    plain = all(attribute(layer, "group", 1) == 1 and layer.op_type == "Conv" for layer in (node, then))
    return plain and others == {then.name}


def test_a_file_of_other_classes_or_size_cannot_be_compared(
    tmp_path: Path, float_model: tuple[onnx.ModelProto, Manifest]
):
    model, manifest = float_model
    other = manifest.model_copy(update={"class_names": tuple(reversed(manifest.class_names))})
    write_onnx(tmp_path / "other.onnx", model, other)
    with pytest.raises(UserError, match=r"other\.onnx: expected a detector for the classes"):
        open_for_comparison(tmp_path / "other.onnx", manifest)
    small = manifest.model_copy(update={"preprocessing": Preprocessing(size_hw=(64, 64))})
    write_onnx(tmp_path / "small.onnx", model, small)
    with pytest.raises(UserError, match=r"expected a detector for images of \(96, 128\), found \(64, 64\)"):
        open_for_comparison(tmp_path / "small.onnx", manifest)


def test_latencies_are_those_of_the_file(tmp_path: Path, float_model):
    model, manifest = float_model
    write_onnx(tmp_path / "m.onnx", model, manifest)
    found = measure_latencies({"one": tmp_path / "m.onnx"}, manifest.preprocessing.size_hw, "onnxruntime", 1, 0.0)
    latency = found["one"]
    assert 0 < latency.best_ms <= latency.p50_ms <= latency.p95_ms
    assert (latency.threads, latency.pause_s) == (1, 0.0)
    assert latency.engine.startswith("onnxruntime ")


def test_parameters_and_operations_are_counted_by_hand():
    model = chain()
    assert count_parameters(model) == 4 * 3 * 9 + 4 * 4 * 9 + 4 + 4 * 5 * 4 + 16 * 6
    products = 64 * 4 * 27 + 64 * 4 * 36 + 4 * 64 * 5 * 4 + 5 * 16 * 16 * 6
    assert count_gflops(model) == pytest.approx(2 * products / 1e9)
    free = model_of([helper.make_node("MatMul", ["images", "w"], ["y"], "out")], {"w": np.ones((3, 2), "f4")}, (1, 3))
    free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    free.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ValueError, match="not fixed"):
        count_gflops(free)


def test_the_published_network_has_the_published_size(tmp_path: Path):
    """0.91 M parameters and 1.08 GFLOPs (YOLOX, arXiv:2107.08430, table 5)."""
    detector = Detector(yolox_config("nano")).eval()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for name, weight in detector.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(weight)  # equal ones would be one constant for all layers
    export_onnx(detector, tmp_path / "nano.onnx")
    model = onnx.load(tmp_path / "nano.onnx")
    assert_published_size(model)
    folded = sum(norm.num_features for norm in norms)
    assert count_parameters(model) == sum(weight.numel() for weight in detector.parameters()) - folded


def test_the_published_file_has_it_too(shared):
    assert_published_size(onnx.load(shared("data/yolox_nano_coco/yolox_nano.onnx")))


def assert_published_size(model: onnx.ModelProto) -> None:
    assert count_parameters(model) == pytest.approx(0.91e6, rel=0.01)
    assert count_gflops(model) == pytest.approx(1.08, rel=0.05)

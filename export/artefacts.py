"""Write a network in each precision (float32, float16, INT8) and measure the files: AP, latency, difference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from handeye.export.graph.graph_index import count_gflops, count_parameters
from handeye.export.graph.half_precision import to_half
from handeye.export.graph.onnx_export import write_onnx
from handeye.export.graph.operator_support import find_unsupported
from handeye.export.measurement import ImageSet, evaluate_file, measure_latencies
from handeye.export.parity import compare, synthetic_images
from handeye.export.quantization.int8_recipe import PLAIN, Form, Int8Config, Int8Result, int8_from_learned, make_int8
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.export.quantization.x86_fusions import fuse_for_onnxruntime
from handeye.export.request import Precision
from handeye.export.result import TARGET_ENGINE, Artefact
from handeye.vision.errors import UserError
from handeye.vision.evaluation.protocol import ProtocolName
from handeye.vision.images import read_image
from handeye.vision.runtime.engines import EngineName
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, read_manifest

SUFFIX: dict[Precision, str] = {
    "float32": "",
    "float16": ".fp16",
    "int8": ".int8",
    "int8_float16": ".int8_fp16",
    "int8_x86": ".int8_x86",
    "int8_openvino": ".int8_openvino",
    "int8_plain": ".int8_plain",
}
X86_FORMS: dict[Precision, Form] = {"int8_x86": "onnxruntime", "int8_openvino": "openvino"}
COMPARED_IMAGES = 8
"""Images, beside synthetic ones, on which a file is compared with the float32 file."""


def build_models(
    model: onnx.ModelProto,
    manifest: Manifest,
    precisions: Sequence[Precision],
    calibration: ImageSet | None,
    config: Int8Config,
    learned: Mapping[str, float],
) -> dict[Precision, tuple[onnx.ModelProto, Int8Result | None]]:
    """The graph of each precision, float32 always included, with its INT8 recipe where it has one.

    learned: activation ranges from quantisation-aware training, empty if there are none; they replace calibration in
    TensorRT's forms.
    """
    built: dict[Precision, tuple[onnx.ModelProto, Int8Result | None]] = {"float32": (model, None)}
    if "float16" in precisions:
        built["float16"] = (to_half(model), None)
    if {"int8", "int8_float16"} & set(precisions):
        result = int8_from_learned(model, learned) if learned else _calibrated(model, manifest, calibration, config)
        if "int8" in precisions:
            built["int8"] = (result.model, result)
        if "int8_float16" in precisions:
            built["int8_float16"] = (to_half(result.model), result)
    for precision, form in X86_FORMS.items():
        if precision in precisions:
            # Equalisation would split layers that these engines fuse.
            own = config.model_copy(update={"form": form, "equalize": False})
            base = fuse_for_onnxruntime(model) if form == "onnxruntime" else model
            result = _calibrated(base, manifest, calibration, own)
            built[precision] = (result.model, result)
    if "int8_plain" in precisions:
        result = _calibrated(model, manifest, calibration, PLAIN)
        built["int8_plain"] = (result.model, result)
    return built


def write_artefact(
    folder: Path, stem: str, precision: Precision, model: onnx.ModelProto, manifest: Manifest, recipe: Int8Result | None
) -> Artefact:
    """Write one file; its manifest names the precision it was converted to."""
    path = folder / f"{stem}{SUFFIX[precision]}.onnx"
    made_by = manifest.made_by if precision == "float32" else f"{manifest.made_by}; {precision}"
    write_onnx(path, model, manifest.model_copy(update={"name": path.stem, "made_by": made_by}))
    content = path.read_bytes()
    artefact = Artefact(precision, path, len(content), hashlib.sha256(content).hexdigest(), recipe=recipe)
    if precision == "float32" or TARGET_ENGINE.get(precision) == "tensorrt":
        _check_for_tensorrt(artefact, model)
    return artefact


def open_for_comparison(path: Path, ours: Manifest) -> Artefact:
    """A file exported earlier (a pruned network, for example) to measure alongside; it is never rejected.

    Raises UserError when its input size or its classes differ from those of `ours`, because latency and AP would not be
    comparable; ModelFileError when it has no manifest.
    """
    theirs = read_manifest(path)
    for what, here, there in (
        ("images of", ours.preprocessing.size_hw, theirs.preprocessing.size_hw),
        ("the classes", ours.class_names, theirs.class_names),
    ):
        if here != there:
            raise UserError(f"--compare {path}: expected a detector for {what} {here}, found {there}")
    content = path.read_bytes()
    artefact = Artefact("float32", path, len(content), hashlib.sha256(content).hexdigest(), label=path.stem)
    count_size(artefact, onnx.load(path))
    return artefact


def count_size(artefact: Artefact, network: onnx.ModelProto) -> None:
    """Fill in parameters and GFLOPs, counted in the float32 network."""
    artefact.parameters = count_parameters(network)
    try:
        artefact.gflops = count_gflops(network)
    except ValueError:
        artefact.gflops = None


def evaluate_artefacts(
    artefacts: Sequence[Artefact],
    engines: Sequence[EngineName],
    images: ImageSet,
    num_threads: int | None,
    protocol: ProtocolName,
) -> None:
    """Fill in the AP of each file in each engine on annotated images."""
    for artefact in artefacts:
        metrics = {engine: evaluate_file(artefact.path, images, engine, num_threads, protocol) for engine in engines}
        artefact.AP = {engine: figures.AP for engine, figures in metrics.items()}
        artefact.AP50 = {engine: figures.AP50 for engine, figures in metrics.items()}


def compare_artefacts(
    artefacts: Sequence[Artefact],
    engines: Sequence[EngineName],
    images: ImageSet | None,
    num_threads: int | None,
    pause_s: float,
) -> None:
    """Fill in latencies, measured in turn, and the difference from the first artefact, the float32 file.

    Files of other exports have no difference: they compute another network.
    """
    reference = artefacts[0]
    size_hw = ImageDetector.load(reference.path, engine=engines[-1]).manifest.preprocessing.size_hw
    files = {artefact.title: artefact.path for artefact in artefacts}
    by_engine = {engine: measure_latencies(files, size_hw, engine, num_threads, pause_s) for engine in engines}
    for artefact in artefacts:
        artefact.latency = {engine: latencies[artefact.title] for engine, latencies in by_engine.items()}
        if not artefact.label:
            artefact.worst_difference = _difference(reference.path, artefact.path, images, engines[-1])


def _check_for_tensorrt(artefact: Artefact, model: onnx.ModelProto) -> None:
    """Reject a file for TensorRT that its parser does not take; float32, which other engines run too, gets a remark."""
    faults = list(map(str, find_unsupported(model)))
    if artefact.precision == "float32":
        artefact.remarks += tuple(f"TensorRT will not take it: {fault}" for fault in faults)
        return
    if artefact.recipe is not None:
        faults = lint_for_tensorrt(model, artefact.recipe.keep_float) + faults
    artefact.rejected = f"{len(faults)} faults for TensorRT: {faults[0]}" if faults else ""


def _calibrated(
    model: onnx.ModelProto, manifest: Manifest, calibration: ImageSet | None, config: Int8Config
) -> Int8Result:
    assert calibration is not None, "the caller asks for calibration images first"
    return make_int8(model, manifest, calibration, config)


def _difference(reference: Path, path: Path, images: ImageSet | None, engine: EngineName) -> float:
    """Worst difference between two files on synthetic images and the first few of `images`."""
    if path == reference:
        return 0.0
    expected, got = ImageDetector.load(reference, engine=engine), ImageDetector.load(path, engine=engine)
    shown = synthetic_images(expected.manifest.preprocessing)
    if images is not None:
        shown += [read_image(file) for file in list(images.files.values())[:COMPARED_IMAGES]]
    return compare(expected, got, shown).worst

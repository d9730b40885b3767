"""The files that one network becomes, each measured and judged: accuracy and latency of the same file and engine.

A file that loses more than allowed, or is not faster than float on the engine that it was made for, does not get the
name that says it is good: it is called `NAME.PRECISION.refused.onnx`, with the reason in the report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from handeye.export.acceptance import ImageSet, Latency, evaluate_file, measure_latencies
from handeye.export.graph.graph_index import count_gflops, count_parameters
from handeye.export.graph.half_precision import to_half
from handeye.export.graph.onnx_export import write_onnx
from handeye.export.graph.operator_support import find_unsupported
from handeye.export.parity import compare, synthetic_images
from handeye.export.quantization.int8_recipe import PLAIN, Form, Int8Config, Int8Result, int8_from_learned, make_int8
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.export.quantization.x86_fusions import with_fewer_passes
from handeye.vision.errors import UserError
from handeye.vision.images import read_image
from handeye.vision.runtime.engines import EngineName
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, read_manifest

Precision = Literal["float32", "float16", "int8", "int8_float16", "int8_x86", "int8_openvino", "int8_plain"]
SUFFIX: dict[Precision, str] = {
    "float32": "",
    "float16": ".fp16",
    "int8": ".int8",
    "int8_float16": ".int8_fp16",
    "int8_x86": ".int8_x86",
    "int8_openvino": ".int8_openvino",
    "int8_plain": ".int8_plain",
}
NEVER_REFUSED: tuple[Precision, ...] = ("float32", "int8_plain")
"""The one that the others are compared with, and the one that shows what the recipe is good for."""
MADE_FOR: dict[Precision, str] = {
    "float16": "tensorrt",
    "int8": "tensorrt",
    "int8_float16": "tensorrt",
    "int8_x86": "onnxruntime",
    "int8_openvino": "openvino",
}
"""The engine on which each is to be fast; another computes its casts and pairs one by one."""
X86_FORMS: dict[Precision, Form] = {"int8_x86": "onnxruntime", "int8_openvino": "openvino"}
COMPARED_IMAGES = 8


@dataclass
class Artefact:
    """One file and all that was measured of it."""

    precision: Precision
    path: Path
    num_bytes: int
    sha256: str
    AP: Mapping[str, float] = field(default_factory=dict)
    """By engine."""
    AP50: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    worst_difference: float = 0.0
    """From the float32 file: scores, and boxes as a share of the input's longer side."""
    recipe: Int8Result | None = None
    refused: str = ""
    """Why it does not get its name; empty if it does."""
    remarks: tuple[str, ...] = ()
    label: str = ""
    """What it is called in tables; empty: its precision."""
    parameters: int = 0
    """In the layers of the float32 network that it computes; 0 where they are not told apart from scales."""
    gflops: float | None = None
    """Of that network; None where a size is not fixed."""

    @property
    def title(self) -> str:
        """Its name in tables and results."""
        return self.label or self.precision


def count_size(artefact: Artefact, network: onnx.ModelProto) -> None:
    """Fill in parameters and GFLOPs from the network that the file computes."""
    artefact.parameters = count_parameters(network)
    try:
        artefact.gflops = count_gflops(network)
    except ValueError:
        artefact.gflops = None


def open_beside(path: Path, ours: Manifest) -> Artefact:
    """A file that was exported before, to be measured as a row of its own: a pruned network, say. It is never refused.

    Raises UserError for one that takes images of another size or knows other classes than `ours`, for then neither
    time nor AP could be compared; ModelFileError for one without a manifest.
    """
    theirs = read_manifest(path)
    for what, here, there in (
        ("images of", ours.preprocessing.size_hw, theirs.preprocessing.size_hw),
        ("the classes", ours.class_names, theirs.class_names),
    ):
        if here != there:
            raise UserError(f"--beside {path}: expected a detector for {what} {here}, found {there}")
    content = path.read_bytes()
    artefact = Artefact("float32", path, len(content), hashlib.sha256(content).hexdigest(), label=path.stem)
    count_size(artefact, onnx.load(path))
    return artefact


def build_models(
    model: onnx.ModelProto,
    manifest: Manifest,
    precisions: Sequence[Precision],
    calibration: ImageSet | None,
    config: Int8Config,
    learned: Mapping[str, float],
) -> dict[Precision, tuple[onnx.ModelProto, Int8Result | None]]:
    """The graph of each precision asked for. `calibration` is needed by all of int8 that was not
    learned; ranges learned in training (none: empty) serve TensorRT's form."""
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
            # Dividing channels would take layers apart that these engines compute in one.
            own = config.model_copy(update={"form": form, "equalize": False})
            base = with_fewer_passes(model) if form == "onnxruntime" else model
            result = _calibrated(base, manifest, calibration, own)
            built[precision] = (result.model, result)
    if "int8_plain" in precisions:
        result = _calibrated(model, manifest, calibration, PLAIN)
        built["int8_plain"] = (result.model, result)
    return built


def write_artefact(
    folder: Path, stem: str, precision: Precision, model: onnx.ModelProto, manifest: Manifest, recipe: Int8Result | None
) -> Artefact:
    """Write one file; what it was made by says its precision."""
    path = folder / f"{stem}{SUFFIX[precision]}.onnx"
    made_by = manifest.made_by if precision == "float32" else f"{manifest.made_by}; {precision}"
    write_onnx(path, model, manifest.model_copy(update={"name": path.stem, "made_by": made_by}))
    content = path.read_bytes()
    artefact = Artefact(precision, path, len(content), hashlib.sha256(content).hexdigest(), recipe=recipe)
    if precision == "float32" or MADE_FOR.get(precision) == "tensorrt":
        _hold_to_tensorrt(artefact, model)
    return artefact


def evaluate_artefacts(
    artefacts: Sequence[Artefact], engines: Sequence[EngineName], images: ImageSet, num_threads: int | None
) -> None:
    """Fill in the AP of each file in each engine on annotated images."""
    for artefact in artefacts:
        metrics = {engine: evaluate_file(artefact.path, images, engine, num_threads) for engine in engines}
        artefact.AP = {engine: figures.AP for engine, figures in metrics.items()}
        artefact.AP50 = {engine: figures.AP50 for engine, figures in metrics.items()}


def compare_artefacts(
    artefacts: Sequence[Artefact],
    engines: Sequence[EngineName],
    images: ImageSet | None,
    num_threads: int | None,
    pause_s: float,
) -> None:
    """Fill in latencies, measured in turn, and the difference from the first artefact, the float32 file; a file
    shown beside computes another network, so that its difference says nothing."""
    reference = artefacts[0]
    size_hw = ImageDetector.load(reference.path, engine=engines[-1]).manifest.preprocessing.size_hw
    files = {artefact.title: artefact.path for artefact in artefacts}
    by_engine = {engine: measure_latencies(files, size_hw, engine, num_threads, pause_s) for engine in engines}
    for artefact in artefacts:
        artefact.latency = {engine: latencies[artefact.title] for engine, latencies in by_engine.items()}
        if not artefact.label:
            artefact.worst_difference = _difference(reference.path, artefact.path, images, engines[-1])


def judge_artefacts(artefacts: Sequence[Artefact], allowed_loss: float) -> None:
    """Refuse files that lose more AP than allowed or gain no time on the engine they were made for, and rename them."""
    reference = artefacts[0]
    for artefact in artefacts:
        if artefact.precision in NEVER_REFUSED:
            continue
        reasons = [artefact.refused] if artefact.refused else []
        reasons += _loss_reason(artefact, reference, allowed_loss)
        reasons += _speed_reason(artefact, reference)
        artefact.refused = "; ".join(reasons)
        if reasons:
            moved = artefact.path.with_name(f"{artefact.path.stem}.refused.onnx")
            artefact.path = artefact.path.replace(moved)


def judging_engine(artefact: Artefact) -> str | None:
    """The engine whose AP counts: the one it was made for if that is here, or ONNX Runtime, which computes what the
    pairs say; None where nothing was measured."""
    names = list(artefact.AP or artefact.latency)
    wanted = (MADE_FOR.get(artefact.precision, ""), "onnxruntime", *names)
    return next((name for name in wanted if name in names), None)


def _hold_to_tensorrt(artefact: Artefact, model: onnx.ModelProto) -> None:
    """Refuse a file made for TensorRT that its parser would not take; the float32 file serves other engines, too."""
    faults = list(map(str, find_unsupported(model)))
    if artefact.precision == "float32":
        artefact.remarks += tuple(f"TensorRT will not take it: {fault}" for fault in faults)
        return
    if artefact.recipe is not None:
        faults = lint_for_tensorrt(model, artefact.recipe.keep_float) + faults
    artefact.refused = f"{len(faults)} faults for TensorRT: {faults[0]}" if faults else ""


def _loss_reason(artefact: Artefact, reference: Artefact, allowed_loss: float) -> list[str]:
    engine = judging_engine(artefact)
    if engine is None or engine not in artefact.AP:
        return []
    reasons = []
    loss = reference.AP[engine] - artefact.AP[engine]
    if loss > allowed_loss:
        reasons.append(f"loses {loss:.4f} AP on {engine}, allowed are {allowed_loss:.4f}")
    for other, value in artefact.AP.items():
        if other != engine and reference.AP[other] - value > allowed_loss and loss <= allowed_loss:
            artefact.remarks += (
                f"do not run it on {other}: AP {value:.4f} there, {artefact.AP[engine]:.4f} on {engine}",
            )
    return reasons


def _speed_reason(artefact: Artefact, reference: Artefact) -> list[str]:
    """Why it is too slow where it is to be fast; remarks that nobody knows if that engine is not here."""
    engine = MADE_FOR[artefact.precision]
    if engine not in artefact.latency:
        artefact.remarks += (f"made for {engine}, which is not here: its speed was not judged",)
        return []
    ours, floats = artefact.latency[engine].best_ms, reference.latency[engine].best_ms
    return [f"takes {ours:.2f} ms on {engine}, float32 takes {floats:.2f} ms"] if ours >= floats else []


def _calibrated(
    model: onnx.ModelProto, manifest: Manifest, calibration: ImageSet | None, config: Int8Config
) -> Int8Result:
    assert calibration is not None, "the caller asks for calibration images first"
    return make_int8(model, manifest, calibration, config)


def _difference(reference: Path, path: Path, images: ImageSet | None, engine: EngineName) -> float:
    """Worst difference between two files on synthetic images and some of the given ones."""
    if path == reference:
        return 0.0
    expected, got = ImageDetector.load(reference, engine=engine), ImageDetector.load(path, engine=engine)
    shown = synthetic_images(expected.manifest.preprocessing)
    if images is not None:
        shown += [read_image(file) for file in list(images.files.values())[:COMPARED_IMAGES]]
    return compare(expected, got, shown).worst

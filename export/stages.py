"""The stages of an export that need torch or onnx: open or trace the network, write each precision, measure, accept."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from handeye.export.acceptance import accept_or_reject
from handeye.export.artefacts import (
    build_models,
    compare_artefacts,
    count_size,
    evaluate_artefacts,
    open_for_comparison,
    write_artefact,
)
from handeye.export.graph.free_shapes import FIXED, FreeShapes, measure_free_shapes
from handeye.export.graph.graph_index import count_gflops, count_parameters
from handeye.export.graph.nms_in_graph import nms_in_graph
from handeye.export.graph.onnx_export import export_onnx, open_onnx
from handeye.export.measurement import ImageSet
from handeye.export.parity import EngineParity, measure_parity
from handeye.export.quantization.int8_recipe import Int8Config
from handeye.export.request import ExportRequest
from handeye.export.result import Artefact, ExportResult, origin_of
from handeye.vision.checkpoints.native import load_activation_ranges, load_detector
from handeye.vision.data.formats import is_annotated
from handeye.vision.detector import Detector
from handeye.vision.evaluation.torch_session import detector_manifest
from handeye.vision.runtime.engines import installed_engines
from handeye.vision.runtime.manifest import Manifest


def make_artefacts(request: ExportRequest) -> ExportResult:
    """Write and measure the ONNX files of a request, and its report; everything but the engine."""
    learned_ranges = {} if request.is_onnx else load_activation_ranges(request.model)
    request.require_calibration(has_learned_ranges=bool(learned_ranges))
    calibration, evaluation = calibration_images(request), _evaluation_images(request)
    detector = None if request.is_onnx else load_detector(request.model)
    if detector is None:
        model, manifest = _opened(request)
        compared = _open_compared(request, manifest)
    else:
        compared = _open_compared(request, detector_manifest(detector, request.model.stem, request.classes))
        model, manifest = _exported(request, detector)
    config = Int8Config(allowed_loss=request.allowed_loss)
    built = build_models(model, manifest, request.precisions, calibration, config, learned_ranges)
    artefacts: list[Artefact] = []
    for precision, (graph, recipe) in built.items():
        final = (graph, manifest) if request.nms == "outside" else nms_in_graph(graph, manifest)
        artefacts.append(write_artefact(request.output, request.model.stem, precision, *final, recipe))
        count_size(artefacts[-1], model)
    parity = [] if detector is None else _measure_parity(request, detector, artefacts[0])
    artefacts += compared
    _measure_and_accept(request, artefacts, evaluation)
    facts = _facts(request, model)
    report = None
    if request.report:
        from handeye.export.report import write_report  # Matplotlib takes a second

        report = write_report(request.output, request.model.stem, artefacts, facts)
    return ExportResult(artefacts=artefacts, parity=parity, facts=facts, report=report)


def calibration_images(request: ExportRequest) -> ImageSet | None:
    """A folder of images as it is, or the images of annotations (of a data.yaml its split train); None without any."""
    if request.calibrate is None:
        return None
    if request.calibrate.is_dir() and not is_annotated(request.calibrate):
        return ImageSet.from_folder(request.calibrate)
    return ImageSet.from_annotations(request.calibrate, request.calibrate_images, split="train")


def _evaluation_images(request: ExportRequest) -> ImageSet | None:
    return None if request.annotations is None else ImageSet.from_annotations(request.annotations, request.images)


def _opened(request: ExportRequest) -> tuple[onnx.ModelProto, Manifest]:
    """The float32 graph of an ONNX file, and its manifest."""
    model, manifest = open_onnx(request.model, request.model_format)
    wanted = {"score_threshold": request.score_threshold, "iou_threshold": request.iou_threshold}
    changes = {name: value for name, value in wanted.items() if value is not None}
    return model, manifest.model_copy(update=changes | {"made_by": origin_of(request.model)})


def _exported(request: ExportRequest, detector: Detector) -> tuple[onnx.ModelProto, Manifest]:
    """The same of a checkpoint, which is written on the way."""
    path = request.output / f"{request.model.stem}.onnx"
    manifest = export_onnx(
        detector,
        path,
        made_by=origin_of(request.model),
        class_names=request.classes,
        score_threshold=request.score_threshold,
        iou_threshold=request.iou_threshold,
        free=_free_shapes(request),
    )
    return onnx.load(path), manifest


def _free_shapes(request: ExportRequest) -> FreeShapes:
    return FreeShapes(batch=request.dynamic_batch, size=request.dynamic_size)


def _open_compared(request: ExportRequest, manifest: Manifest) -> list[Artefact]:
    """The files to compare with. Raises UserError, before anything is computed, for one that does not fit."""
    return [open_for_comparison(path, manifest) for path in request.compare]


def _measure_parity(request: ExportRequest, detector: Detector, artefact: Artefact) -> list[EngineParity]:
    """How far the file is from torch, in all shapes that it takes."""
    parity, free = measure_parity(detector, artefact.path), _free_shapes(request)
    if free == FIXED:
        return parity
    return parity + measure_free_shapes(detector, artefact.path, free, installed_engines())


def _measure_and_accept(request: ExportRequest, artefacts: Sequence[Artefact], evaluation: ImageSet | None) -> None:
    """Fill in AP, and, where there is anything to compare or a report to write, latency and what is rejected."""
    engines = installed_engines()
    if evaluation is not None:
        evaluate_artefacts(artefacts, engines, evaluation, request.threads, request.protocol)
    if len(artefacts) > 1 or request.report:
        compare_artefacts(artefacts, engines, evaluation, request.threads, request.pause_s)
        accept_or_reject(artefacts, request.allowed_loss)


def _facts(request: ExportRequest, model: onnx.ModelProto) -> dict[str, str]:
    """Source, size and conditions of an export; GFLOPs are left out where a dimension is not fixed."""
    facts = {"made from": origin_of(request.model), "parameters": f"{count_parameters(model) / 1e6:.3f} M"}
    try:
        facts["GFLOPs"] = f"{count_gflops(model):.3f}"
    except ValueError as error:
        facts["GFLOPs"] = f"not counted: {error}"
    if request.calibrate is not None:
        facts["calibrated on"] = str(request.calibrate)
    if request.annotations is not None:
        facts["evaluated on"] = (
            f"{request.annotations}, protocol {request.protocol}, allowed loss {request.allowed_loss} AP"
        )
    return facts

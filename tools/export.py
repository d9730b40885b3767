"""Write deployment artefacts of a checkpoint and prove that they compute what was trained.

The ONNX file holds everything: decoded boxes in the graph, class names, preprocessing and thresholds in its
metadata. Its outputs are compared with torch's in every engine that is installed. INT8 is calibrated on images; a file
that loses more AP than allowed, or is not faster where it should be, is refused its name and the report says why. An
engine is built from a checkpoint or from such an ONNX file, on the device that will run it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from handeye.export.tensorrt.build_options import BuildOptions
from handeye.tools.command_line import Positional
from handeye.tools.engine_step import build_and_report
from handeye.tools.export_summary import count_facts, origin_of, print_artefacts, print_parity
from handeye.vision.errors import UserError
from handeye.vision.evaluation.torch_session import CHECKPOINT_SUFFIX
from handeye.vision.files import write_json
from handeye.vision.runtime.engine_file import ENGINE_SUFFIX
from handeye.vision.runtime.engines import installed_engines
from handeye.vision.runtime.image_detector import ModelFormat

if TYPE_CHECKING:
    import onnx

    from handeye.export.acceptance import ImageSet
    from handeye.export.artefacts import Artefact, Precision
    from handeye.export.graph.free_shapes import FreeShapes
    from handeye.export.parity import EngineParity
    from handeye.export.quantization.int8_recipe import Int8Result
    from handeye.vision.detector import Detector
    from handeye.vision.runtime.manifest import Manifest

FORMATS: dict[str, Precision] = {
    "onnx": "float32",
    "fp16": "float16",
    "int8": "int8",
    "int8-fp16": "int8_float16",
    "int8-x86": "int8_x86",
    "int8-openvino": "int8_openvino",
    "int8-plain": "int8_plain",
}
ENGINE = "engine"
LEARNABLE = {"int8", "int8-fp16"}
"""Formats that ranges learned in training serve as well as images."""
PARITY_LIMIT = 1e-3
"""Worst difference that rounding may explain, as a fraction; torch in float32 is itself 1e-4 off its float64."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `handeye export` takes."""

    model: Positional[Path]
    """Native checkpoint (.safetensors), or an ONNX file: one that handeye exported, or a foreign one with
    --model-format."""
    format: str = "onnx"
    """Formats to write, separated by commas. onnx: float32, always written; fp16: float16 with float32 islands; int8:
    for TensorRT; int8-fp16: the same with float16 between its layers, for strongly typed networks; int8-x86: for ONNX
    Runtime on x86; int8-openvino: for OpenVINO on x86; int8-plain: everything in 8 bits by the plainest recipe, to
    compare with; engine: TensorRT, for the GPU of this machine, from the smallest file that is not refused."""
    output: Path = Path("runs/export")
    """Folder for the artefacts."""
    model_format: ModelFormat | None = None
    """Format of an ONNX file that another program exported: yolox."""
    classes: str | None = None
    """Classes to keep, separated by commas, in this order; all of them by default."""
    score_threshold: float | None = None
    """Detections below are dropped by whoever runs the file, unless told otherwise."""
    iou_threshold: float | None = None
    """Suppression threshold that the file is run with, unless told otherwise."""
    nms: Literal["outside", "in-graph"] = "outside"
    """Where repetitions of cells' boxes are suppressed: by the run time, or by the file itself, which then gives the
    300 best boxes (1, 300, 6) and cannot be run with another --iou-threshold."""
    dynamic_batch: bool = False
    """Leave the batch size free (--engine.batch bounds it for an engine)."""
    dynamic_size: bool = False
    """Leave height and width free, in steps of the coarsest stride; detectors with positions or anchors cannot."""
    calibrate: Path | None = None
    """Images for INT8: a folder, or a COCO file, with which blocks that lose too much are searched for. A checkpoint
    that was trained with int8 brings its own ranges."""
    calibrate_images: Path | None = None
    """Folder of the images that a COCO file given to --calibrate names; by default where COCO has them."""
    allowed_loss: float = 0.01
    """AP that FP16 and INT8 may lose."""
    annotations: Path | None = None
    """COCO file on which to measure the AP of each artefact."""
    images: Path | None = None
    """Folder of the images that --annotations names."""
    threads: int | None = None
    """Threads of the engines; by default one for each processor."""
    pause_s: float = 0.2
    """Rest before each turn of the latency measurement, in seconds."""
    report: bool = False
    """Measure latency and write report.html, too."""
    beside: tuple[Path, ...] = ()
    """ONNX files that were exported before, of a pruned network, say: each is measured like the others and has a row
    of its own in the tables and the report, called by the name of the file."""
    engine: BuildOptions = BuildOptions()
    """How a TensorRT engine is built."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Export, compare, judge; 1 when the file does not compute what torch does or an artefact is refused."""
    asked = _check(arguments)
    if asked == [ENGINE] and _is_onnx(arguments):
        return _export_engine_alone(arguments)
    from handeye.export.artefacts import build_models, compare_artefacts, evaluate_artefacts, judge_artefacts
    from handeye.export.quantization.int8_recipe import Int8Config

    learned = _learned_ranges(arguments)
    _check_calibration(arguments, asked, learned)
    calibration, judged = _image_sets(arguments)
    model, manifest, detector = _float_model(arguments)
    config = Int8Config(allowed_loss=arguments.allowed_loss)
    precisions: list[Precision] = [FORMATS[name] for name in asked if name != ENGINE]
    beside = _open_beside(arguments.beside, manifest, precisions)
    built = build_models(model, manifest, precisions, calibration, config, learned)
    artefacts = [*_write(arguments, built, manifest), *beside]
    parities = [] if detector is None else _measure(arguments, detector, artefacts[0].path)
    engines = installed_engines()
    if judged is not None:
        evaluate_artefacts(artefacts, engines, judged, arguments.threads)
    if len(artefacts) > 1 or arguments.report:
        compare_artefacts(artefacts, engines, judged, arguments.threads, arguments.pause_s)
        judge_artefacts(artefacts, arguments.allowed_loss)
    return _tell(arguments, artefacts, parities, model)


def _write(
    arguments: Arguments, built: dict[Precision, tuple[onnx.ModelProto, Int8Result | None]], manifest: Manifest
) -> list[Artefact]:
    """Write the file of each precision."""
    from handeye.export.artefacts import count_size, write_artefact

    artefacts = []
    for precision, (graph, recipe) in built.items():
        finished, told = _finished(arguments, graph, manifest)
        artefacts.append(write_artefact(arguments.output, arguments.model.stem, precision, finished, told, recipe))
        count_size(artefacts[-1], built["float32"][0])
    return artefacts


def _open_beside(paths: Sequence[Path], manifest: Manifest, precisions: Sequence[Precision]) -> list[Artefact]:
    """The files that were exported before. Raises UserError, before anything is computed, for one that does not fit."""
    from handeye.export.artefacts import open_beside

    found = [open_beside(path, manifest) for path in paths]
    titles = ["float32", *(one for one in precisions if one != "float32"), *(artefact.title for artefact in found)]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise UserError(f"--beside: two rows would be called {twice[0]}; rename one file")
    return found


def _check(arguments: Arguments) -> list[str]:
    """The formats asked for. Raises UserError for a request that makes no sense."""
    asked = [name.strip() for name in arguments.format.split(",")]
    if unknown := [name for name in asked if name not in FORMATS and name != ENGINE]:
        raise UserError(f"--format {unknown[0]}: this version writes {', '.join([*FORMATS, ENGINE])}")
    if arguments.model.suffix.lower() not in (CHECKPOINT_SUFFIX, ".onnx"):
        raise UserError(f"{arguments.model}: expected a native checkpoint (.safetensors) or an ONNX file (.onnx)")
    if (arguments.annotations is None) != (arguments.images is None):
        raise UserError("--annotations and --images belong together")
    if _is_onnx(arguments) and arguments.classes is not None:
        raise UserError("--classes: classes are chosen when a checkpoint is exported; this is an ONNX file already")
    if _is_onnx(arguments) and (arguments.dynamic_batch or arguments.dynamic_size):
        raise UserError("--dynamic-batch, --dynamic-size: for a checkpoint; the shapes of an ONNX file are as they are")
    if arguments.nms == "in-graph" and (arguments.dynamic_batch or arguments.dynamic_size):
        raise UserError(
            "--nms in-graph: boxes of one image of fixed size are suppressed; leave out --dynamic-batch, -size"
        )
    return asked


def _is_onnx(arguments: Arguments) -> bool:
    return arguments.model.suffix.lower() == ".onnx"


def _export_engine_alone(arguments: Arguments) -> int:
    """An ONNX file becomes an engine: on a device without torch, where nothing is to be compared with."""
    files = _build_engine(arguments, arguments.model)
    if arguments.json is not None:
        write_json(arguments.json, {"files": files, "bytes": {"engine": Path(files["engine"]).stat().st_size}})
    return 0


def _build_engine(arguments: Arguments, onnx_path: Path) -> dict[str, str]:
    path = arguments.output / f"{onnx_path.stem}{ENGINE_SUFFIX}"
    return {"engine": str(build_and_report(onnx_path, path, arguments.engine, Console()).path)}


def _learned_ranges(arguments: Arguments) -> dict[str, float]:
    if _is_onnx(arguments):
        return {}
    from handeye.vision.checkpoints.native import load_activation_ranges

    return load_activation_ranges(arguments.model)


def _check_calibration(arguments: Arguments, asked: Sequence[str], learned: dict[str, float]) -> None:
    """Raises UserError where INT8 has nothing to take its ranges from."""
    int8 = {name for name in asked if name.startswith("int8")}
    if learned:
        int8 -= LEARNABLE
    if int8 and arguments.calibrate is None:
        raise UserError(
            f"--format {','.join(sorted(int8))}: INT8 needs images to see ranges: --calibrate FOLDER or COCO.json"
        )


def _image_sets(arguments: Arguments) -> tuple[ImageSet | None, ImageSet | None]:
    """The images to calibrate on and those to judge on. Raises UserError where one of them is not there."""
    from handeye.export.acceptance import ImageSet

    calibration = judged = None
    if arguments.calibrate is not None:
        is_folder = arguments.calibrate.suffix.lower() != ".json"
        calibration = (
            ImageSet.from_folder(arguments.calibrate)
            if is_folder
            else ImageSet.from_coco(arguments.calibrate, arguments.calibrate_images)
        )
    if arguments.annotations is not None:
        judged = ImageSet.from_coco(arguments.annotations, arguments.images)
    return calibration, judged


def _float_model(arguments: Arguments) -> tuple[onnx.ModelProto, Manifest, Detector | None]:
    """The float32 graph and its manifest, and the detector that a checkpoint holds."""
    if _is_onnx(arguments):
        from handeye.export.graph.third_party_onnx import open_onnx

        model, manifest = open_onnx(arguments.model, arguments.model_format)
        wanted = {"score_threshold": arguments.score_threshold, "iou_threshold": arguments.iou_threshold}
        changes = {name: value for name, value in wanted.items() if value is not None}
        return model, manifest.model_copy(update=changes | {"made_by": origin_of(arguments.model)}), None
    import onnx

    from handeye.export.graph.onnx_export import export_onnx
    from handeye.vision.checkpoints.native import load_detector

    detector = load_detector(arguments.model)
    classes = None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")]
    path = arguments.output / f"{arguments.model.stem}.onnx"
    manifest = export_onnx(
        detector,
        path,
        made_by=origin_of(arguments.model),
        class_names=classes,
        score_threshold=arguments.score_threshold,
        iou_threshold=arguments.iou_threshold,
        free=_free_shapes(arguments),
    )
    return onnx.load(path), manifest, detector


def _free_shapes(arguments: Arguments) -> FreeShapes:
    from handeye.export.graph.free_shapes import FreeShapes

    return FreeShapes(batch=arguments.dynamic_batch, size=arguments.dynamic_size)


def _finished(arguments: Arguments, model: onnx.ModelProto, manifest: Manifest) -> tuple[onnx.ModelProto, Manifest]:
    """With suppression behind it where that is asked for."""
    if arguments.nms == "outside":
        return model, manifest
    from handeye.export.graph.nms_in_graph import nms_in_graph

    return nms_in_graph(model, manifest)


def _measure(arguments: Arguments, detector: Detector, path: Path) -> list[EngineParity]:
    """How far the file is from torch, in all shapes that it takes."""
    from handeye.export.graph.free_shapes import FIXED, measure_free_shapes
    from handeye.export.parity import measure_parity

    parities, free = measure_parity(detector, path), _free_shapes(arguments)
    return parities if free == FIXED else parities + measure_free_shapes(detector, path, free, installed_engines())


def _tell(
    arguments: Arguments, artefacts: Sequence[Artefact], parities: Sequence[EngineParity], model: onnx.ModelProto
) -> int:
    """Print, write report, engine and JSON; the exit code."""
    from handeye.export.report import as_json, write_report

    console = Console()
    if parities:
        print_parity(console, artefacts[0].path, parities)
    print_artefacts(console, artefacts)
    facts = {"made from": origin_of(arguments.model)} | count_facts(model) | _conditions(arguments)
    if arguments.report:
        page = write_report(arguments.output, arguments.model.stem, artefacts, facts)
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    result = as_json(artefacts)
    if ENGINE in [name.strip() for name in arguments.format.split(",")]:
        result["files"] |= _build_engine(arguments, _best_for_an_engine(artefacts))
    worst = max((parity.worst for parity in parities), default=0.0)
    if arguments.json is not None:
        parity: dict[str, Any] = {"parity": {"float32": worst}, "engines": [asdict(parity) for parity in parities]}
        write_json(arguments.json, result | parity | {"facts": facts})
    is_refused = any(artefact.refused for artefact in artefacts)
    return 0 if worst <= PARITY_LIMIT and not any(parity.unmatched for parity in parities) and not is_refused else 1


def _conditions(arguments: Arguments) -> dict[str, str]:
    facts = {}
    if arguments.calibrate is not None:
        facts["calibrated on"] = str(arguments.calibrate)
    if arguments.annotations is not None:
        facts["judged on"] = f"{arguments.annotations}, allowed loss {arguments.allowed_loss} AP"
    return facts


def _best_for_an_engine(artefacts: Sequence[Artefact]) -> Path:
    """The smallest precision written that TensorRT takes and that was not refused."""
    for precision in ("int8_float16", "int8", "float16"):
        for artefact in artefacts:
            if artefact.precision == precision and not artefact.refused:
                return artefact.path
    return artefacts[0].path

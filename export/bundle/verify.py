"""Verify a bundle on this machine: run each model and compare with its golden detections.

Imports neither torch nor onnx: this runs on the robot's computer.
"""

from __future__ import annotations

import functools
import importlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handeye.export.agreement import Agreement, Tolerance, compare_detections
from handeye.export.bundle.archive import Bundle
from handeye.export.bundle.index import BundleError, BundleModel, VerifyEngine
from handeye.export.tensorrt.build_options import BuildOptions
from handeye.vision.errors import MissingPackageError, ModelFileError, UserError
from handeye.vision.images import decode_image
from handeye.vision.runtime.engine_file import ENGINE_SUFFIX, read_engine_file, sha256_of
from handeye.vision.runtime.engines import fastest_engine, require_tensorrt
from handeye.vision.runtime.image_detector import ImageDetector


@dataclass(frozen=True)
class Verdict:
    """Result of one model in one engine; `limit` are the tolerances, `sha256` is that of the file that ran."""

    precision: str
    engine: str
    agreement: Agreement
    limit: Tolerance
    sha256: str
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether detections agree within the limit."""
        return self.agreement.keeps_to(self.limit)


@dataclass(frozen=True)
class PreparedModel:
    """A loaded model and the SHA-256 of its file."""

    detector: ImageDetector
    sha256: str
    warnings: tuple[str, ...] = ()


def choose_engine(bundle: Bundle, asked: VerifyEngine | None) -> VerifyEngine:
    """The requested engine, else TensorRT where it runs, else the fastest that is installed.

    Raises BundleError when the bundle does not support the engine's version, MissingPackageError when it is not
    installed.
    """
    engine = asked or ("tensorrt" if _tensorrt_runs() else fastest_engine())
    if engine == "tensorrt":
        require_tensorrt()
    try:
        version = importlib.import_module(engine).__version__
    except ImportError as error:
        raise MissingPackageError(
            f"the engine {engine!r} is not installed; add it: pip install 'handeye[cpu]'"
        ) from error
    admitted = bundle.index.engines[engine]
    if not admitted.admits(version):
        raise BundleError(f"{bundle.path}: is for {engine} {admitted}; here is {version}")
    return engine


def verify_model(bundle: Bundle, model: BundleModel, prepared: PreparedModel, engine: VerifyEngine) -> Verdict:
    """Detect in every golden image and compare with the golden detections."""
    limit, detector = model.tolerances[engine], prepared.detector
    sure_score = detector.score_threshold + limit.scores
    found = (
        compare_detections(
            model.golden[name].detections(bundle.index.class_names),
            detector(decode_image(bundle.read(name), name)),
            sure_score,
            limit,
        )
        for name in bundle.index.images
    )
    agreement = functools.reduce(operator.add, found, Agreement())
    return Verdict(model.precision, detector.engine, agreement, limit, prepared.sha256, prepared.warnings)


@contextmanager
def unpacked(bundle: Bundle, model: BundleModel, folder: Path) -> Iterator[Path]:
    """Context manager: the model's ONNX file, unpacked to `folder`."""
    path = folder / f"{model.precision}.onnx"
    path.write_bytes(bundle.read(model.file))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def prepare_model(path: Path, engine: VerifyEngine, engines: Path, num_threads: int | None) -> PreparedModel:
    """Load an ONNX file into an engine; for TensorRT, build one in the folder `engines` unless it is there already.

    Raises the errors of the engine.
    """
    if engine != "tensorrt":
        detector = ImageDetector.load(path, engine=engine, num_threads=num_threads)
        return PreparedModel(detector, sha256_of(path.read_bytes()))
    engine_path = engines / f"{path.stem}{ENGINE_SUFFIX}"
    warnings = () if _is_current(engine_path, path) else _build(path, engine_path, engines / "timing.cache")
    return PreparedModel(ImageDetector.load(engine_path), sha256_of(engine_path.read_bytes()), warnings)


def _build(path: Path, engine_path: Path, timing_cache: Path) -> tuple[str, ...]:
    from handeye.export.tensorrt.engine import build_engine

    return build_engine(path, engine_path, BuildOptions(timing_cache=timing_cache)).warnings


def _is_current(engine_path: Path, onnx_path: Path) -> bool:
    """Whether the engine was built from this file and loads here."""
    try:
        file = read_engine_file(engine_path)
        ImageDetector.load(engine_path)
    except ModelFileError:
        return False
    return file.record.onnx_sha256 == sha256_of(onnx_path.read_bytes())


def _tensorrt_runs() -> bool:
    try:
        require_tensorrt()
        from handeye.vision.runtime.cuda_driver import CudaDevice

        CudaDevice()
    except UserError:
        return False
    return True

"""Verify a bundle on this machine: run each model, compare with the golden detections, measure latency.

Where TensorRT runs, its engines are built here; elsewhere ONNX Runtime or OpenVINO are used. Exit code 1: a model
failed; 2: the bundle cannot be used.

examples:
  handeye verify model.handeye.zip --json verified.json
"""

from __future__ import annotations

import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from handeye.export.bundle.archive import Bundle, open_bundle
from handeye.export.bundle.index import BundleModel, VerifyEngine
from handeye.export.bundle.verify import Verdict, choose_engine, prepare_model, unpacked, verify_model
from handeye.tools.benchmark import measure
from handeye.tools.command_line import Positional
from handeye.vision.errors import UserError
from handeye.vision.files import write_json


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What `handeye verify` takes."""

    bundle: Positional[Path]
    """A bundle that `handeye bundle` wrote."""
    engine: Literal["auto", "tensorrt", "onnxruntime", "openvino"] = "auto"
    """Inference engine; auto takes TensorRT where it runs, else the fastest that is installed."""
    engines: Path | None = None
    """Folder for the engines that are built, to keep them; by default they are deleted."""
    threads: int | None = None
    """Threads of ONNX Runtime and OpenVINO; by default one for each processor."""
    repeats: int = 50
    """Images measured for each model, after ten of warm-up."""
    pause_s: float = 1.0
    """Pause before each measurement in seconds, against thermal throttling."""
    json: Path | None = None
    """Write the result to this file."""


def run(arguments: Arguments) -> int:
    """Check the bundle, then every model in it."""
    if arguments.repeats < 1:
        raise UserError(f"--repeats must be at least 1, got {arguments.repeats}")
    console = Console()
    bundle = open_bundle(arguments.bundle)
    engine = choose_engine(bundle, None if arguments.engine == "auto" else arguments.engine)
    with tempfile.TemporaryDirectory() as folder:
        results = [_verify(arguments, bundle, model, engine, Path(folder)) for model in bundle.index.models]
    for verdict, times in results:
        _print_verdict(console, verdict, times)
    passed = all(verdict.passed for verdict, _ in results)
    summary = f"{bundle.index.name}: {len(bundle.index.images)} golden images: {'pass' if passed else 'FAIL'}"
    console.print(summary, highlight=False, markup=False)
    if arguments.json is not None:
        write_json(arguments.json, _result(arguments, bundle, results))
    return 0 if passed else 1


def _verify(
    arguments: Arguments, bundle: Bundle, model: BundleModel, engine: VerifyEngine, folder: Path
) -> tuple[Verdict, dict[str, Any]]:
    """Verdict and latencies of one model."""
    with unpacked(bundle, model, folder) as path:
        prepared = prepare_model(path, engine, arguments.engines or folder, arguments.threads)
    verdict = verify_model(bundle, model, prepared, engine)
    images = [(name, bundle.read(name)) for name in bundle.index.images]
    time.sleep(arguments.pause_s)
    return verdict, measure(prepared.detector, images, arguments.repeats)


def _print_verdict(console: Console, verdict: Verdict, times: dict[str, Any]) -> None:
    """Detections, differences from the golden ones, and latency."""
    found, limit = verdict.agreement, verdict.limit
    infer, total = (times["stages"][stage]["p50_ms"] for stage in ("infer", "total"))
    few = f"; up to {limit.outliers:.0%} of all may be far off or alone" if limit.outliers else ""
    lines = [
        f"{verdict.precision}, {verdict.engine}, {times['threads']} threads: {'pass' if verdict.passed else 'FAIL'}",
        f"  {found.matched} detections found, {found.unmatched} without a partner, {found.far} far off; "
        f"boxes {found.boxes_px:.3f} px apart"
        f"{_limit(limit.boxes_px)}, overlap at least {found.overlap:.3f}{_limit(limit.overlap)}, "
        f"scores {found.scores:.4f}{_limit(limit.scores)}{few}",
        f"  {infer:.2f} ms inference, {total:.2f} ms with reading and preparing (medians of {times['images']} images)",
        *(f"  warning: {warning}" for warning in verdict.warnings),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _limit(value: float | None) -> str:
    return "" if value is None else f" (limit {value:g})"


def _result(arguments: Arguments, bundle: Bundle, results: list[tuple[Verdict, dict[str, Any]]]) -> dict[str, object]:
    return {
        "bundle": str(bundle.path),
        "bundle_sha256": bundle.sha256,
        "passed": all(verdict.passed for verdict, _ in results),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "golden_by": bundle.index.made_by,
        "pause_s": arguments.pause_s,
        "models": [
            {"precision": verdict.precision, "passed": verdict.passed, "file_sha256": verdict.sha256}
            | asdict(verdict.agreement)
            | {"limit": verdict.limit.model_dump(), "warnings": list(verdict.warnings)}
            | times
            for verdict, times in results
        ],
    }

"""Terminal output of `handeye export`: parity with torch, a table of the files, the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from handeye.export.result import Artefact, ExportResult

if TYPE_CHECKING:
    from handeye.export.parity import EngineParity
    from handeye.export.tensorrt.engine import EngineBuild


def print_result(console: Console, result: ExportResult) -> None:
    """Everything but the engine."""
    if result.parity:
        print_parity(console, result.artefacts[0].path, result.parity)
    if result.artefacts:
        print_artefacts(console, result.artefacts)
    if result.report is not None:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    if result.trtexec:
        _print_line(console, f"with trtexec, for other programs: {result.trtexec}")


def print_parity(console: Console, path: Path, parities: Sequence[EngineParity]) -> None:
    """How far each engine is from torch."""
    title = f"{path} ({path.stat().st_size / 1e6:.2f} MB): worst difference from torch"
    table = Table(title=title, title_justify="left")
    for heading in ("engine", "boxes px", "scores", "detections px", "unmatched"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    for parity in parities:
        figures = (f"{parity.boxes_px:.1e}", f"{parity.scores:.1e}", f"{parity.detections_px:.1e}")
        table.add_row(parity.engine, *figures, str(parity.unmatched))
    console.print(table)


def print_artefacts(console: Console, artefacts: Sequence[Artefact]) -> None:
    """A row per file: size, AP and latency in each engine; then rejections and remarks."""
    table = Table(title="exported files", title_justify="left")
    engines = list(artefacts[0].latency or artefacts[0].AP)
    for heading in ("precision", "MB", *(f"{what} {engine}" for engine in engines for what in ("AP", "ms"))):
        table.add_column(heading, justify="left" if heading == "precision" else "right")
    for artefact in artefacts:
        cells = [artefact.title, f"{artefact.num_bytes / 1e6:.2f}"]
        for engine in engines:
            cells.append(f"{artefact.AP[engine]:.4f}" if artefact.AP else "")
            cells.append(f"{artefact.latency[engine].best_ms:.2f}" if artefact.latency else "")
        table.add_row(*cells)
    console.print(table)
    for artefact in artefacts:
        if artefact.rejected:
            _print_line(console, f"rejected: {artefact.path.name}: {artefact.rejected}")
        for remark in artefact.remarks:
            _print_line(console, f"{artefact.title}: {remark}")


def print_engine(console: Console, build: EngineBuild) -> None:
    """Warnings, size, GPU and build time."""
    for warning in build.warnings:
        _print_line(console, f"warning: {warning}")
    record, size = build.record, build.path.stat().st_size / 1e6
    built_for = f"TensorRT {record.tensorrt} for {record.gpu}, built in {build.seconds:.0f} s"
    _print_line(console, f"{build.path} ({size:.2f} MB): {built_for}")


def _print_line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

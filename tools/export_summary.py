"""What `handeye export` tells: the comparison with torch, a table of all artefacts, and the facts above a report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import onnx

    from handeye.export.artefacts import Artefact
    from handeye.export.parity import EngineParity


def origin_of(source: Path) -> str:
    """Program, version and source with its hash: what a file was made from can be told years later."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    try:
        program = f"handeye {version('handeye')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        program = "handeye"
    return f"{program} from {source.name} (sha256 {digest})"


def count_facts(model: onnx.ModelProto) -> dict[str, str]:
    """Parameters and GFLOPs of a graph; GFLOPs are left out where a size is not fixed."""
    from handeye.export.graph.graph_index import count_gflops, count_parameters

    facts = {"parameters": f"{count_parameters(model) / 1e6:.3f} M"}
    try:
        facts["GFLOPs"] = f"{count_gflops(model):.3f}"
    except ValueError as error:
        facts["GFLOPs"] = f"not counted: {error}"
    return facts


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
    """Precision by precision: size, AP and time in each engine, and what is wrong with it."""
    table = Table(title="artefacts", title_justify="left")
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
        if artefact.refused:
            console.print(f"refused: {artefact.path.name}: {artefact.refused}", highlight=False, soft_wrap=True)
        for remark in artefact.remarks:
            console.print(f"{artefact.title}: {remark}", highlight=False, soft_wrap=True)

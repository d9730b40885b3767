"""Accept or reject exported files by the AP they lose and the time they save.

A file that loses more AP than allowed, or is not faster than float32 on its target engine, is rejected: it is renamed
to `NAME.PRECISION.rejected.onnx`, and the report gives the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from handeye.export.request import Precision
from handeye.export.result import TARGET_ENGINE, Artefact

NEVER_REJECTED: tuple[Precision, ...] = ("float32", "int8_plain")
"""The reference, and the plain recipe, which is there to show what the full one gains."""


def accept_or_reject(artefacts: Sequence[Artefact], allowed_loss: float) -> None:
    """Compare each file with the first one, float32; rename those that are rejected and note why."""
    reference = artefacts[0]
    for artefact in artefacts:
        if artefact.precision in NEVER_REJECTED:
            continue
        reasons = [artefact.rejected] if artefact.rejected else []
        reasons += _loss_reason(artefact, reference, allowed_loss)
        reasons += _speed_reason(artefact, reference)
        artefact.rejected = "; ".join(reasons)
        if reasons:
            renamed = artefact.path.with_name(f"{artefact.path.stem}.rejected.onnx")
            artefact.path = artefact.path.replace(renamed)


def _loss_reason(artefact: Artefact, reference: Artefact, allowed_loss: float) -> list[str]:
    """Why it loses too much AP; remarks where another engine computes it badly."""
    engine = artefact.deciding_engine
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
    """Why it is too slow on its target engine; a remark where that engine is not installed."""
    engine = TARGET_ENGINE[artefact.precision]
    if engine not in artefact.latency:
        artefact.remarks += (f"made for {engine}, which is not installed here: speed not checked",)
        return []
    ours, floats = artefact.latency[engine].best_ms, reference.latency[engine].best_ms
    return [f"takes {ours:.2f} ms on {engine}, float32 takes {floats:.2f} ms"] if ours >= floats else []

"""Export report: an HTML page with AP, latency and size of every file, and how each was quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from handeye.export.result import Artefact
from handeye.vision.evaluation.plots import figure
from handeye.vision.files import write_html_report


def write_report(folder: Path, title: str, artefacts: Sequence[Artefact], facts: Mapping[str, str]) -> Path:
    """Write report.html and report.png into a folder and return the page; `facts` are listed above the table."""
    plot_artefacts(folder / "report.png", artefacts)
    page = folder / "report.html"
    write_html_report(page, title, _body(artefacts, facts))
    return page


def plot_artefacts(path: Path, artefacts: Sequence[Artefact]) -> None:
    """AP against latency for every engine, and the size of each file."""
    with figure(path, num_panels=2) as (speed, size):
        engines = list(dict.fromkeys(engine for artefact in artefacts for engine in artefact.latency))
        for engine in engines:
            shown = [artefact for artefact in artefacts if engine in artefact.latency]
            times = [artefact.latency[engine].p50_ms for artefact in shown]
            heights = [artefact.AP.get(engine, 0.0) for artefact in shown]
            speed.plot(times, heights, "o", label=engine)
            for artefact, x, y in zip(shown, times, heights, strict=True):
                speed.annotate(artefact.title, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        is_evaluated = any(artefact.AP for artefact in artefacts)
        speed.set(xlabel="latency, p50 (ms)", ylabel="AP" if is_evaluated else "AP not measured")
        if engines:
            speed.legend()
        size.barh([artefact.title for artefact in artefacts], [artefact.num_bytes / 1e6 for artefact in artefacts])
        size.set(xlabel="file (MB)")


def _body(artefacts: Sequence[Artefact], facts: Mapping[str, str]) -> str:
    engines = list(dict.fromkeys(engine for artefact in artefacts for engine in artefact.latency))
    heads = ["precision", "parameters (M)", "GFLOPs", "MB", "worst difference"]
    heads += [f"{what}, {engine}" for engine in engines for what in ("AP", "AP50", "p50 ms", "fastest ms")]
    rows = "".join(f"<tr>{_cells(artefact, engines)}</tr>" for artefact in artefacts)
    lines = "".join(f"<li>{escape(name)}: {escape(text)}</li>" for name, text in facts.items())
    details = "".join(_details(artefact) for artefact in artefacts)
    return (
        f"<ul>{lines}</ul><table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{rows}</table>"
        f"<p>AP and latency are of that file in that engine. Worst difference from the float32 "
        f"file: scores, and boxes as a fraction of the input's longer side.</p>"
        f"<img src=report.png alt='AP against latency'>{details}"
    )


def _cells(artefact: Artefact, engines: Sequence[str]) -> str:
    cells = [artefact.title, *_size_cells(artefact), f"{artefact.num_bytes / 1e6:.2f}"]
    cells.append("" if artefact.label else f"{artefact.worst_difference:.1e}")
    for engine in engines:
        cells += [f"{values[engine]:.4f}" if engine in values else "" for values in (artefact.AP, artefact.AP50)]
        latency = artefact.latency.get(engine)
        cells += [f"{latency.p50_ms:.2f}", f"{latency.best_ms:.2f}"] if latency else ["", ""]
    return "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _size_cells(artefact: Artefact) -> tuple[str, str]:
    parameters = f"{artefact.parameters / 1e6:.3f}" if artefact.parameters else ""
    return parameters, "" if artefact.gflops is None else f"{artefact.gflops:.3f}"


def _details(artefact: Artefact) -> str:
    """File, hash and conditions of one artefact, and its INT8 recipe."""
    text = f"<h2>{escape(artefact.title)}</h2><p><code>{escape(artefact.path.name)}</code>, "
    text += f"sha256 <code>{artefact.sha256}</code></p>"
    if artefact.rejected:
        text += f"<p class=rejected>Rejected: {escape(artefact.rejected)}</p>"
    text += "".join(f"<p>{escape(remark)}</p>" for remark in artefact.remarks)
    text += "".join(
        f"<p>{escape(one.engine)}, {one.threads} threads, {one.pause_s} s pause before each turn</p>"
        for one in artefact.latency.values()
    )
    if artefact.recipe is not None:
        recipe = artefact.recipe
        quantized = recipe.num_layers - len(recipe.keep_float)
        text += f"<p>{quantized} of {recipe.num_layers} layers in 8 bits, ranges by {escape(recipe.rule)}"
        text += "; tried: " + ", ".join(f"{escape(name)} {score:.4f}" for name, score in recipe.scores.items())
        text += "</p><ul>" + "".join(
            f"<li><code>{escape(name)}</code> in float: {escape(recipe.pinned.get(name, 'sensitive'))}</li>"
            for name in sorted(recipe.keep_float)
        )
        text += "</ul>"
        if recipe.search is not None:
            text += "<p>Search: " + "; ".join(
                f"{len(trial.float_blocks)} blocks in float: AP {trial.score:.4f}, loss {trial.loss:.4f}"
                for trial in recipe.search.trials
            )
            text += "</p>"
    return text

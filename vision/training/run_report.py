"""Write report.html, one self-contained page about a run, from what its folder holds; also while it trains."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from handeye.vision.config import read_yaml
from handeye.vision.evaluation.average_precision import defined
from handeye.vision.evaluation.matching import LEGEND
from handeye.vision.files import whole_files, write_html_report
from handeye.vision.training.run_folder import RunFolder

MAX_CLASSES = 200
"""Rows of the table of classes, the worst first."""


def write_run_report(run: RunFolder) -> Path:
    """Write report.html atomically, with all images inside; returns its path."""
    sections = (
        _summary(run),
        _data(run),
        _curves(run),
        _classes(run),
        _worst(run),
        _batches(run),
        _origin(run),
    )
    write_html_report(run.report, run.path.resolve().name, "".join(sections))
    return run.report


def _summary(run: RunFolder) -> str:
    steps, metrics = run.steps.read(), run.metrics.read()
    rows: dict[str, object] = {"optimizer steps": len(steps)}
    if steps:
        rows["last losses"] = ", ".join(f"{name} {value:.3f}" for name, value in steps[-1]["losses"].items())
    if metrics:
        metric = read_yaml(run.config)["evaluation"]["metric"]
        known = [entry for entry in metrics if defined(entry[metric]) is not None]
        best = max(known, key=lambda entry: (entry[metric], entry["epoch"]), default=None)
        rows[f"best {metric}"] = (
            "undefined: nothing annotated" if best is None else f"{best[metric]:.4f} after epoch {best['epoch']}"
        )
        figures = {
            name: value
            for name, value in metrics[-1].items()
            if isinstance(value, float) and defined(value) is not None
        }
        rows["last evaluation"] = f"epoch {metrics[-1]['epoch']}: " + ", ".join(
            f"{name} {value:.3f}" for name, value in figures.items()
        )
    return _table(rows)


def _data(run: RunFolder) -> str:
    splits = _read_json(run.data)
    if not splits:
        return ""
    parts = []
    for split, content in splits.items():
        counts = sorted(content["boxes_of_class"].items(), key=lambda pair: -pair[1])
        rows: dict[str, object] = {"images": content["images"], "boxes": content["boxes"]}
        rows |= {f"left out: {reason}": count for reason, count in content["left_out"].items()}
        rows["boxes of each class"] = ", ".join(f"{name} {count}" for name, count in counts[:MAX_CLASSES])
        parts.append(f"<h3>{escape(split)}</h3>{_table(rows)}")
    return _section("Data", "".join(parts))


def _curves(run: RunFolder) -> str:
    names = ("losses.png", "metrics.png", "precision_recall.png", "f1.png", "confusion.png")
    return _section("Curves", "".join(_image(run.path / name) for name in names))


def _classes(run: RunFolder) -> str:
    """The table of classes, each at the score threshold with the highest F1."""
    evaluation = _read_json(run.evaluation)
    if not evaluation:
        return ""
    columns = ("AP50", "F1", "threshold", "precision", "recall")
    header = "".join(f"<th>{name}</th>" for name in ("class", *columns))
    rows = "".join(
        f"<tr><td>{escape(one['name'])}</td>" + "".join(f"<td>{one[name]:.3f}</td>" for name in columns) + "</tr>"
        for one in sorted(evaluation["classes"], key=lambda one: one["AP50"])[:MAX_CLASSES]
    )
    note = (
        f"<p>Epoch {evaluation['epoch']}, IoU {evaluation['iou_threshold']}; precision and recall from each class's "
        f"best threshold on. Best for all classes together: {evaluation['score_threshold']:.3f}, with which the "
        "confusion matrix and the worst images are made.</p>"
    )
    return _section("Classes", f"{note}<table><tr>{header}</tr>{rows}</table>")


def _worst(run: RunFolder) -> str:
    worst = _read_json(run.evaluation).get("worst", [])
    images = "".join(
        _image(
            run.path / one["picture"],
            f"{one['image']}: F1 {one['F1']:.2f}, {one['false']} wrong, {one['missed']} missed",
        )
        for one in worst
    )
    return _section("Worst images", f"<p>{escape(LEGEND)}</p>{images}") if images else ""


def _batches(run: RunFolder) -> str:
    images = "".join(_image(path, f"batch {int(path.stem)}") for path in whole_files(run.path / "batches", "*.png"))
    return _section("First batches, as the network sees them", images) if images else ""


def _origin(run: RunFolder) -> str:
    """Command, environment and configuration."""
    origin = dict(_read_json(run.origin))
    command = " ".join(origin.pop("command", []))
    rows = {"command": command, "seed": read_yaml(run.config)["seed"], **dict(_flat(origin))}
    config = escape(run.config.read_text(encoding="utf-8"))
    return _section("Origin", _table(rows)) + _section("Configuration", f"<pre>{config}</pre>")


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield key, ", ".join(f"{name} {one}" for name, one in value.items())
        elif value is not None:
            yield key, value


def _table(rows: Mapping[str, object]) -> str:
    cells: Sequence[str] = [f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items()]
    return f"<table>{''.join(cells)}</table>"


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}"


def _image(path: Path, caption: str = "") -> str:
    """The image embedded in the page; nothing where the run has not drawn it yet."""
    if not path.is_file():
        return ""
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    name = escape(caption or path.stem.replace("_", " "))
    return f'<figure><img src="data:image/png;base64,{content}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

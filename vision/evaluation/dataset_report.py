"""HTML report on a data set: counts, class histogram, box sizes and places, anchors, and problems, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from handeye.vision.boxes.anchors import AnchorFit
from handeye.vision.data.annotations import AnnotationSet, ImageAnnotations
from handeye.vision.data.checks import DatasetFinding
from handeye.vision.errors import SourceError
from handeye.vision.files import replacing, write_html_report
from handeye.vision.images import read_image, write_image
from handeye.vision.runtime.draw import class_colour, draw_box

MAX_CLASSES = 40
MAX_EXAMPLES = 12
MAX_LISTED = 200
MAX_BOXES_DRAWN = 300
EXAMPLE_PX = 640
GRID = 50
PROBLEM_COLOUR = (255, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class DatasetSummary:
    """What the report shows."""

    title: str
    annotations: AnnotationSet
    images: Path
    findings: Sequence[DatasetFinding]
    counts: Mapping[str, object]
    anchors: AnchorFit | None = None


def write_report(folder: Path, summary: DatasetSummary) -> Path:
    """Write report.html, overview.png and examples/*.png into a folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_overview(folder / "overview.png", summary)
    examples = draw_examples(folder / "examples", summary)
    page = folder / "report.html"
    write_html_report(page, summary.title, _body(summary, [example.relative_to(folder) for example in examples]))
    return page


def plot_overview(path: Path, summary: DatasetSummary) -> None:
    """Boxes of each class, widths against heights with the anchors, boxes in an image, and where boxes lie."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _plot_classes(axes[0, 0], summary.annotations)
    _plot_sizes(axes[0, 1], summary)
    per_image = [len(image.boxes) for image in summary.annotations.images]
    axes[1, 0].hist(per_image, bins=_count_edges(max(per_image)))
    axes[1, 0].set(xlabel="boxes in an image", ylabel="images")
    axes[1, 1].imshow(_places(summary.annotations), extent=(0, 1, 1, 0), cmap="magma")
    axes[1, 1].set(xlabel="part of the width", ylabel="part of the height", title="how many boxes cover each place")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=100)


def draw_examples(folder: Path, summary: DatasetSummary) -> list[Path]:
    """The images with most findings about their boxes, those boxes in red; unreadable images are skipped."""
    of_image: dict[int, set[int]] = {}
    for finding in summary.findings:
        if finding.image_id is not None and finding.box is not None:
            of_image.setdefault(finding.image_id, set()).add(finding.box)
    images = {image.image_id: image for image in summary.annotations.images}
    drawn = []
    for image_id in sorted(of_image, key=lambda image_id: -len(of_image[image_id]))[:MAX_EXAMPLES]:
        try:
            example_rgb = _draw_example(images[image_id], summary, of_image[image_id])
        except SourceError:
            continue
        path = folder / f"{len(drawn):02d}.png"
        write_image(path, example_rgb)
        drawn.append(path)
    return drawn


def _draw_example(image: ImageAnnotations, summary: DatasetSummary, at_fault: set[int]) -> np.ndarray:
    image_rgb = read_image(summary.images / image.file_name)
    scale = min(1.0, EXAMPLE_PX / max(image_rgb.shape[:2]))
    image_rgb = cv2.resize(image_rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    names = summary.annotations.categories.names
    others = [number for number in range(len(image.boxes)) if number not in at_fault]
    for number in (*others[:MAX_BOXES_DRAWN], *sorted(at_fault)[:MAX_BOXES_DRAWN]):
        class_id = int(image.boxes.class_ids[number])
        is_bad = number in at_fault
        colour = PROBLEM_COLOUR if is_bad else class_colour(class_id)
        draw_box(
            image_rgb, image.boxes.xyxy[number] * scale, names[class_id] if is_bad else "", colour, 3 if is_bad else 1
        )
    return image_rgb


def _plot_classes(axes: Axes, annotations: AnnotationSet) -> None:
    counts = annotations.boxes_per_class()
    order = np.argsort(-counts, kind="stable")[:MAX_CLASSES]
    axes.bar(range(len(order)), counts[order])
    axes.set_xticks(range(len(order)), [annotations.categories.names[number] for number in order], rotation=90)
    rest = len(counts) - len(order)
    axes.set(ylabel="boxes", title=f"the {len(order)} most frequent classes, {rest} more" if rest else "classes")


def _count_edges(most: int) -> np.ndarray:
    """Edges of bins that hold equally many whole numbers."""
    width = max(1, most // 40)
    return np.arange(0, most + width + 1, width) - 0.5


def _plot_sizes(axes: Axes, summary: DatasetSummary) -> None:
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes.xyxy for image in summary.annotations.images)])
    if len(boxes):
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        axes.hexbin(width, height, gridsize=GRID, xscale="log", yscale="log", bins="log", mincnt=1)
    axes.set(xlabel="width, px of the image", ylabel="height", title="sizes of boxes")


def _places(annotations: AnnotationSet) -> np.ndarray:
    """How many boxes cover each cell of a grid over the image, by the corners of each (a two-dimensional sum)."""
    steps = np.zeros((GRID + 1, GRID + 1))
    for image in annotations.images:
        height, width = image.size_hw
        cells = np.clip(image.boxes.xyxy / (width, height, width, height), 0, 1) * GRID
        x1, y1 = np.floor(cells[:, :2]).astype(int).T
        x2, y2 = np.ceil(cells[:, 2:]).astype(int).T
        for rows, columns, sign in ((y1, x1, 1), (y2, x2, 1), (y1, x2, -1), (y2, x1, -1)):
            np.add.at(steps, (rows, columns), sign)
    return steps.cumsum(axis=0).cumsum(axis=1)[:GRID, :GRID]


def _body(summary: DatasetSummary, examples: Sequence[Path]) -> str:
    rows = "".join(
        f"<tr><th align=left>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in summary.counts.items()
    )
    listed = "".join(
        f"<li><b>{escape(finding.kind)}</b> {escape(finding.item)}</li>" for finding in summary.findings[:MAX_LISTED]
    )
    more = len(summary.findings) - MAX_LISTED
    images = "".join(f'<p><img src="{escape(example.as_posix())}" alt="example"></p>' for example in examples)
    anchors = ""
    if summary.anchors is not None:
        sizes = ", ".join(f"{width:.0f} x {height:.0f}" for width, height in summary.anchors.sizes_wh)
        anchors = f"<p>k-means anchors, px of the network input: {escape(sizes)}</p>"
    return (
        f"<table>{rows}</table>{anchors}"
        f'<p><img src="overview.png" alt="overview"></p><h2>Findings: {len(summary.findings)}</h2><ul>{listed}</ul>'
        + (f"<p>and {more} more</p>" if more > 0 else "")
        + (f"<h2>Boxes with problems, in red</h2>{images}" if images else "")
    )

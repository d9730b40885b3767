"""Write demonstrations as one self-contained HTML page: episodes, statistics, charts (inline SVG), image strips."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from handeye.robot.datasets.episode_checks import number_names
from handeye.robot.datasets.format import BOOK_KEEPING, Episode, Feature
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.types import ACTION_KEY, STATE_KEY
from handeye.robot.viewer.episode_view import draw_depth
from handeye.vision.files import write_html_report

CHART_STYLE = (
    "svg{margin:0 .6em .6em 0}svg text{font-size:9px;fill:#555}svg .title{font-size:11px;fill:#000}"
    "svg .frame{fill:#f7f7f7;stroke:#ddd}img{margin-right:2px}"
    ".action{color:#d2691e}.state{color:#1f5fa8}"
)
STRIP_IMAGES, STRIP_HEIGHT_PX = 8, 90
QUALITY = 80

WIDTH_PX, HEIGHT_PX, LEFT_PX, TOP_PX, BOTTOM_PX = 280, 110, 46, 18, 14
BLUE, ORANGE = "#1f5fa8", "#d2691e"
MOST_POINTS = 500
"""Longer lines are thinned evenly, keeping the smallest and the largest value."""


def write_demonstration_page(path: Path, dataset: EpisodeDataset, chosen: Sequence[int]) -> None:
    """Write the page, with `chosen` episodes in full. Raises DatasetError."""
    episodes = "".join(_episode(dataset, index) for index in chosen)
    body = (
        f"{_summary(dataset)}<h2>Numbers</h2>{_numbers(dataset)}"
        f"<h2>Episodes</h2>{_table_of_episodes(dataset, set(chosen))}{episodes}"
    )
    write_html_report(path, dataset.folder.resolve().name, body, CHART_STYLE)


def spread(num_episodes: int, shown: int) -> list[int]:
    """Indices of `shown` episodes, evenly spaced from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, num_episodes - 1, min(shown, num_episodes)).tolist()})


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """Values at times in s; those that are not finite are left out."""

    label: str
    times_s: Float[np.ndarray, " T"]
    values: Float[np.ndarray, " T"]
    colour: str = BLUE


def charts(episode: Episode, features: Mapping[str, Feature], fps: int) -> Iterator[tuple[str, list[Line]]]:
    """One chart for each recorded number; an action is drawn over the state of the same name."""
    times_s = np.arange(len(episode)) / fps
    recorded = {key: _lines(key, episode, feature, times_s) for key, feature in _plotted(features)}
    commands = {line.label.replace("_target", ""): line for line in recorded.pop(ACTION_KEY, [])}
    for key, lines in recorded.items():
        for line in lines:
            command = commands.pop(line.label, None) if key == STATE_KEY else None
            yield line.label, [line] if command is None else [line, command]
    for command in commands.values():
        yield command.label, [command]


def draw_chart(title: str, lines: Sequence[Line]) -> str:
    """The SVG with smallest and largest value and duration; pointing at a line shows its label."""
    finite = [np.isfinite(line.values) for line in lines]
    values = np.concatenate([line.values[good] for line, good in zip(lines, finite, strict=True)])
    times = np.concatenate([line.times_s for line in lines])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    end_s = float(times.max()) if len(times) else 0.0
    paths = "".join(_path(line, good, (low, high), end_s) for line, good in zip(lines, finite, strict=True))
    bottom = HEIGHT_PX - BOTTOM_PX
    return (
        f'<svg viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" width="{WIDTH_PX}" height="{HEIGHT_PX}" role="img">'
        f'<text x="{LEFT_PX}" y="12" class="title">{escape(title)}</text>'
        f'<rect x="{LEFT_PX}" y="{TOP_PX}" width="{WIDTH_PX - LEFT_PX}" height="{bottom - TOP_PX}" class="frame"/>'
        f'<text x="{LEFT_PX - 4}" y="{TOP_PX + 9}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{LEFT_PX - 4}" y="{bottom}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{WIDTH_PX}" y="{HEIGHT_PX - 2}" text-anchor="end">{end_s:.1f} s</text>{paths}</svg>'
    )


def thin(values: Float[np.ndarray, " T"], good: np.ndarray) -> np.ndarray:
    """Which frames to draw: at most MOST_POINTS, the smallest and the largest value among them."""
    frames = np.flatnonzero(good)
    if len(frames) <= MOST_POINTS:
        return frames
    even = frames[np.linspace(0, len(frames) - 1, MOST_POINTS - 2).round().astype(int)]
    return np.union1d(even, frames[[values[frames].argmin(), values[frames].argmax()]])


def _summary(dataset: EpisodeDataset) -> str:
    cameras = [key for key, feature in dataset.features.items() if feature.holds_images]
    rows = {
        "robot": dataset.info.robot_type,
        "episodes": dataset.num_episodes,
        "frames": f"{dataset.num_frames} at {dataset.fps} Hz, {dataset.num_frames / dataset.fps / 60:.1f} minutes",
        "tasks": ", ".join(dataset.tasks),
        "cameras": ", ".join(cameras) or "none",
    }
    return _table((f"<th>{name}</th>", f"<td>{escape(str(value))}</td>") for name, value in rows.items())


def _numbers(dataset: EpisodeDataset) -> str:
    """The statistics of the data set."""
    names = ("min", "max", "mean", "std")
    rows = [tuple(f"<th>{escape(name)}</th>" for name in ("feature", "number", *names))]
    for key, feature in _plotted(dataset.features):
        if key not in dataset.stats:
            continue
        columns = [np.asarray(dataset.stats[key][name], float).reshape(-1) for name in names]
        labels = number_names(key, feature)
        if any(len(column) != len(labels) for column in columns):
            continue
        for place, label in enumerate(labels):
            values = (f'<td class="number">{column[place]:.4g}</td>' for column in columns)
            rows.append((f"<td>{escape(key)}</td>", f"<td>{escape(label)}</td>", *values))
    return _table(rows)


def _table_of_episodes(dataset: EpisodeDataset, chosen: set[int]) -> str:
    rows: list[Sequence[str]] = [("<th>episode</th>", "<th>frames</th>", "<th>seconds</th>", "<th>task</th>")]
    for index in range(dataset.num_episodes):
        length, task = dataset.episode_length(index), dataset.read_episode(index).task
        name = f'<a href="#episode-{index}">{index}</a>' if index in chosen else str(index)
        numbers = (f'<td class="number">{value}</td>' for value in (name, length, f"{length / dataset.fps:.2f}"))
        rows.append((*numbers, f"<td>{escape(task)}</td>"))
    return f"<details open><summary>All {dataset.num_episodes}</summary>{_table(rows)}</details>"


def _episode(dataset: EpisodeDataset, index: int) -> str:
    """Strips of images above, curves below."""
    episode = dataset.read_episode(index)
    strips = "".join(
        f"<h4>{escape(key)}</h4>{''.join(_strip(dataset.read_images(index, key)))}"
        for key, feature in dataset.features.items()
        if feature.holds_images
    )
    curves = "".join(draw_chart(title, lines) for title, lines in charts(episode, dataset.features, dataset.fps))
    heading = f"Episode {index}: {len(episode)} frames, {escape(episode.task)}"
    legend = '<p><span class="state">state</span>, <span class="action">action</span>; point at a line for its name</p>'
    return f'<details open id="episode-{index}"><summary>{heading}</summary>{strips}{legend}{curves}</details>'


def _lines(key: str, episode: Episode, feature: Feature, times_s: np.ndarray) -> list[Line]:
    values = episode.columns[key].reshape(len(episode), -1).astype(np.float64)
    colour = ORANGE if key == ACTION_KEY else BLUE
    return [Line(name, times_s, values[:, place], colour) for place, name in enumerate(number_names(key, feature))]


def _plotted(features: Mapping[str, Feature]) -> Iterator[tuple[str, Feature]]:
    for key, feature in features.items():
        if key not in BOOK_KEEPING and not feature.holds_images and feature.dtype != "string":
            yield key, feature


def _strip(images: np.ndarray) -> Iterator[str]:
    """A few images, evenly spaced over the episode."""
    for frame in spread(len(images), STRIP_IMAGES):
        image = images[frame]
        image_rgb = _depth_in_colours(image) if image.ndim == 2 else image[..., :3]
        yield f'<img src="data:image/jpeg;base64,{_jpeg(image_rgb)}" height="{STRIP_HEIGHT_PX}" alt="frame {frame}">'


def _depth_in_colours(depth_mm: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    return draw_depth(np.where(depth_mm > 0, depth_mm / 1000, np.nan).astype(np.float32))


def _jpeg(image_rgb: UInt8[np.ndarray, "h w 3"]) -> str:
    scale = min(1.0, 2 * STRIP_HEIGHT_PX / image_rgb.shape[0])
    small = cv2.resize(image_rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return base64.b64encode(coded.tobytes()).decode("ascii")


def _table(rows: Iterable[Sequence[str]]) -> str:
    return f"<table>{''.join(_row(cells) for cells in rows)}</table>"


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _path(line: Line, good: np.ndarray, bounds: tuple[float, float], end_s: float) -> str:
    """One polyline; a line that never changes lies in the middle."""
    low, high = bounds
    kept = thin(line.values, good)
    if not len(kept):
        return ""
    inner = HEIGHT_PX - TOP_PX - BOTTOM_PX
    share = (line.values[kept] - low) / (high - low) if high > low else np.full(len(kept), 0.5)
    x = LEFT_PX + (WIDTH_PX - LEFT_PX) * (line.times_s[kept] / end_s if end_s > 0 else np.zeros(len(kept)))
    y = TOP_PX + 2 + (inner - 4) * (1.0 - share)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = escape(line.label)
    return f'<polyline points="{points}" fill="none" stroke="{line.colour}"><title>{label}</title></polyline>'

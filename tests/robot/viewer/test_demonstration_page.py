"""The page of a data set: whole in itself, every number drawn, images that are those of the episode, text escaped."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.viewer.demonstration_page import (
    BOTTOM_PX,
    HEIGHT_PX,
    LEFT_PX,
    MOST_POINTS,
    STRIP_IMAGES,
    TOP_PX,
    WIDTH_PX,
    Line,
    charts,
    draw_chart,
    spread,
    thin,
)
from handeye.tools.command_line import run_command
from tests.robot.datasets.drawn_episodes import FPS, draw_episode, open_writer

LENGTH = 12


class Balanced(HTMLParser):
    """Fails where an element is closed that is not open."""

    ALONE = ("meta", "img", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = open_writer(tmp_path / "set")
    for number in range(3):
        writer.add(draw_episode(number, LENGTH, "lift <b>it</b> & go"))
    return tmp_path / "set"


def test_the_page_is_whole_and_shows_what_was_asked_for(folder: Path, tmp_path: Path) -> None:
    page, file = tmp_path / "page.html", tmp_path / "result.json"
    words = ["show-demonstrations", str(folder), "--output", str(page), "--json", str(file)]
    assert run_command([*words, "--episodes", "0", "2"]) == 0
    text = page.read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "http" not in text
    assert "<b>it</b>" not in text
    assert text.count("lift &lt;b&gt;it&lt;/b&gt; &amp; go") == 1 + 3 + 2
    assert re.findall(r'id="(episode-\d+)"', text) == ["episode-0", "episode-2"]
    # Five numbers of state and action, the clock and the flag, for each of two episodes.
    assert parser.seen.count("svg") == 2 * 7
    assert parser.seen.count("img") == 2 * 2 * STRIP_IMAGES
    assert json.loads(file.read_text())["shown"] == [0, 2]


def test_the_strip_shows_the_episodes_pictures(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run_command(["show-demonstrations", str(folder), "--output", str(page), "--episodes", "1"]) == 0
    coded = re.findall(r"data:image/jpeg;base64,([^\"]+)\"", page.read_text(encoding="utf-8"))[:STRIP_IMAGES]
    shown = [cv2.imdecode(np.frombuffer(base64.b64decode(one), np.uint8), cv2.IMREAD_COLOR) for one in coded]
    recorded = EpisodeDataset.open(folder).read_images(1, "observation.images.top")
    for image, frame in zip(shown, spread(LENGTH, STRIP_IMAGES), strict=True):
        assert image is not None
        np.testing.assert_allclose(image[..., ::-1].mean((0, 1)), recorded[frame].mean((0, 1)), atol=4)


def test_an_action_is_drawn_upon_the_state_that_it_commands(folder: Path) -> None:
    dataset = EpisodeDataset.open(folder)
    episode = dataset.read_episode(0)
    names = {key: dataset.features[key] for key in ("observation.state", "action")}
    apart = list(charts(episode, names, FPS))
    assert [title for title, _ in apart] == ["a", "b", "c", "x", "y"]
    renamed = {
        "observation.state": names["observation.state"],
        "action": type(names["action"])("float32", (2,), ("b_target", "a")),
    }
    drawn = {title: lines for title, lines in charts(episode, renamed, FPS)}
    assert {title: len(lines) for title, lines in drawn.items()} == {"a": 2, "b": 2, "c": 1}
    np.testing.assert_array_equal(drawn["b"][1].values, episode.columns["action"][:, 0].astype(float))


def points_of(svg: str) -> np.ndarray:
    return np.array(
        [[float(part) for part in pair.split(",")] for pair in svg.split('points="')[1].split('"')[0].split()]
    )


def test_a_chart_fills_its_frame_and_names_its_bounds() -> None:
    times_s = np.linspace(0, 4, 9)
    svg = draw_chart("height", [Line("h", times_s, np.array([0, 1, 2, 3, np.nan, 3, 2, 1, -1.0]))])
    points = points_of(svg)
    assert len(points) == 8
    assert (points[:, 0].min(), points[:, 0].max()) == (LEFT_PX, WIDTH_PX)
    assert (points[:, 1].min(), points[:, 1].max()) == (TOP_PX + 2, HEIGHT_PX - BOTTOM_PX - 2)
    assert points[-1, 1] == points[:, 1].max()
    assert [text in svg for text in (">3<", ">-1<", ">4.0 s<", ">height<")] == [True] * 4


@pytest.mark.parametrize("values", [np.full(5, 2.5), np.full(5, np.nan), np.zeros(0), np.ones(1)])
def test_a_chart_of_little_is_drawn_too(values: np.ndarray) -> None:
    svg = draw_chart("flat", [Line("flat", np.arange(len(values)) / 10, values)])
    assert svg.count("<polyline") == int(np.isfinite(values).any())
    assert "nan" not in svg


def test_thinning_keeps_the_extremes() -> None:
    values = np.sin(np.arange(5000) / 7)
    values[[1234, 4321]] = 9.0, -9.0
    kept = thin(values, np.isfinite(values))
    assert len(kept) <= MOST_POINTS
    assert {0, 1234, 4321, 4999} <= set(kept.tolist())


def test_episodes_are_spread_from_the_first_to_the_last() -> None:
    assert spread(3, 8) == [0, 1, 2]
    assert spread(100, 3) == [0, 50, 99]
    assert spread(1, 8) == [0]


def test_mistakes_are_told_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run_command(["show-demonstrations", str(folder), "--output", str(page), "--episodes", "3"]) == 2
    assert "has no episode 3" in capsys.readouterr().err
    assert run_command(["show-demonstrations", str(folder), "--output", str(tmp_path / "page.png")]) == 2
    assert run_command(["show-demonstrations", str(tmp_path / "nowhere"), "--output", str(page)]) == 2
    assert not page.exists()

"""Data sets as converters and editors of LeRobot's leave them: read as they were meant, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.dataset_checks import WRAPPED, check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings
from handeye.robot.datasets.format import numbers
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.robot.learning.config import LeRobotDataConfig
from handeye.robot.learning.data import open_source, signature_of
from handeye.tools.check_demonstrations import summarise
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError
from tests.robot.datasets.drawn_episodes import FEATURES, FPS, draw_episode, open_writer

STATE = "observation.state"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = open_writer(tmp_path)
    for number in range(2):
        writer.add(draw_episode(number, 12))
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def set_names(folder: Path, names: object) -> EpisodeDataset:
    edit(folder / "meta/info.json", lambda info: info["features"][STATE].update(names=names))
    return EpisodeDataset.open(folder)


def edit_places(folder: Path, column: str, change: Callable[[pa.Array], pa.Array]) -> None:
    for path in (folder / "meta/episodes/chunk-000").iterdir():
        table = pq.read_table(path)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, column, change(table.column(column))), path)


def test_a_rate_that_is_a_float(folder: Path) -> None:
    edit(folder / "meta/info.json", lambda info: info.update(fps=float(FPS)))
    dataset = EpisodeDataset.open(folder)
    assert dataset.fps == FPS
    assert isinstance(dataset.fps, int)
    for wrong in (10.5, 0, -1.0, "10", True, None):
        edit(folder / "meta/info.json", lambda info, wrong=wrong: info.update(fps=wrong))
        with pytest.raises(DatasetError, match="fps: expected a whole number above 0"):
            EpisodeDataset.open(folder)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["state"], ("state_0", "state_1", "state_2")),
        (None, ("state_0", "state_1", "state_2")),
        ({"motors": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"left": ["a", "b"], "right": ["a"]}, ("left_a", "left_b", "right_a")),
        ({"z": 2, "x": 0, "y": 1}, ("x", "y", "z")),
        (["a", "gripper", "gripper"], ("a", "gripper[1]", "gripper[2]")),
    ],
)
def test_names_are_one_for_each_number_in_check_and_training(
    folder: Path, names: object, expected: tuple[str, ...]
) -> None:
    dataset = set_names(folder, names)
    assert signature_of(dataset, (), (1, 1)).state_names == expected
    report = check_demonstrations(dataset, WorkCellConfig(), CheckSettings())
    rows = [name for name in summarise(dataset, report)["numbers"] if name.startswith(STATE)]
    assert len(rows) == len(expected)
    assert not report.findings


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("count"),
        lambda row: row.update(count=24),
        lambda row: row.update(mean=None),
        lambda row: row.update(std=["a", "b", "c"]),
        lambda row: row.clear(),
        lambda row: row.update(min=[float("nan")] * 3),
    ],
)
def test_incomplete_statistics_are_measured_again(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    before = EpisodeDataset.open(folder).stats[STATE]
    edit(folder / "meta/stats.json", lambda stats: change(stats[STATE]))
    dataset = EpisodeDataset.open(folder)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(dataset.stats[STATE][name], before[name], rtol=1e-9)
    assert not check_demonstrations(dataset, WorkCellConfig(), CheckSettings()).findings


def test_statistics_that_are_no_table(folder: Path) -> None:
    (folder / "meta/stats.json").write_text("[1]")
    with pytest.raises(DatasetError, match=r"stats\.json: expected statistics by feature, got list"):
        EpisodeDataset.open(folder)


def test_a_path_by_episode_as_v21_had_it(folder: Path) -> None:
    old = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    edit(folder / "meta/info.json", lambda info: info.update(data_path=old, video_path=f"videos/{old}"))
    dataset = EpisodeDataset.open(folder)
    np.testing.assert_array_equal(dataset.read_episode(1).columns["action"], draw_episode(1, 12).columns["action"])
    assert len(dataset.read_images(1, "observation.images.top")) == 12
    for wrong in ("data/{chunk_index", "data/{0}", 7):
        edit(folder / "meta/info.json", lambda info, wrong=wrong: info.update(data_path=wrong))
        with pytest.raises(DatasetError, match=r"info\.json"):
            EpisodeDataset.open(folder)


@pytest.mark.parametrize("column", ["data/chunk_index", "videos/observation.images.top/file_index"])
def test_places_that_pandas_made_floats(folder: Path, column: str) -> None:
    edit_places(folder, column, lambda values: values.cast(pa.float64()))
    dataset = EpisodeDataset.open(folder)
    assert len(dataset.read_episode(1)) == len(dataset.read_images(1, "observation.images.top")) == 12
    for lost in (None, float("nan"), 0.5):
        edit_places(folder, column, lambda values, lost=lost: pa.array([lost] * len(values), pa.float64()))
        with pytest.raises(DatasetError, match=f"meta/episodes: {column} of episode 0 is .*, expected an index"):
            EpisodeDataset.open(folder)


def rename_numbers(folder: Path, names: dict[str, str]) -> None:
    """As openpi's converters call them, in every file."""
    for path in (*(folder / "data").rglob("*.parquet"), *(folder / "meta/episodes").rglob("*.parquet")):
        table = pq.read_table(path)
        columns = ["/".join(str(names.get(part, part)) for part in column.split("/")) for column in table.column_names]
        pq.write_table(table.rename_columns(columns), path)
    for path, inside in ((folder / "meta/info.json", "features"), (folder / "meta/stats.json", None)):
        content = json.loads(path.read_text())
        rows = content if inside is None else content[inside]
        renamed = {names.get(key, key): row for key, row in rows.items()}
        path.write_text(json.dumps(renamed if inside is None else {**content, inside: renamed}))


def test_states_and_actions_under_other_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = EpisodeDataset.open(folder)
    columns = before.read_episode(1).columns
    rename_numbers(folder, {STATE: "state", "action": "actions"})
    assert run_command(["check-demonstrations", str(folder)]) == 1
    told = capsys.readouterr().out
    assert "given twice" not in told, "episodes without known numbers are no copies of each other"
    assert "(--state-key takes another)" in told
    words = ["--state-key", "state", "--action-key", "actions"]
    assert run_command(["check-demonstrations", str(folder), *words]) == 0
    dataset = open_source(LeRobotDataConfig(root=folder, state_key="state", action_key="actions"))
    assert isinstance(dataset, EpisodeDataset)
    for key in (STATE, "action"):
        np.testing.assert_array_equal(dataset.read_episode(1).columns[key], columns[key])
        np.testing.assert_array_equal(dataset.stats[key]["mean"], before.stats[key]["mean"])
    with pytest.raises(DatasetError, match=r"no observation\.state; .* data\.state_key names another"):
        signature_of(EpisodeDataset.open(folder), (), (1, 1))
    with pytest.raises(DatasetError, match="has no numbers 'pose'; it has state, actions"):
        EpisodeDataset.open(folder, {STATE: "pose"})


def walk(offset: float, num: int = 12) -> np.ndarray:
    return np.stack([np.full(num, 0.3), offset + 0.05 * np.arange(num), np.sin(np.arange(num))], 1).astype(np.float32)


def turns_found(folder: Path, name: str, states: list[np.ndarray]) -> list[tuple[int | None, str]]:
    writer = EpisodeWriter.open(folder, FPS, FEATURES | {STATE: numbers(("a", name, "c"))}, "test arm")
    for number, values in enumerate(states):
        episode = draw_episode(number, len(values))
        writer.add(replace(episode, columns={**episode.columns, STATE: values}))
    report = check_demonstrations(EpisodeDataset.open(folder), WorkCellConfig(), CheckSettings())
    assert {finding.kind for finding in report.findings} <= {WRAPPED}
    return [(finding.episode, finding.item) for finding in report.findings]


def test_a_joint_that_wraps_is_found_within_an_episode_and_between_them(tmp_path: Path) -> None:
    wrapped = walk(2.9)
    wrapped[:, 1] = (wrapped[:, 1] + np.pi) % (2 * np.pi) - np.pi
    ((episode, item),) = turns_found(tmp_path / "within", "wrist_3_joint", [walk(0.0), wrapped])
    assert episode == 1
    assert "wrist_3_joint goes from 3.100 to -3.133 in frame 5" in item
    ((episode, item),) = turns_found(tmp_path / "between", "wrist_3_joint", [walk(-3.1), walk(3.1)])
    assert (episode, "+1 turns from episode 0" in item) == (1, True)
    assert not turns_found(tmp_path / "place", "left_mm", [walk(-3.1), walk(3.1)])
    assert not turns_found(tmp_path / "near", "wrist_3_joint", [walk(-1.0), walk(1.5), walk(0.2)])
    assert not turns_found(tmp_path / "spread", "wrist_3_joint", [walk(0.0), walk(2.0), walk(6.0)])

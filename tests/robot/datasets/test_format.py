"""Demonstrations on disk: what is written comes back, a crash costs one episode, and nonsense is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from handeye.robot.datasets import writer as episode_writer
from handeye.robot.datasets.format import BOOK_KEEPING, Episode, numbers, require_same_origin, save_origin
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.statistics import episode_statistics, merge_statistics
from handeye.robot.datasets.writer import EpisodeWriter
from handeye.vision.errors import DatasetError
from tests.robot.datasets.drawn_episodes import FEATURES, FPS, SIZE_HW, draw_episode, open_writer

ROOT = Path(__file__).resolve().parents[3]
MADE_BY_LEROBOT = Path(__file__).parent / "lerobot_dataset"
LENGTHS = (6, 1, 9)


def write_three(folder: Path) -> list[Episode]:
    writer = open_writer(folder)
    episodes = [draw_episode(k, length, "push" if k == 1 else "lift") for k, length in enumerate(LENGTHS)]
    assert [writer.add(episode) for episode in episodes] == [0, 1, 2]
    return episodes


def assert_same(dataset: EpisodeDataset, index: int, episode: Episode) -> None:
    read = dataset.read_episode(index)
    assert read.task == episode.task
    for key in FEATURES.keys() - {"observation.images.top", "depth.top"}:
        np.testing.assert_array_equal(read.columns[key], episode.columns[key])
        assert read.columns[key].dtype == episode.columns[key].dtype
    np.testing.assert_array_equal(dataset.read_images(index, "depth.top"), episode.columns["depth.top"])
    seen = dataset.read_images(index, "observation.images.top").astype(int)
    assert np.abs(seen - episode.columns["observation.images.top"]).max() <= 6


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    episodes = write_three(tmp_path)
    dataset = EpisodeDataset.open(tmp_path)
    assert (dataset.fps, dataset.num_episodes, dataset.num_frames) == (FPS, 3, sum(LENGTHS))
    assert dataset.tasks == ["lift", "push"]
    assert dataset.image_keys == ("observation.images.top",)
    for index, episode in enumerate(episodes):
        assert dataset.episode_length(index) == LENGTHS[index]
        assert_same(dataset, index, episode)
    last = dataset.read_episode(2).columns
    np.testing.assert_array_equal(last["index"], np.arange(7, 16))
    np.testing.assert_allclose(last["timestamp"], np.arange(9) / FPS, atol=1e-7)


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    episodes = write_three(tmp_path)
    stats = EpisodeDataset.open(tmp_path).stats
    states = np.concatenate([episode.columns["observation.state"] for episode in episodes]).astype(np.float64)
    for name, expected in (("min", states.min(0)), ("mean", states.mean(0)), ("std", states.std(0))):
        np.testing.assert_allclose(stats["observation.state"][name], expected, atol=1e-9)
    assert stats["observation.state"]["count"] == [16]
    assert stats["observation.images.top"]["mean"].shape == (3, 1, 1)
    assert stats["observation.images.top"]["max"].max() <= 1.0
    assert "note" not in stats


def test_merging_statistics_does_not_depend_on_how_frames_are_split() -> None:
    values = np.random.default_rng(3).normal(2.0, 5.0, (40, 2)).astype(np.float32)
    feature = {"x": numbers(("a", "b"))}
    whole = episode_statistics({"x": values}, feature)["x"]
    parts = merge_statistics(
        episode_statistics({"x": values[:7]}, feature), episode_statistics({"x": values[7:]}, feature)
    )["x"]
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-9)


def test_rows_are_of_the_types_that_lerobot_asks_for(tmp_path: Path) -> None:
    """LeRobot 0.4.4 casts to these; a data set of ours opens in its LeRobotDataset, videos and depth included."""
    write_three(tmp_path)
    schema = pq.read_schema(tmp_path / "data/chunk-000/file-001.parquet")
    types = {field.name: str(field.type) for field in schema}
    assert types["observation.state"] == "fixed_size_list<element: float>[3]"
    assert types["depth.top"] == "struct<bytes: binary, path: string>"
    assert (types["timestamp"], types["index"], types["is_held"]) == ("float", "int64", "bool")
    assert "observation.images.top" not in types
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-002.parquet").to_pylist()
    assert (rows[0]["dataset_from_index"], rows[0]["dataset_to_index"], rows[0]["length"]) == (7, 16, 9)
    assert rows[0]["tasks"] == ["lift"]
    assert rows[0]["videos/observation.images.top/to_timestamp"] == pytest.approx(0.9)
    assert np.shape(rows[0]["stats/observation.images.top/mean"]) == (3, 1, 1)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert (info["codebase_version"], info["splits"]) == ("v3.0", {"train": "0:3"})
    assert info["features"]["observation.images.top"]["info"]["video.codec"] == "h264"


def test_a_data_set_that_lerobot_wrote_is_read() -> None:
    """Two episodes in shared files, written by lerobot 0.4.4 (AV1 video, PNG images, a matrix, named motors)."""
    dataset = EpisodeDataset.open(MADE_BY_LEROBOT)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 9, 10)
    assert dataset.features["action"].names == ("x", "y")
    for number, (length, task) in enumerate(((5, "lift"), (4, "push"))):
        episode = dataset.read_episode(number)
        frames = np.arange(length)
        assert episode.task == task
        np.testing.assert_allclose(episode.columns["observation.state"][:, 2], number + frames / 10, atol=1e-6)
        np.testing.assert_array_equal(episode.columns["action"], np.stack([frames, -frames], axis=1))
        np.testing.assert_array_equal(episode.columns["reward"], frames / 4)
        np.testing.assert_array_equal(episode.columns["grid"][:, 1, 2], 5 + 100 * number + 10 * frames)
        level = 40 * number + 20 * frames + 20
        top, side = (dataset.read_images(number, f"observation.images.{name}") for name in ("top", "side"))
        assert np.abs(top[:, 30, 40].astype(int) - level[:, None]).max() <= 2
        np.testing.assert_array_equal(side[:, 3, 3, 0], level)
        np.testing.assert_array_equal(side[:, 3, 3, 1:], [[10, 200]] * length)


def test_a_recording_is_taken_up_again(tmp_path: Path) -> None:
    open_writer(tmp_path).add(draw_episode(0))
    assert open_writer(tmp_path).add(draw_episode(1, task="push")) == 1
    dataset = EpisodeDataset.open(tmp_path)
    for index in range(2):
        assert_same(dataset, index, draw_episode(index, task=("lift", "push")[index]))
    assert dataset.stats["action"]["count"] == [12]


def test_more_episodes_than_files_in_a_folder_go_into_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_writer, "FILES_IN_CHUNK", 2)
    write_three(tmp_path)
    assert (tmp_path / "data/chunk-001/file-000.parquet").is_file()
    dataset = EpisodeDataset.open(tmp_path)
    assert_same(dataset, 2, draw_episode(2, 9))


# Crashes ------------------------------------------------------------------------------------------------------------


class PowerCut(Exception):  # noqa: N818 - what happens, not an error of ours
    pass


def cut_after(survives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails when one more file than so many is put in its place."""
    renamed = 0
    replace_file = Path.replace

    def replace_until_the_cut(self: Path, target: Path) -> Path:
        nonlocal renamed
        if renamed == survives:
            raise PowerCut
        renamed += 1
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", replace_until_the_cut)


@pytest.mark.parametrize("survives", range(6))
def test_a_cut_at_any_file_of_an_episode_leaves_those_before_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    writer = open_writer(tmp_path)
    writer.add(draw_episode(0))
    cut_after(survives, monkeypatch)
    with pytest.raises(PowerCut):
        writer.add(draw_episode(1))
    monkeypatch.undo()
    dataset = EpisodeDataset.open(tmp_path)
    assert dataset.num_episodes == 1
    assert dataset.stats["action"]["count"] == [6]
    assert_same(dataset, 0, draw_episode(0))
    assert open_writer(tmp_path).add(draw_episode(2, 3)) == 1
    resumed = EpisodeDataset.open(tmp_path)
    assert_same(resumed, 1, draw_episode(2, 3))
    assert resumed.stats["action"]["count"] == [9]


@pytest.mark.parametrize("survives", range(7))
def test_a_cut_at_any_file_of_the_first_episode_leaves_none_and_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    cut_after(survives, monkeypatch)
    with pytest.raises(PowerCut):
        open_writer(tmp_path).add(draw_episode(1))
    monkeypatch.undo()
    if survives > 0:
        assert EpisodeDataset.open(tmp_path).num_episodes == 0
    assert open_writer(tmp_path).add(draw_episode(0, 3)) == 0
    assert_same(EpisodeDataset.open(tmp_path), 0, draw_episode(0, 3))


RECORDER = """
import sys
from pathlib import Path
from tests.robot.datasets.drawn_episodes import draw_episode, open_writer
writer = open_writer(Path(sys.argv[1]))
while True:
    index = writer.add(draw_episode(writer.info.total_episodes))
    print(index, flush=True)
"""


def test_kill_9_leaves_every_finished_episode(tmp_path: Path) -> None:
    for wait_s in (0.0, 0.02):
        process = subprocess.Popen(
            [sys.executable, "-c", RECORDER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        finished = int(process.stdout.readline()) + 1
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
        finished = max([finished, *(int(line) + 1 for line in process.stdout.read().split())])
        process.wait()
        dataset = EpisodeDataset.open(tmp_path)
        assert dataset.num_episodes in {finished, finished + 1}
        for index in range(dataset.num_episodes):
            assert_same(dataset, index, draw_episode(index))


# Refusals -----------------------------------------------------------------------------------------------------------


def with_column(key: str, values: np.ndarray) -> Episode:
    episode = draw_episode(0)
    return replace(episode, columns=dict(episode.columns) | {key: values})


def without_column(key: str) -> Episode:
    episode = draw_episode(0)
    return replace(episode, columns={name: values for name, values in episode.columns.items() if name != key})


@pytest.mark.parametrize(
    ("episode", "words"),
    [
        (with_column("action", np.full((6, 2), np.nan, np.float32)), "action: NaN or infinity in frame 0"),
        (with_column("action", np.zeros((6, 3), np.float32)), r"action: expected shape \(6, 2\), got \(6, 3\)"),
        (with_column("action", np.zeros((5, 2), np.float32)), "action: expected shape"),
        (with_column("action", np.zeros((6, 2))), "action: expected float32, got float64"),
        (without_column("observation.images.top"), "missing .*observation.images.top"),
        (with_column("observation.images.left", np.zeros((6, *SIZE_HW, 3), np.uint8)), "too many .*images.left"),
        (Episode({key: values[:0] for key, values in draw_episode(0).columns.items()}, "lift"), "without frames"),
    ],
)
def test_a_wrong_episode_is_refused_and_nothing_written(tmp_path: Path, episode: Episode, words: str) -> None:
    writer = open_writer(tmp_path / "set")
    with pytest.raises(DatasetError, match=words):
        writer.add(episode)
    assert not (tmp_path / "set").exists()


def test_another_rate_or_other_features_are_not_mixed_in(tmp_path: Path) -> None:
    write_three(tmp_path)
    with pytest.raises(DatasetError, match="10 frames per second, these have 30"):
        EpisodeWriter.open(tmp_path, 30, FEATURES, "test arm")
    with pytest.raises(DatasetError, match="differ in action"):
        EpisodeWriter.open(tmp_path, FPS, FEATURES | {"action": numbers(("x", "y", "z"))}, "test arm")


def test_a_half_written_first_file_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/.info.7.partial.json").write_text("{")
    assert open_writer(tmp_path).add(draw_episode(0)) == 0


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="neither empty nor a data set"):
        open_writer(tmp_path)


@pytest.mark.parametrize("below", ["", "set"])
def test_a_file_in_the_way_is_named_before_anything_is_recorded(tmp_path: Path, below: str) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="thesis.txt is a file"):
        open_writer(tmp_path / "thesis.txt" / below)


def test_statistics_of_another_data_set_are_refused(tmp_path: Path) -> None:
    write_three(tmp_path / "one")
    open_writer(tmp_path / "two").add(draw_episode(5))
    (tmp_path / "one/meta/stats.json").write_text((tmp_path / "two/meta/stats.json").read_text())
    with pytest.raises(DatasetError, match="statistics of another data set"):
        EpisodeDataset.open(tmp_path / "one")


def test_older_versions_and_other_folders_are_named_as_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a data set of demonstrations"):
        EpisodeDataset.open(tmp_path)
    write_three(tmp_path)
    path = tmp_path / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(DatasetError, match="'v1.6', expected v2.0, v2.1, v3.0"):
        EpisodeDataset.open(tmp_path)
    path.write_text(json.dumps({**info, "features": {key: info["features"][key] for key in FEATURES}}))
    with pytest.raises(DatasetError, match="timestamp"):
        EpisodeDataset.open(tmp_path)


def test_torn_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    write_three(tmp_path)
    data = tmp_path / "data/chunk-000/file-001.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-20])
    with pytest.raises(DatasetError, match="cannot be read as parquet"):
        EpisodeDataset.open(tmp_path).read_episode(1)
    data.write_bytes((tmp_path / "data/chunk-000/file-002.parquet").read_bytes())
    with pytest.raises(DatasetError, match="expected 1 frames of episode 1, found 0"):
        EpisodeDataset.open(tmp_path).read_episode(1)
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    with pytest.raises(DatasetError, match="counts 3 episodes"):
        EpisodeDataset.open(tmp_path)


def test_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """The thousandth file comes after the 999th, in text before it."""
    write_three(tmp_path)
    folder = tmp_path / "meta/episodes/chunk-000"
    for old, new in ((2, 1000), (1, 999)):
        (folder / f"file-{old:03d}.parquet").rename(folder / f"file-{new:03d}.parquet")
    (tmp_path / "meta/episodes/chunk-1000").mkdir()
    (folder / "file-1000.parquet").rename(tmp_path / "meta/episodes/chunk-1000/file-000.parquet")
    (tmp_path / "meta/episodes/chunk-999").mkdir()
    (folder / "file-999.parquet").rename(tmp_path / "meta/episodes/chunk-999/file-1000.parquet")
    assert [EpisodeDataset.open(tmp_path).episode_length(index) for index in range(3)] == list(LENGTHS)


def test_unknown_cameras_and_episodes_are_refused_by_name(tmp_path: Path) -> None:
    write_three(tmp_path)
    dataset = EpisodeDataset.open(tmp_path)
    with pytest.raises(DatasetError, match="no camera 'left'; its cameras: observation.images.top, depth.top"):
        dataset.read_images(0, "left")
    with pytest.raises(DatasetError, match="no episode 3"):
        dataset.read_episode(3)


def test_a_recorded_nan_is_refused_when_read(tmp_path: Path) -> None:
    write_three(tmp_path)
    path = tmp_path / "data/chunk-000/file-001.parquet"
    table = pq.read_table(path)
    column = table.column_names.index("stamp_s")
    pq.write_table(table.set_column(column, "stamp_s", [np.array([np.nan])]), path)
    with pytest.raises(DatasetError, match="stamp_s holds NaN"):
        EpisodeDataset.open(tmp_path).read_episode(1)


def test_book_keeping_is_not_for_recorders() -> None:
    assert not BOOK_KEEPING.keys() & FEATURES.keys()


def test_a_recording_begun_under_the_old_names_of_the_configuration_goes_on(tmp_path: Path) -> None:
    save_origin(tmp_path, {"mishaps": {"nudge_chance": 0.25}, "picture_height": 120, "picture_width": 160})
    origin = {"random_faults": {"nudge_chance": 0.25}, "image_height": 120, "image_width": 160}
    require_same_origin(tmp_path, origin)
    with pytest.raises(DatasetError, match=r"random_faults\.nudge_chance 0\.25, now 0\.5;"):
        require_same_origin(tmp_path, {**origin, "random_faults": {"nudge_chance": 0.5}})

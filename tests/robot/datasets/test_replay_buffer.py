"""Replay buffers: arrays that the test writes itself, the real Push-T demonstrations, and damaged folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from handeye.robot.datasets.replay_buffer import ColumnConfig, ReplayBuffer, read_zarr_array
from handeye.vision.errors import DatasetError

PUSHT = "data/pusht_cchi_v7_lowdim/pusht_cchi_v7_replay.zarr"
FIRST_EPISODES = "policy/pusht/first_episodes.zarr"
"""The first seven of the demonstrations, cut out of the whole set."""
PUSHT_COLUMNS = {"observation.state": ColumnConfig(array="state"), "points": ColumnConfig(array="keypoint")}


def write_array(folder: Path, values: np.ndarray, chunks: tuple[int, ...], compressor: Mapping | None = None) -> None:
    folder.mkdir(parents=True)
    description = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": chunks,
        "dtype": values.dtype.str,
        "compressor": compressor,
        "fill_value": 0,
        "order": "C",
        "filters": None,
    }
    (folder / ".zarray").write_text(json.dumps(description))
    for place in np.ndindex(*(-(-size // step) for size, step in zip(values.shape, chunks, strict=True))):
        corner = tuple(slice(number * step, (number + 1) * step) for number, step in zip(place, chunks, strict=True))
        chunk = np.zeros(chunks, values.dtype)
        chunk[tuple(slice(size) for size in values[corner].shape)] = values[corner]
        content: Any = chunk.tobytes() if compressor is None else numcodecs.get_codec(dict(compressor)).encode(chunk)
        (folder / ".".join(str(number) for number in place)).write_bytes(bytes(content))


def write_buffer(root: Path, ends: list[int], frames: int = 7) -> None:
    write_array(root / "meta/episode_ends", np.array(ends), (2,))
    write_array(root / "data/state", np.arange(3.0 * frames).reshape(frames, 3), (4, 2))
    write_array(root / "data/action", np.ones((frames, 2), np.float32), (frames, 2))


COLUMNS = {"observation.state": ColumnConfig(array="state", take=(2, 0)), "action": ColumnConfig(array="action")}


@pytest.mark.parametrize("compressor", [None, {"id": "zlib", "level": 1}, {"id": "blosc", "cname": "zstd"}])
@pytest.mark.parametrize("chunks", [(7, 5), (3, 2), (20, 20)])
def test_what_is_written_is_read(tmp_path: Path, chunks: tuple[int, int], compressor: Mapping | None) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype("<f4")
    write_array(tmp_path / "array", values, chunks, compressor)
    assert np.array_equal(read_zarr_array(tmp_path / "array"), values)


def test_a_chunk_that_was_left_out_is_the_fill_value(tmp_path: Path) -> None:
    write_array(tmp_path / "array", np.ones((4, 2)), (2, 2))
    (tmp_path / "array/1.0").unlink()
    assert read_zarr_array(tmp_path / "array").tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_episodes_are_cut_where_they_end(tmp_path: Path) -> None:
    write_buffer(tmp_path, [3, 4, 7])
    buffer = ReplayBuffer(tmp_path, COLUMNS, fps=10)
    assert buffer.num_episodes == 3
    assert buffer.read_episode(1).columns["observation.state"].tolist() == [[11, 9]]
    assert len(buffer.read_episode(2).columns["action"]) == 3
    assert buffer.features["observation.state"].names == ("state_2", "state_0")


def test_push_t_is_the_published_set(shared: Callable[[str], Path], sample: Callable[[str], Path]) -> None:
    buffer = ReplayBuffer(shared(PUSHT), PUSHT_COLUMNS, fps=10)
    assert buffer.num_episodes == 206
    assert sum(len(buffer.read_episode(number).columns["points"]) for number in range(206)) == 25650
    assert spread_of_points(buffer) < 0.05
    first = ReplayBuffer(sample(FIRST_EPISODES), PUSHT_COLUMNS, fps=10)
    for number in range(first.num_episodes):
        for key, values in first.read_episode(number).columns.items():
            np.testing.assert_array_equal(values, buffer.read_episode(number).columns[key])


def test_recorded_points_stay_where_they_are_on_the_block(sample: Callable[[str], Path]) -> None:
    buffer = ReplayBuffer(sample(FIRST_EPISODES), PUSHT_COLUMNS, fps=10)
    lengths = [len(buffer.read_episode(number).columns["points"]) for number in range(buffer.num_episodes)]
    assert lengths == [161, 118, 141, 159, 159, 157, 69]
    assert spread_of_points(buffer) < 0.05


def spread_of_points(buffer: ReplayBuffer) -> float:
    """The nine points are fixed to the block: their places in its own frame (px) are the same in all frames."""
    episodes = [buffer.read_episode(number).columns for number in range(buffer.num_episodes)]
    state = np.concatenate([episode["observation.state"] for episode in episodes]).astype(float)
    offset = np.concatenate([episode["points"] for episode in episodes]).reshape(-1, 9, 2) - state[:, None, 2:4]
    cosine, sine = np.cos(state[:, 4, None]), np.sin(state[:, 4, None])
    along = cosine * offset[..., 0] + sine * offset[..., 1]
    across = cosine * offset[..., 1] - sine * offset[..., 0]
    return float(max(along.std(axis=0).max(), across.std(axis=0).max()))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read as a zarr array"):
        ReplayBuffer(tmp_path / "absent", COLUMNS, fps=10)
    write_buffer(tmp_path / "cut", [3, 7])
    (tmp_path / "cut/data/state/0.1").write_bytes(b"short")
    with pytest.raises(DatasetError, match="state: cannot be read"):
        ReplayBuffer(tmp_path / "cut", COLUMNS, fps=10)


@pytest.mark.parametrize("ends", [[3, 3, 7], [4, 3], [0, 7]])
def test_ends_that_do_not_rise_are_refused(tmp_path: Path, ends: list[int]) -> None:
    write_buffer(tmp_path, ends)
    with pytest.raises(DatasetError, match="must rise"):
        ReplayBuffer(tmp_path, COLUMNS, fps=10)


def test_other_lengths_places_and_names_are_refused(tmp_path: Path) -> None:
    write_buffer(tmp_path, [3, 9])
    with pytest.raises(DatasetError, match="state has 7 frames, the episodes 9"):
        ReplayBuffer(tmp_path, COLUMNS, fps=10)
    for column, told in (
        (ColumnConfig(array="state", take=(3,)), "reaches beyond the 3 numbers"),
        (ColumnConfig(array="state", names=("a",)), "1 names are given for 3 numbers"),
    ):
        with pytest.raises(DatasetError, match=told):
            ReplayBuffer(tmp_path, {"observation.state": column}, fps=10)


def test_images_are_told_to_be_elsewhere(tmp_path: Path) -> None:
    write_buffer(tmp_path, [7])
    with pytest.raises(DatasetError, match="without images"):
        ReplayBuffer(tmp_path, COLUMNS, fps=10).read_images(0, "observation.images.top")

"""Replay buffers: arrays that the test writes itself, the real Push-T demonstrations, and damaged folders and files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from handeye.robot.datasets.reader import EpisodeDataset
from handeye.robot.datasets.replay_buffer import ColumnConfig, ReplayBuffer
from handeye.robot.datasets.zarr_store import ZarrStore
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError

zarr: Any = pytest.importorskip("zarr", reason="replay buffers need pip install 'handeye[demonstrations]'")

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


def write_array_v3(
    folder: Path, values: np.ndarray, chunks: tuple[int, ...], codec: Mapping | None, key: Mapping[str, Any]
) -> None:
    """By the letter of the specification, without the library that reads it."""
    bytes_codec = {"name": "bytes", "configuration": {"endian": "little"}}
    description = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": values.shape,
        "data_type": values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": key,
        "fill_value": 0,
        "codecs": [bytes_codec, *([] if codec is None else [codec])],
        "attributes": {},
    }
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(description))
    encode: Callable[[bytes], Any] = bytes if codec is None else CODECS[codec["name"]].encode
    separator = key["configuration"]["separator"]
    for place in np.ndindex(*(-(-size // step) for size, step in zip(values.shape, chunks, strict=True))):
        corner = tuple(slice(number * step, (number + 1) * step) for number, step in zip(place, chunks, strict=True))
        chunk = np.zeros(chunks, values.dtype)
        chunk[tuple(slice(size) for size in values[corner].shape)] = values[corner]
        names = ("c", *map(str, place)) if key["name"] == "default" else tuple(map(str, place))
        path = folder / separator.join(names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(encode(chunk.tobytes())))


CODECS: dict[str, Any] = {"zstd": numcodecs.Zstd(1), "gzip": numcodecs.GZip(1), "blosc": numcodecs.Blosc("zstd")}
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}
BLOSC = {
    "name": "blosc",
    "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": 4, "blocksize": 0},
}
SLASHES = {"name": "default", "configuration": {"separator": "/"}}
DOTS = {"name": "v2", "configuration": {"separator": "."}}


def zip_folder(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for each in folder.rglob("*"):
            file.write(each, inside + each.relative_to(folder).as_posix())
    return path


def opened(root: Path, columns: Mapping[str, ColumnConfig]) -> EpisodeDataset:
    return EpisodeDataset(ReplayBuffer(root, columns, fps=10))


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
    assert np.array_equal(ZarrStore(tmp_path / "array").read(""), values)


@pytest.mark.parametrize("key", [SLASHES, DOTS])
@pytest.mark.parametrize("codec", [None, ZSTD, GZIP, BLOSC])
@pytest.mark.parametrize("chunks", [(7, 5), (3, 2)])
def test_version_3_is_read(tmp_path: Path, chunks: tuple[int, int], codec: Mapping | None, key: Mapping) -> None:
    values = np.random.default_rng(0).normal(size=(7, 5)).astype("<f4")
    write_array_v3(tmp_path / "array", values, chunks, codec, key)
    assert np.array_equal(ZarrStore(tmp_path / "array").read(""), values)


def test_shards_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(8, 6))
    written = zarr.create_array(tmp_path / "array", shape=(8, 6), shards=(4, 6), chunks=(2, 3), dtype="f8")
    written[...] = values
    assert np.array_equal(ZarrStore(tmp_path / "array").read(""), values)


@pytest.mark.parametrize("inside", ["", "pusht/replay.zarr/"])
@pytest.mark.parametrize("version", [2, 3])
def test_zip_files_of_both_versions(tmp_path: Path, version: int, inside: str) -> None:
    folder = tmp_path / "buffer"
    write_buffer(folder, [3, 7])
    if version == 3:
        state, ends = ZarrStore(folder / "data/state").read(""), np.array([3, 7])
        folder = tmp_path / "buffer3"
        write_array_v3(folder / "meta/episode_ends", ends, (2,), None, SLASHES)
        write_array_v3(folder / "data/state", state.astype("<f4"), (4, 2), ZSTD, SLASHES)
        write_array_v3(folder / "data/action", np.ones((7, 2), "<f4"), (7, 2), BLOSC, DOTS)
    path = zip_folder(folder, tmp_path / "buffer.zarr.zip", inside)
    for index in range(2):
        one, other = (opened(root, COLUMNS).read_episode(index) for root in (path, folder))
        for key in COLUMNS:
            np.testing.assert_array_equal(one.columns[key], other.columns[key])
    assert opened(path, COLUMNS).read_episode(1).columns["observation.state"].tolist()[0] == [11, 9]


def test_zip_files_without_one_buffer_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DatasetError, match=r"text\.zip: cannot be read as a zip file"):
        opened(tmp_path / "text.zip", COLUMNS)
    write_buffer(tmp_path / "two/a", [7])
    path = zip_folder(tmp_path / "two", tmp_path / "two.zip")
    assert opened(path, COLUMNS).num_episodes == 1
    write_buffer(tmp_path / "two/b", [7])
    path = zip_folder(tmp_path / "two", tmp_path / "two.zip")
    with pytest.raises(DatasetError, match="expected one zarr store with meta/episode_ends in it, found a/, b/"):
        opened(path, COLUMNS)


def test_check_takes_every_array_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_buffer(tmp_path, [20, 40], frames=40)
    write_array(tmp_path / "data/keypoint", np.random.default_rng(1).normal(size=(40, 2, 2)), (40, 2, 2))
    write_array(tmp_path / "data/img", np.zeros((40, 4, 4, 3), np.uint8), (40, 4, 4, 3))
    for name in ("data", "meta", "."):
        (tmp_path / name / ".zgroup").write_text('{"zarr_format": 2}')
    assert run_command(["check-demonstrations", str(tmp_path)]) == 2
    assert "a replay buffer does not hold its rate: give --fps" in capsys.readouterr().err
    dataset = EpisodeDataset.open(tmp_path, fps=10)
    assert {key: feature.shape for key, feature in dataset.info.recorded.items()} == {
        "observation.state": (3,),
        "action": (2,),
        "keypoint": (4,),
    }
    np.testing.assert_allclose(dataset.stats["observation.state"]["mean"], [58.5, 59.5, 60.5])
    assert ZarrStore(tmp_path).shapes("data")["img"] == (40, 4, 4, 3)
    run_command(["check-demonstrations", str(tmp_path), "--fps", "10"])
    assert "2 episodes of 2.0 to 2.0 s, 40 frames at 10 Hz; cameras: none" in capsys.readouterr().out


def test_a_chunk_that_was_left_out_is_the_fill_value(tmp_path: Path) -> None:
    write_array(tmp_path / "array", np.ones((4, 2)), (2, 2))
    (tmp_path / "array/1.0").unlink()
    assert ZarrStore(tmp_path / "array").read("").tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_episodes_are_cut_where_they_end(tmp_path: Path) -> None:
    write_buffer(tmp_path, [3, 4, 7])
    buffer = opened(tmp_path, COLUMNS)
    assert buffer.num_episodes == 3
    assert buffer.read_episode(1).columns["observation.state"].tolist() == [[11, 9]]
    assert len(buffer.read_episode(2).columns["action"]) == 3
    assert buffer.features["observation.state"].names == ("state_2", "state_0")


@pytest.mark.slow
def test_push_t_is_the_published_set(shared: Callable[[str], Path], sample: Callable[[str], Path]) -> None:
    buffer = opened(shared(PUSHT), PUSHT_COLUMNS)
    assert buffer.num_episodes == 206
    assert sum(len(buffer.read_episode(number).columns["points"]) for number in range(206)) == 25650
    assert spread_of_points(buffer) < 0.05
    first = opened(sample(FIRST_EPISODES), PUSHT_COLUMNS)
    for number in range(first.num_episodes):
        for key, values in first.read_episode(number).columns.items():
            np.testing.assert_array_equal(values, buffer.read_episode(number).columns[key])


def test_recorded_points_stay_where_they_are_on_the_block(sample: Callable[[str], Path]) -> None:
    buffer = opened(sample(FIRST_EPISODES), PUSHT_COLUMNS)
    lengths = [len(buffer.read_episode(number).columns["points"]) for number in range(buffer.num_episodes)]
    assert lengths == [161, 118, 141, 159, 159, 157, 69]
    assert spread_of_points(buffer) < 0.05


def spread_of_points(buffer: EpisodeDataset) -> float:
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
        opened(tmp_path / "absent", COLUMNS)
    write_buffer(tmp_path / "cut", [3, 7])
    (tmp_path / "cut/data/state/0.1").write_bytes(b"short")
    with pytest.raises(DatasetError, match="state: cannot be read"):
        opened(tmp_path / "cut", COLUMNS)


@pytest.mark.parametrize("ends", [[3, 3, 7], [4, 3], [0, 7]])
def test_ends_that_do_not_rise_are_refused(tmp_path: Path, ends: list[int]) -> None:
    write_buffer(tmp_path, ends)
    with pytest.raises(DatasetError, match="must rise"):
        opened(tmp_path, COLUMNS)


def test_other_lengths_places_and_names_are_refused(tmp_path: Path) -> None:
    write_buffer(tmp_path, [3, 9])
    with pytest.raises(DatasetError, match="state has 7 frames, the episodes 9"):
        opened(tmp_path, COLUMNS)
    for column, told in (
        (ColumnConfig(array="state", take=(3,)), "reaches beyond the 3 numbers"),
        (ColumnConfig(array="state", names=("a",)), "1 names are given for 3 numbers"),
    ):
        with pytest.raises(DatasetError, match=told):
            opened(tmp_path, {"observation.state": column})


def test_images_are_told_to_be_elsewhere(tmp_path: Path) -> None:
    write_buffer(tmp_path, [7])
    with pytest.raises(DatasetError, match="without images"):
        ReplayBuffer(tmp_path, COLUMNS, fps=10).read_images(0, "observation.images.top")

"""ACT's HDF5 episodes: what is written is read, under any of the ways in which images are stored, or told by entry."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.datasets.dataset_checks import check_demonstrations
from handeye.robot.datasets.episode_checks import CheckSettings
from handeye.robot.datasets.reader import EpisodeDataset
from handeye.tools.command_line import run_command
from handeye.vision.errors import DatasetError, MissingPackageError

h5py: Any = pytest.importorskip("h5py", reason="HDF5 needs pip install 'handeye[hdf5]'")

SIZE_HW, LENGTH, JOINTS = (32, 40), 60, 14
TOP = "observation.images.top"


def draw(number: int, length: int = LENGTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    qpos = np.cumsum(0.02 * rng.normal(size=(length, JOINTS)), axis=0)
    ramp = np.linspace(20, 235, SIZE_HW[1])
    images = np.zeros((length, *SIZE_HW, 3), np.uint8)
    images[..., 0] = ramp  # red from left to right, blue by time: smooth, so that JPEG keeps them
    images[..., 2] = np.linspace(0, 120, length)[:, None, None]
    return {
        "observations/qpos": qpos,
        "observations/qvel": np.gradient(qpos, axis=0) * 50,
        "observations/images/top": images,
        "observations/images/wrist": images[:, ::-1],
        "action": qpos + 0.01 * (number + 1),
    }


def to_jpeg(images: np.ndarray) -> list[np.ndarray]:
    """As ACT does it: RGB handed to OpenCV as it is."""
    return [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].reshape(-1) for image in images]


def write_images(file: Any, entry: str, images: np.ndarray, storing: str) -> None:
    if storing == "arrays":
        file.create_dataset(entry, data=images, chunks=(1, *images.shape[1:]))
        return
    rows = to_jpeg(images)
    if storing == "padded":
        padded = np.zeros((len(rows), max(map(len, rows)) + 7), np.uint8)
        for row, content in zip(padded, rows, strict=True):
            row[: len(content)] = content
        file[entry] = padded
    elif storing == "lengths":
        rows_of = file.create_dataset(entry, (len(rows),), h5py.vlen_dtype(np.uint8))
        for number, content in enumerate(rows):
            rows_of[number] = content
    else:
        file[entry] = np.array([content.tobytes() for content in rows])


def write_episode(path: Path, columns: dict[str, np.ndarray], storing: str = "arrays") -> None:
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = True
        for entry, values in columns.items():
            if "/images/" in entry:
                write_images(file, entry, values, storing)
            else:
                file[entry] = values
        if storing == "padded":
            file["compress_len"] = np.full((2, len(columns["action"])), 999.0)


@pytest.mark.parametrize(("storing", "levels"), [("arrays", 0), ("padded", 8), ("lengths", 8), ("texts", 8)])
def test_what_is_written_is_read(tmp_path: Path, storing: str, levels: int) -> None:
    for number in range(2):
        write_episode(tmp_path / f"episode_{number}.hdf5", draw(number), storing)
    dataset = EpisodeDataset.open(tmp_path)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (2, 2 * LENGTH, 50)
    assert (dataset.tasks, dataset.info.robot_type) == ([tmp_path.name], "simulated")
    assert set(dataset.image_keys) == {TOP, "observation.images.wrist"}
    assert set(dataset.info.recorded) - set(dataset.image_keys) == {
        "observation.state",
        "observation.qvel",
        "action",
    }
    columns, expected = dataset.read_episode(1).columns, draw(1)
    np.testing.assert_array_equal(columns["observation.state"], expected["observations/qpos"].astype(np.float32))
    np.testing.assert_array_equal(columns["action"], expected["action"].astype(np.float32))
    np.testing.assert_allclose(columns["timestamp"], np.arange(LENGTH) / 50, atol=1e-6)
    images = dataset.read_images(1, TOP).astype(int)
    # 4:2:0 subsampling and quality 95 cost a few levels; red and blue exchanged would cost two hundred.
    assert np.abs(images - expected["observations/images/top"]).max() <= levels
    states = np.concatenate([draw(number)["observations/qpos"] for number in range(2)]).astype(np.float32)
    np.testing.assert_allclose(dataset.stats["observation.state"]["std"], states.std(0, np.float64), rtol=1e-6)
    assert not check_demonstrations(dataset, WorkCellConfig(), CheckSettings()).findings


def test_their_rate_can_be_said(tmp_path: Path) -> None:
    write_episode(tmp_path / "episode_0.hdf5", draw(0))
    dataset = EpisodeDataset.open(tmp_path, fps=30)
    np.testing.assert_allclose(dataset.read_episode(0).columns["timestamp"], np.arange(LENGTH) / 30, atol=1e-6)
    assert dataset.fps == 30


def test_episodes_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_episode(tmp_path / f"episode_{number}.hdf5", draw(number, 50 + number))
    (tmp_path / "._episode_1.hdf5").write_bytes(b"a companion of macOS")
    dataset = EpisodeDataset.open(tmp_path)
    assert [dataset.episode_length(index) for index in range(3)] == [51, 52, 60]
    assert [dataset.first_frame(index) for index in range(3)] == [0, 51, 103]
    assert dataset.read_episode(2).columns["index"][0] == 103


def test_check_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    write_episode(tmp_path / "set/episode_0.hdf5", draw(0))
    assert run_command(["check-demonstrations", str(tmp_path / "set"), "--fps", "25"]) == 0
    assert "1 episodes of 2.4 to 2.4 s, 60 frames at 25 Hz" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert run_command(["show-demonstrations", str(tmp_path / "set/episode_0.hdf5"), "--output", str(page)]) == 0
    assert "observation.images.top" in page.read_text()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def edit(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def replace(entry: str, values: np.ndarray) -> Callable[[Path], None]:
    def change(file: Any) -> None:
        del file[entry]
        file[entry] = values

    return edit(change)


BROKEN = {
    "cut off": (cut, "episode_1.hdf5: cannot be read as HDF5"),
    "no state": (
        edit(lambda file: file.pop("observations/qpos")),
        "lacks /observations/qpos, other than episode_0.hdf5",
    ),
    "no action": (edit(lambda file: file.pop("action")), "episode_1.hdf5: lacks /action"),
    "fewer rows": (replace("observations/qpos", np.zeros((9, JOINTS))), "/observations/qpos has 9 rows, /action 60"),
    "other joints": (replace("action", np.zeros((LENGTH, 7))), r"/action has (7,) in a row, in episode_0.hdf5 (14,)"),
    "other size": (
        replace("observations/images/top", np.zeros((LENGTH, 8, 8, 3), np.uint8)),
        "/observations/images/top has (8, 8, 3) in a row, in episode_0.hdf5 (32, 40, 3)",
    ),
    "text": (replace("action", np.array([b"left"] * LENGTH)), "/action is |S4 (60,), expected a row of numbers"),
    "grey": (
        replace("observations/images/top", np.zeros((LENGTH, 8, 8), np.uint8)),
        "/observations/images/top is uint8 (60, 8, 8), expected uint8 (frames, height, width, 3) or JPEG rows",
    ),
    "no JPEG": (
        replace("observations/images/top", np.ones((LENGTH, 99), np.uint8)),
        "/observations/images/top, row 0: is not an image",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told_by_file_and_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, told = BROKEN[name]
    for number in range(2):
        write_episode(tmp_path / f"episode_{number}.hdf5", draw(number))
    change(tmp_path / "episode_1.hdf5")
    assert run_command(["check-demonstrations", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error


def test_a_damaged_image_and_a_number_that_is_none(tmp_path: Path) -> None:
    columns = draw(0)
    columns["action"][7, 3] = np.nan
    write_episode(tmp_path / "episode_0.hdf5", columns, "padded")
    edit(lambda file: file["observations/images/top"].__setitem__((5, slice(200, None)), 0))(
        tmp_path / "episode_0.hdf5"
    )
    dataset = EpisodeDataset.open(tmp_path)
    with pytest.raises(DatasetError, match=r"episode_0\.hdf5: action holds NaN"):
        dataset.read_episode(0)
    with pytest.raises(DatasetError, match=r"episode 0: .*/observations/images/top, row 5: is cut off"):
        dataset.read_images(0, TOP)


def test_other_layouts_are_told_with_what_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "robomimic.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((4, 7))
    with pytest.raises(
        DatasetError, match=r"robomimic\.hdf5: expected ACT's /observations/qpos and /action, found /data"
    ):
        EpisodeDataset.open(tmp_path)
    (tmp_path / "robomimic.hdf5").rename(tmp_path / "episode.pkl")
    with pytest.raises(DatasetError, match=r"not a data set of demonstrations: episode\.pkl; .* v2\.0 to v3\.0.*hdf5"):
        EpisodeDataset.open(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        EpisodeDataset.open(tmp_path / "absent")


def test_without_h5py_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_episode(tmp_path / "episode_0.hdf5", draw(0))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingPackageError, match=r"handeye\[hdf5\]"):
        EpisodeDataset.open(tmp_path)

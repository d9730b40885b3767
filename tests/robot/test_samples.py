"""The samples in tests/data: each is described with its licence, and what was cut out of larger data is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handeye.vision.images import read_image
from handeye.vision.runtime.sources import open_stream

COPIED = {
    "calibration/handeye_moveit": "data/handeye_moveit",
    "rgbd/open3d": "data/rgbd_open3d",
    "policy/pusht/first_episodes.zarr/data": "data/pusht_cchi_v7_lowdim/pusht_cchi_v7_replay.zarr/data",
}
REWRITTEN = ("odometry.log", ".zarray")
MADE_HERE = ("calibration/points", "policy/act_aloha", "tracking/street")
"""Numbers and drawings of our own: no licence of others lies beside them."""
FOLDERS = ("calibration/*", "rgbd/*", "policy/*", "tracking/*")
MOST_BYTES = 3_000_000


def sample_folders(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for pattern in FOLDERS for path in root.glob(pattern))


def test_every_sample_is_described_and_has_its_licence(sample: Callable[[str], Path]) -> None:
    root = sample(".")
    text, folders = sample("ROBOTICS.md").read_text(encoding="utf-8"), sample_folders(root)
    assert len(folders) >= 6
    for folder in folders:
        assert f"## {folder} (" in text
        assert folder in MADE_HERE or (root / folder / "LICENSE").is_file()
    sizes = [path.stat().st_size for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_BYTES


@pytest.mark.slow
def test_copied_files_are_those_of_the_whole_data(shared: Callable[[str], Path], sample: Callable[[str], Path]) -> None:
    for folder, origin in COPIED.items():
        files = [path for path in sample(folder).rglob("*") if path.is_file() and path.name not in REWRITTEN]
        assert len(files) >= 3
        for path in files:
            assert path.read_bytes() == (shared(origin) / path.relative_to(sample(folder))).read_bytes()


@pytest.mark.slow
def test_arrays_and_the_frame_are_those_of_the_whole_data(
    shared: Callable[[str], Path], sample: Callable[[str], Path]
) -> None:
    for name in ("act_aloha.npz", "act_aloha_g.npz"):
        kept, whole = np.load(sample(f"policy/act_aloha/{name}")), np.load(shared(f"reference/{name}"))
        assert len(kept.files) == 10
        for key in kept.files:
            np.testing.assert_array_equal(kept[key], whole[key])
    with open_stream(str(shared("data/video/bottle-detection.mp4"))) as stream:
        first = next(iter(stream)).image_rgb
    np.testing.assert_array_equal(read_image(sample("tracking/bottles/frame_0.png")), first)

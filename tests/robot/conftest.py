"""For the tests of the robot: recordings that come with the repository, and why others do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "data"
WHOLE = "tests/data holds a part, which this test compares with the whole"
WITHHELD = {
    "data/mot15": "MOT15 is CC BY-NC-SA and may not ship; tests/data/tracking/street stands in for it",
    "data/kitti_tracking": "KITTI is CC BY-NC-SA and may not ship; drives drawn by the tests stand in for it",
    "data/rgbd_tsdf_fusion": "7-Scenes has a research licence and may not ship; a drawn recording stands in for it",
    "data/pusht_cchi_v7_lowdim": "all 206 demonstrations are too much to ship; the first seven are in tests/data",
    "data/handeye_moveit": WHOLE,
    "data/rgbd_open3d": WHOLE,
    "data/video": WHOLE,
    "reference/act_aloha": WHOLE,
}
"""What only ../shared has, and why a clone does not."""


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    """`sample("calibration/handeye_moveit")`: a path below tests/data, which every clone has; a missing one fails."""

    def find(relative: str) -> Path:
        path = SAMPLES / relative
        if not path.exists():
            pytest.fail(f"tests/data holds no {relative}")
        return path

    return find


@pytest.fixture(scope="session")
def shared(shared: Callable[[str], Path]) -> Callable[[str], Path]:
    """As for all tests, but a skip says why a clone lacks the data; data without a reason in WITHHELD fail."""

    def find(relative: str) -> Path:
        reasons = [reason for prefix, reason in WITHHELD.items() if relative.startswith(prefix)]
        if not reasons:
            pytest.fail(f"no reason why tests/data lacks {relative}: add it to the samples or to WITHHELD")
        try:
            return shared(relative)
        except pytest.skip.Exception:
            pytest.skip(f"no ../shared/{relative}: {reasons[0]}")

    return find

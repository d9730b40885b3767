"""For the tests of the robot: where the recordings lie that come with the repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    """`sample("calibration/handeye_moveit")`: a path below tests/data, which every clone has; a missing one fails."""

    def find(relative: str) -> Path:
        path = SAMPLES / relative
        if not path.exists():
            pytest.fail(f"tests/data holds no {relative}")
        return path

    return find

"""`--benchmarks`: measure speed and print it; without it only the correctness of what would be compared is tested."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmarks", action="store_true", help="measure speed as ratios against peers, and print them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # The option is unknown where pytest collects this folder without being pointed at it.
    if config.getoption("--benchmarks", default=False):
        return
    measurements = [item for item in items if "benchmarks_wanted" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=measurements)
    items[:] = [item for item in items if item not in measurements]


@pytest.fixture
def benchmarks_wanted() -> None:
    """Asked for by what measures speed: with `--benchmarks` alone it runs."""

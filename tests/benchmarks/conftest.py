"""`--benchmarks`: measure speed and print it; without it only the correctness of what would be compared is tested."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmarks", action="store_true", help="measure speed as ratios against peers, and print them")


@pytest.fixture
def benchmarks_wanted(request: pytest.FixtureRequest) -> None:
    # Unknown where pytest collects this folder without being pointed at it.
    if not request.config.getoption("--benchmarks", default=False):
        pytest.skip("measures speed; run it with `make benchmark`")

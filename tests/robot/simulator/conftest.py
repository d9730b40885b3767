"""A small scene and a cell that the simulator's tests share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.cell import SimulatedCell, SimulatorConfig
from handeye.robot.simulator.gl_renderer import find_gl_backend
from handeye.robot.simulator.objects import Part, SceneObject
from handeye.robot.simulator.renderers import RendererKind

CELL = WorkCellConfig()
KINDS = (RendererKind.RAYS, RendererKind.GL)


@pytest.fixture(scope="session")
def cell() -> WorkCellConfig:
    return CELL


@pytest.fixture
def simulated() -> Iterator[SimulatedCell]:
    """A cell with the ray renderer, which works everywhere."""
    made = SimulatedCell(CELL, SimulatorConfig.model_validate({"renderer": "rays"}))
    yield made
    made.close()


@pytest.fixture(scope="session")
def needs_gl() -> None:
    if find_gl_backend() is None:
        pytest.skip("neither EGL nor OSMesa works here")


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> RendererKind:
    """Each renderer in turn; GL only where it works."""
    if request.param is RendererKind.GL and find_gl_backend() is None:
        pytest.skip("neither EGL nor OSMesa works here")
    return request.param


def make_cube(
    edge_m: float, pos: tuple[float, float, float], class_id: int | None = 0, name: str = "object_0"
) -> SceneObject:
    """A red cube of 80 g at a place."""
    half = edge_m / 2
    part = Part("box", (half, half, half))
    return SceneObject(name, (part,), (0.8, 0.1, 0.1, 1.0), 0.08, half, half * 1.42, class_id).placed(pos)


def straight_line(start: np.ndarray, end: np.ndarray, count: int) -> np.ndarray:
    """Joint set-points from start to end with zero speed and acceleration at both ends."""
    s = np.linspace(0, 1, count + 1)[1:, None]
    return start + (end - start) * (10 * s**3 - 15 * s**4 + 6 * s**5)

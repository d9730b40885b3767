"""What arm and hand touch in a simulated scene, by kind: quick enough to be asked after every physics step."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import mujoco
import numpy as np

from handeye.robot.simulator.robot_model import CORE_SUFFIX
from handeye.robot.simulator.scene import Scene


class Touched(IntEnum):
    """What a part of arm or hand touches."""

    SELF = 0
    TABLE = 1
    """Or the floor below it."""
    FIXTURE = 2
    OBJECT = 3


@dataclass(frozen=True, slots=True)
class ArmContact:
    """A geom of arm or hand that penetrates another, which is one of its own too where touched says so.

    index is the contact's number in the state.
    """

    index: int
    part: str
    other: str
    touched: Touched


class ContactReader:
    """Reads the contacts of arm and hand from the state of a scene."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        # A tube and the core in it are one part.
        names = [scene.model.geom(geom).name for geom in range(scene.model.ngeom)]
        self._names = [name.removesuffix(CORE_SUFFIX) for name in names]
        self._kinds = np.array([_kind(name) for name in self._names])

    def read(self) -> list[ArmContact]:
        """All that there are now."""
        contact = self._scene.data.contact
        geoms, kinds = contact.geom, self._kinds[contact.geom]
        found = np.flatnonzero((kinds == Touched.SELF).any(axis=1) & (contact.dist < 0.0))
        return [self._named(int(index), *geoms[index].tolist()) for index in found]

    def force_n(self, contact: ArmContact) -> float:
        """How hard the two push against each other."""
        force = np.zeros(6)
        mujoco.mj_contactForce(self._scene.model, self._scene.data, contact.index, force)
        return float(force[0])

    def _named(self, index: int, first: int, second: int) -> ArmContact:
        part, other = (first, second) if self._kinds[first] == Touched.SELF else (second, first)
        return ArmContact(index, self._names[part], self._names[other], Touched(int(self._kinds[other])))


def _kind(name: str) -> Touched:
    """By a geom's name, as scene and objects give them; what is none of these is a part of the arm."""
    if name.startswith(("table", "floor")):
        return Touched.TABLE
    if name.startswith("bin"):
        return Touched.FIXTURE
    return Touched.OBJECT if name.startswith("object") else Touched.SELF

"""Check from the true state of the simulated cell whether a task is done; policies never see it."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from handeye.robot.control.episode import CheckResult
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.robot_model import PAD_NAMES
from handeye.robot.simulator.scene import FLOOR_BELOW_TABLE_M

_STILL_M_S = 0.02
_AWAY_M = 0.07
_UNSAFE_FORCE_N = 60.0
_WATCH_EVERY_S = 0.008


@dataclass(frozen=True, slots=True)
class UnsafeContact:
    """A part of arm or gripper pushed against table, bin or floor with this force at this time."""

    stamp_s: float
    part: str
    against: str
    force_n: float


class PickSuccessCheck:
    """A SuccessCheck: the target rests in the bin, released, and the arm has hit nothing on the way.

    Call `reset` after each reset of the cell; contacts are watched while time passes.
    """

    def __init__(self, cell: SimulatedCell) -> None:
        self._cell = cell
        self.reset()
        cell.physics.after_step.append(self._watch)

    def reset(self) -> None:
        """Forget contacts and grasps of the last episode."""
        self.unsafe_contacts: list[UnsafeContact] = []
        self.was_held = False
        self._next_watch_s = 0.0

    def __call__(self) -> CheckResult:
        """Check the present state."""
        reason = self._why_not()
        return CheckResult(success=not reason, reason=reason)

    def target_is_held(self) -> bool:
        """Whether both pads touch the target now."""
        target = self._cell.target.name
        touched = {part for part, other in self._touching() if other.startswith(f"{target}_")}
        return touched.issuperset(PAD_NAMES)

    def _why_not(self) -> str:
        cell, target = self._cell.cell, self._cell.target
        data = self._cell.scene.data
        p_base = object_pose(self._cell.scene, target)[:3, 3]
        if p_base[2] < cell.table.height_m - FLOOR_BELOW_TABLE_M / 2:
            return "fell_off_the_table"
        if self.target_is_held():
            return "still_held"
        offset = np.abs(p_base[:2] - np.array(cell.bin.centre_xy_m))
        top = cell.table.height_m + cell.bin.wall_height_m
        if np.any(offset > np.array(cell.bin.inside_m) / 2) or p_base[2] > top:
            return "dropped_beside_the_bin" if self.was_held else "never_held"
        if np.linalg.norm(data.body(target.name).cvel[3:]) > _STILL_M_S:
            return "still_moving"
        if np.linalg.norm(data.site("tcp").xpos - p_base) < _AWAY_M:
            return "gripper_still_at_it"
        if self.unsafe_contacts:
            worst = max(self.unsafe_contacts, key=lambda contact: contact.force_n)
            return f"unsafe_contact: {worst.part} against {worst.against}, {worst.force_n:.0f} N"
        return ""

    def _watch(self, stamp_s: float) -> None:
        if stamp_s < self._next_watch_s:
            return
        self._next_watch_s = stamp_s + _WATCH_EVERY_S - 1e-6
        self.was_held = self.was_held or self.target_is_held()
        self._note_unsafe_contacts(stamp_s)

    def _note_unsafe_contacts(self, stamp_s: float) -> None:
        model, data = self._cell.scene.model, self._cell.scene.data
        force = np.zeros(6)
        for index, (part, other) in enumerate(self._contact_names()):
            if not _is_arm(part) or not other.startswith(("table", "bin", "floor")):
                continue
            mujoco.mj_contactForce(model, data, index, force)
            if force[0] > _UNSAFE_FORCE_N:
                self.unsafe_contacts.append(UnsafeContact(stamp_s, part, other, float(force[0])))

    def _touching(self) -> list[tuple[str, str]]:
        data = self._cell.scene.data
        pairs = zip(self._contact_names(), data.contact[: data.ncon], strict=True)
        return [names for names, contact in pairs if contact.dist < 0]

    def _contact_names(self) -> list[tuple[str, str]]:
        """The two geoms of every contact, a part of the arm first if there is one."""
        model, data = self._cell.scene.model, self._cell.scene.data
        pairs = [(model.geom(int(a)).name, model.geom(int(b)).name) for a, b in data.contact.geom]
        return [(a, b) if _is_arm(a) else (b, a) for a, b in pairs]


def _is_arm(name: str) -> bool:
    return not name.startswith(("table", "bin", "floor", "object"))

"""Check from the true state of the simulated cell whether a task is done; policies never see it.

What fails an episode besides the object's place: a push of more than 60 N against anything but the target, and any
contact of the arm with itself. No task needs that one, and a real arm stops at it. A light touch of table or bin is
counted, and so is one of a neighbouring object: fingers that come down beside the target may push it aside.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type information.

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from handeye.robot.control.episode import CheckResult
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.contacts import ArmContact, ContactReader, Touched
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.robot_model import PAD_NAMES
from handeye.robot.simulator.scene import FLOOR_BELOW_TABLE_M

_STILL_M_S = 0.02
_AWAY_M = 0.07
_UNSAFE_FORCE_N = 60.0
_WATCH_EVERY_S = 0.008
_SAME_TOUCH_S = 0.1
CONTACT_NAMES = {
    Touched.SELF: "self",
    Touched.TABLE: "table",
    Touched.FIXTURE: "fixture",
    Touched.OBJECT: "clutter",
}
"""Keys of the counted contacts."""


@dataclass(frozen=True, slots=True)
class UnsafeContact:
    """A part of arm or gripper pushed against something else than the target with this force at this time."""

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
        self.contacts: Counter[str] = Counter()
        """How often arm or hand began to touch something else than the target, with any force, by CONTACT_NAMES."""
        self.self_contact = ""
        """The first two parts of the arm that touched each other."""
        self.was_held = False
        self._next_watch_s = 0.0
        self._touched_s: dict[str, float] = {}
        self._reader: ContactReader | None = None

    def __call__(self) -> CheckResult:
        """Check the present state."""
        reason = self._why_not()
        return CheckResult(success=not reason, reason=reason, contacts=dict(self.contacts))

    def target_is_held(self) -> bool:
        """Whether both pads touch the target now."""
        return self._is_held(self._read_contacts())

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
        if self.self_contact:
            return f"self_contact: {self.self_contact}"
        if self.unsafe_contacts:
            worst = max(self.unsafe_contacts, key=lambda contact: contact.force_n)
            return f"unsafe_contact: {worst.part} against {worst.against}, {worst.force_n:.0f} N"
        return ""

    def _watch(self, stamp_s: float) -> None:
        contacts = self._read_contacts()
        self._count(contacts, stamp_s)
        if stamp_s < self._next_watch_s:
            return
        self._next_watch_s = stamp_s + _WATCH_EVERY_S - 1e-6
        self.was_held = self.was_held or self._is_held(contacts)
        for contact in contacts:
            force_n = 0.0 if self._is_target(contact) else self._open_reader().force_n(contact)
            if force_n > _UNSAFE_FORCE_N:
                self.unsafe_contacts.append(UnsafeContact(stamp_s, contact.part, contact.other, force_n))

    def _count(self, contacts: list[ArmContact], stamp_s: float) -> None:
        """Count the touches that begin now; one that breaks off for a moment is the same."""
        for contact in contacts:
            if self._is_target(contact):
                continue
            is_self, other = contact.touched is Touched.SELF, contact.other
            if is_self:
                other = f"{contact.part} against {other}"
            elif contact.touched is Touched.OBJECT:
                other = other.rpartition("_")[0]  # an object of several geoms is one
            if stamp_s - self._touched_s.get(other, -np.inf) > _SAME_TOUCH_S:
                self.contacts[CONTACT_NAMES[contact.touched]] += 1
            if is_self and not self.self_contact:
                self.self_contact = other
            self._touched_s[other] = stamp_s

    def _is_held(self, contacts: list[ArmContact]) -> bool:
        return {contact.part for contact in contacts if self._is_target(contact)}.issuperset(PAD_NAMES)

    def _is_target(self, contact: ArmContact) -> bool:
        return contact.other.startswith(f"{self._cell.target.name}_")

    def _read_contacts(self) -> list[ArmContact]:
        return self._open_reader().read()

    def _open_reader(self) -> ContactReader:
        if self._reader is None:
            self._reader = ContactReader(self._cell.scene)
        return self._reader

"""How far a pick has come, judged from its states alone: the status of policies that keep no script of stages."""

from __future__ import annotations

from enum import Enum

from robot.policies.pick_state import PickState
from robot.interfaces import Outcome, PickTask, PolicyStatus

CLOSING_M_S = -0.05
CLEAR_M = 0.045
"""A cube counts as let go for good when the grasp point is so far above the walls of its place ..."""
SURE_S = 0.3
"""... and has been for so long, with the cube seen in the place."""
TIMEOUT = "timeout"


class PickStage(Enum):
    """What a state says about the stage of a pick."""

    LOOK = "look"
    APPROACH = "approach"
    GRASP = "grasp"
    CARRY = "carry"
    VERIFY = "verify"
    DONE = "done"


NOT_BEGUN = PolicyStatus(PickStage.LOOK.value, Outcome.RUNNING)
"""The status before the first state."""


class PickProgress:
    """Follows the states of one pick: stage, grasps begun, and whether it is over."""

    def __init__(self, task: PickTask, timeout_s: float) -> None:
        """timeout_s: the pick has failed when it takes longer, counted from its first state."""
        # A height of the place, not one above where the fingers opened: a cube that fell from high up is in it too.
        self._clear_z = float(task.place_p_base[2]) + task.place_wall_m + CLEAR_M
        self._timeout_s = timeout_s
        self._began_s: float | None = None
        self._attempts = 0
        self._was_closing = False
        self._done_since_s: float | None = None
        self._status = NOT_BEGUN

    @property
    def status(self) -> PolicyStatus:
        """The status after the latest state; once over it stays."""
        return self._status

    def see(self, state: PickState, stamp_s: float) -> None:
        """Take note of the state at `stamp_s`."""
        if self._status.is_over:
            return
        self._began_s = stamp_s if self._began_s is None else self._began_s
        is_closing = state.gripper_rate_m_s < CLOSING_M_S
        self._attempts += is_closing and not self._was_closing
        self._was_closing = is_closing
        stage = _stage_of(state, is_closing=is_closing)
        if self._is_done(state, stamp_s):
            self._status = PolicyStatus(PickStage.DONE.value, Outcome.SUCCEEDED, None, self._attempts)
        elif stamp_s - self._began_s > self._timeout_s:
            self._status = PolicyStatus(stage.value, Outcome.FAILED, TIMEOUT, self._attempts)
        else:
            self._status = PolicyStatus(stage.value, Outcome.RUNNING, None, self._attempts)

    def _is_done(self, state: PickState, stamp_s: float) -> bool:
        """Seen in its place for a while, with the hand well above it."""
        if not (state.is_verified and float(state.p_tcp_base[2]) > self._clear_z):
            self._done_since_s = None
            return False
        self._done_since_s = stamp_s if self._done_since_s is None else self._done_since_s
        return stamp_s - self._done_since_s >= SURE_S


def _stage_of(state: PickState, *, is_closing: bool) -> PickStage:
    if state.is_holding:
        return PickStage.CARRY
    if state.is_placed:
        return PickStage.VERIFY
    if is_closing:
        return PickStage.GRASP
    return PickStage.LOOK if state.p_cube_base is None else PickStage.APPROACH

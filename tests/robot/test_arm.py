"""The contract of every arm, written once; an ideal arm keeps it, and arms that break it are found out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType

import numpy as np
import pytest

from handeye.robot.errors import ArmError
from handeye.robot.interfaces import Arm
from handeye.robot.types import JointState

HOME = np.array([2.8, -1.9, 1.95, -1.6, -1.57, 2.8])


class IdealArm:
    """Is where it was told to be, at once."""

    def __init__(self) -> None:
        self.qpos, self.opening_m = HOME.copy(), 0.05
        self.is_entered = False
        self.num_stops = 0

    def __enter__(self) -> IdealArm:
        self.is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.is_entered = False

    def read_state(self) -> JointState:
        self.require_entered()
        return JointState(self.qpos.copy(), np.zeros(6), self.opening_m, 0.0)

    def command(self, qpos_target: np.ndarray, gripper_opening_m: float) -> np.ndarray:
        self.require_entered()
        if not (np.all(np.isfinite(qpos_target)) and np.isfinite(gripper_opening_m)):
            raise ArmError("expected finite set-points")
        self.qpos, self.opening_m = qpos_target.copy(), gripper_opening_m
        return qpos_target.copy()

    def stop(self) -> None:
        self.num_stops += 1

    def require_entered(self) -> None:
        if not self.is_entered:
            raise ArmError("the arm's context has not been entered")


class UnguardedArm(IdealArm):
    """Takes commands before its context has been entered."""

    def require_entered(self) -> None:
        pass


class CredulousArm(IdealArm):
    """Sends NaN to the hardware."""

    def command(self, qpos_target: np.ndarray, gripper_opening_m: float) -> np.ndarray:
        self.require_entered()
        return qpos_target


class HushingArm(IdealArm):
    """Hides the exception that ended its context."""

    def __exit__(self, *details: object) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.is_entered = False
        return True


def check_contract(make_arm: Callable[[], Arm]) -> None:
    """What the loop relies on with every arm."""
    arm = make_arm()
    assert isinstance(arm, Arm)
    for use in (arm.read_state, lambda: arm.command(HOME, 0.05)):
        with pytest.raises(ArmError):
            use()
    with arm as entered:
        assert entered is arm
        state = arm.read_state()
        assert state.qpos.shape == state.qvel.shape == (6,)
        target = state.qpos + 1e-3
        sent = arm.command(target, 0.03)
        assert sent.shape == (6,)
        assert sent is not target
        for qpos, opening_m in ((np.full(6, np.nan), 0.03), (np.full(6, np.inf), 0.03), (HOME, float("nan"))):
            with pytest.raises(ArmError):
                arm.command(qpos, opening_m)
        assert np.all(np.isfinite(arm.read_state().qpos))
        arm.stop()
        arm.stop()
    with pytest.raises(ArmError):
        arm.command(HOME, 0.05)
    with pytest.raises(KeyError, match="passes through"), make_arm():
        raise KeyError("passes through")


def test_an_ideal_arm_keeps_the_contract() -> None:
    check_contract(IdealArm)


@pytest.mark.parametrize("broken", [UnguardedArm, CredulousArm, HushingArm])
def test_arms_that_break_the_contract_are_found_out(broken: Callable[[], Arm]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_contract(broken)


@pytest.mark.parametrize("failure", [None, RuntimeError("mid-motion"), KeyboardInterrupt()])
def test_leaving_always_stops(failure: BaseException | None) -> None:
    arm = IdealArm()
    expectation = nullcontext() if failure is None else pytest.raises(type(failure))
    with expectation, arm:
        if failure is not None:
            raise failure
    assert arm.num_stops == 1


def test_what_lacks_a_method_is_no_arm() -> None:
    assert not isinstance(object(), Arm)

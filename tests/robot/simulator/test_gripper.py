"""Grasping by friction alone: cubes of every size and mass are lifted and carried fast, and slip when they must."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.faults import FrictionLowered
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.samples import joints_for, tool_grasping_at, tool_rotation
from handeye.robot.simulator.success import PickSuccessCheck
from tests.robot.simulator.conftest import straight_line

DT_S = 0.008
CLOSED_M, OPEN_M = 0.0, 0.085


class Hand:
    """Moves the arm through joint configurations, smoothly, in given times."""

    def __init__(self, simulated: SimulatedCell) -> None:
        self.simulated, self.qpos, self.opening_m = simulated, np.array(simulated.cell.home_qpos), OPEN_M

    def go(self, qpos: np.ndarray, duration_s: float) -> None:
        for target in straight_line(self.qpos, qpos, round(duration_s / DT_S)):
            self.simulated.arm.command(target, self.opening_m)
            self.simulated.clock.wait_until(self.simulated.clock.now_s() + DT_S)
        self.qpos = qpos

    def grip(self, opening_m: float) -> float:
        self.opening_m = opening_m
        self.go(self.qpos, 0.7)
        return self.simulated.arm.read_state().gripper_opening_m


def grasp_poses(simulated: SimulatedCell, heights_m: tuple[float, ...]) -> list[np.ndarray]:
    """Configurations with the grasp point so far above the target, fingers along its faces."""
    pose = object_pose(simulated.scene, simulated.target)
    rotation = tool_rotation(float(np.arctan2(pose[1, 0], pose[0, 0])) - np.pi / 2, 0.0, 0.0)
    found = [
        joints_for(tool_grasping_at(pose[:3, 3] + (0, 0, height), rotation, simulated.cell), simulated.cell)
        for height in heights_m
    ]
    assert all(qpos is not None for qpos in found)
    return [qpos for qpos in found if qpos is not None]


def target_in_tcp(simulated: SimulatedCell) -> np.ndarray:
    site = simulated.scene.data.site("tcp")
    return site.xmat.reshape(3, 3).T @ (object_pose(simulated.scene, simulated.target)[:3, 3] - site.xpos)


@pytest.mark.parametrize("seed", [0, 1, 6])
def test_cube_is_held_by_friction_through_lift_and_fast_swing(simulated: SimulatedCell, seed: int) -> None:
    simulated.reset(seed)
    success_check = PickSuccessCheck(simulated)
    above, at, lifted = grasp_poses(simulated, (0.12, 0.0, 0.2))
    swing = lifted + np.array([-0.6, 0.1, -0.1, 0.3, -0.4, 0.9])
    with simulated.arm:
        hand = Hand(simulated)
        hand.go(above, 0.9)
        hand.go(at, 0.5)
        assert hand.grip(CLOSED_M) == pytest.approx(simulated.target.edge_m, abs=0.001)
        hand.go(lifted, 0.5)
        assert object_pose(simulated.scene, simulated.target)[2, 3] > 0.2
        before = target_in_tcp(simulated)
        hand.go(swing, 0.6)
        hand.go(lifted, 0.6)
        assert success_check.target_is_held()
        np.testing.assert_allclose(target_in_tcp(simulated), before, atol=0.004)
        assert hand.grip(OPEN_M) == pytest.approx(OPEN_M, abs=0.001)
        assert not success_check.target_is_held()


def test_slippery_pads_lose_the_cube_and_the_opening_tells(simulated: SimulatedCell, cell: WorkCellConfig) -> None:
    simulated.reset(0, faults=[FrictionLowered(at_s=2.8, factor=0.01)])
    above, at, lifted = grasp_poses(simulated, (0.12, 0.0, 0.2))
    with simulated.arm as arm:
        hand = Hand(simulated)
        hand.go(above, 0.9)
        hand.go(at, 0.5)
        hand.grip(CLOSED_M)
        hand.go(lifted, 0.5)
        assert arm.read_state().gripper_opening_m > cell.cube_edge_m[0] - 0.002
        hand.go(lifted, 0.8)
        assert arm.read_state().gripper_opening_m < 0.002
        assert object_pose(simulated.scene, simulated.target)[2, 3] < 0.1


def test_grip_force_stays_within_its_limit(simulated: SimulatedCell) -> None:
    simulated.reset(0)
    above, at = grasp_poses(simulated, (0.12, 0.0))
    with simulated.arm:
        hand = Hand(simulated)
        hand.go(above, 0.9)
        hand.go(at, 0.5)
        hand.grip(CLOSED_M)
    forces = np.abs(simulated.scene.data.actuator_force[-2:])
    assert np.all(forces <= simulated.cell.gripper.force_n + 1e-9)
    assert np.all(forces > 0.5 * simulated.cell.gripper.force_n)

"""The hand against the bin: exact for boxes, by another's geometry, and closed to every kind of approach."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.fixtures import HandClearance, boxes_overlap, fixtures_of_cell
from handeye.robot.kinematics.hand_geometry import hand_boxes
from handeye.robot.policies.grasp import tool_pose_down
from handeye.robot.transforms import make_transform, quat_wxyz_to_rotation

CELL = WorkCellConfig()
FIXTURES = fixtures_of_cell(CELL)


def random_poses(rng: np.random.Generator, number: int, spread_m: float) -> np.ndarray:
    quats = rng.normal(size=(number, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    return make_transform(quat_wxyz_to_rotation(quats), rng.uniform(-spread_m, spread_m, (number, 3)))


def mujoco_distance(T_box: np.ndarray, half_m: np.ndarray, middle: np.ndarray, fixture_half_m: np.ndarray) -> float:
    """Distance of two boxes by MuJoCo, at most 1 m."""

    def size(values: np.ndarray) -> str:
        return " ".join(map(str, values))

    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, T_box[:3, :3].reshape(-1).copy())
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><worldbody><geom type="box" size="{size(half_m)}" pos="{size(T_box[:3, 3])}" quat="{size(quat)}"/>'
        f'<geom type="box" size="{size(fixture_half_m)}" pos="{size(middle)}"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return mujoco.mj_geomDistance(model, data, 0, 1, 1.0, np.empty(6))


def test_overlap_of_boxes_is_what_mujoco_finds() -> None:
    rng = np.random.default_rng(0)
    poses, half_m = random_poses(rng, 150, 0.14), rng.uniform(0.005, 0.1, (150, 3))
    middles, fixture_half_m = rng.uniform(-0.05, 0.05, (2, 3)), rng.uniform(0.003, 0.12, (2, 3))
    found = boxes_overlap(poses[:, None], half_m[:, None], middles, fixture_half_m)
    checked = [0, 0]
    for n in range(len(poses)):
        for f in range(len(middles)):
            distance_m = mujoco_distance(poses[n], half_m[n], middles[f], fixture_half_m[f])
            if abs(distance_m) > 1e-4:
                assert found[n, f] == (distance_m < 0), distance_m
                checked[int(found[n, f])] += 1
    assert min(checked) > 40


@pytest.mark.parametrize("opening_m", [0.0, 0.085])
def test_no_free_pose_of_the_hand_touches_the_bin(opening_m: float) -> None:
    """Of 400 poses around the bin: what counts as clear is farther from it than the clearance by MuJoCo."""
    rng, clearance_m = np.random.default_rng(1), 0.005
    poses = random_poses(rng, 400, 0.25)
    poses[:, :3, 3] += [*CELL.bin.centre_xy_m, 0.2]
    hits = HandClearance(CELL, clearance_m).hits(poses, opening_m)
    assert 40 < hits.sum() < 360
    T_tool_box, half_m = hand_boxes(CELL, opening_m)
    for pose, hit in zip(poses[::8], hits[::8], strict=True):
        nearest_m = min(
            mujoco_distance(pose @ T, half, middle, fixture)
            for T, half in zip(T_tool_box, half_m, strict=True)
            for middle, fixture in zip(FIXTURES.middles, FIXTURES.half_m, strict=True)
        )
        # Boxes widened on each side reach farther at their corners, by up to the square root of 3.
        assert hit if nearest_m < clearance_m else not hit or nearest_m < 1.74 * clearance_m


@pytest.mark.parametrize(
    ("offset_m", "names"),
    [
        ((0.0, 0.0, 0.06), []),
        ((0.0, 0.0, 0.30), []),
        ((0.0, 0.0, 0.012), ["pad_left at bin_floor", "pad_right at bin_floor"]),
        ((0.09, 0.0, 0.08), ["finger_left at bin_wall_x"]),
    ],
)
def test_the_pair_that_is_too_near_is_named(offset_m: tuple[float, float, float], names: list[str]) -> None:
    p_tcp = np.array([*CELL.bin.centre_xy_m, CELL.table.height_m]) + offset_m
    pose = tool_pose_down(p_tcp, 0.0, CELL)
    found = HandClearance(CELL, 0.005).names(pose, 0.085)
    assert set(names) <= set(found)
    assert bool(found) == bool(names)

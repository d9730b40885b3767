"""Arm, hand and held object by MuJoCo's geometry: nothing that touches passes, little that is free is refused."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.kinematics.clearance import CellClearance, Clearances, NearPair, Obstacle
from handeye.robot.kinematics.forward import link_frames, singularity_measures
from handeye.robot.kinematics.limits import joint_limits_from_config
from handeye.robot.kinematics.solids import HELD, solids_of_cell
from handeye.robot.kinematics.ur10e_ik import choose_solution, inverse_kinematics
from handeye.robot.policies.grasp import tool_pose_down
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.objects import Profile
from handeye.robot.simulator.scene import Scene, build_scene, place_arm
from handeye.robot.transforms import apply_transform, inverse

CELL = WorkCellConfig()
HOME = np.array(CELL.home_qpos)
CLEARANCES = Clearances(self_m=0.005, fixture_m=0.005, table_m=0.003, held_m=0.003)
CLEARANCE = CellClearance(CELL, CLEARANCES)
X_BIN, Y_BIN = CELL.bin.centre_xy_m


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The model without objects."""
    return build_scene(CELL, (), sample_appearance(np.random.default_rng(0), Profile.TRAIN))


def is_near(qpos: np.ndarray, opening_m: float = 0.085, *, holds: bool = False) -> np.ndarray:
    """For each pose by itself."""
    return np.array([CLEARANCE.too_near(q[None], link_frames(q[None]), opening_m, holds=holds)[0] for q in qpos])


def near_pairs(qpos: np.ndarray, opening_m: float = 0.085, *, holds: bool = False) -> list[NearPair]:
    return CLEARANCE.near_pairs(link_frames(qpos), opening_m, holds=holds)


def touching(scene: Scene, qpos: np.ndarray, opening_m: float) -> list[tuple[str, str]]:
    """The geoms of arm, hand, table and bin that penetrate each other."""
    place_arm(scene, qpos, opening_m)
    contacts = scene.data.contact[: scene.data.ncon]
    geoms = [contact.geom for contact in contacts if contact.dist < 0]
    return [(scene.model.geom(int(first)).name, scene.model.geom(int(second)).name) for first, second in geoms]


@dataclass
class Tally:
    """What became of random poses."""

    passed: int = 0
    passed_touching: int = 0
    free: int = 0
    free_refused: int = 0


def tally_random_poses(scene: Scene, number: int, seed: int) -> Tally:
    """Draw joints within their limits until `number` poses have passed every gate that looks at places."""
    rng, tally = np.random.default_rng(seed), Tally()
    limits = joint_limits_from_config(CELL.joint_limits)
    while tally.passed < number:
        qpos = rng.uniform(limits.qpos_low, limits.qpos_high, (2000, 6))
        opening_m = float(rng.uniform(0.0, CELL.gripper.opening_max_m))
        p_tcp = (link_frames(qpos)[:, 6] @ np.append(CELL.tool_tcp.translation_m, 1.0))[:, :3]
        inside = np.all((p_tcp >= CELL.workspace.low_m) & (p_tcp <= CELL.workspace.high_m), axis=1)
        regular = np.min(singularity_measures(qpos), axis=0) > 0.05
        candidates = qpos[inside & regular]
        for pose, is_refused in zip(candidates, is_near(candidates, opening_m), strict=True):
            touches = bool(touching(scene, pose, opening_m))
            tally.passed += not is_refused
            tally.passed_touching += touches and not is_refused
            tally.free += not touches
            tally.free_refused += is_refused and not touches
    return tally


@pytest.mark.parametrize("number", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_random_poses_that_pass_none_touches_and_few_free_ones_are_refused(scene: Scene, number: int) -> None:
    tally = tally_random_poses(scene, number, seed=0)
    assert tally.passed >= number
    assert tally.passed_touching == 0
    assert tally.free_refused <= 0.05 * tally.free


def test_poses_that_touch_are_common_enough_to_be_a_test(scene: Scene) -> None:
    """The second opinion finds the arm in itself, in the table and in the bin among poses drawn at random."""
    rng, found = np.random.default_rng(1), set()
    for qpos in rng.uniform(-np.pi, np.pi, (300, 6)):
        for first, second in touching(scene, qpos, 0.05):
            found |= {"table", "bin"} & {first.split("_")[0], second.split("_")[0]} or {"self"}
    assert found == {"self", "table", "bin"}


def test_poses_in_a_row_are_judged_as_each_by_itself() -> None:
    """Motions through free and forbidden places, long and short, slow and fast."""
    rng, differing = np.random.default_rng(2), set()
    for _ in range(60):
        length, span_rad = int(rng.integers(1, 60)), rng.choice([0.01, 0.3, 2.0])
        start = HOME + rng.uniform(-1.0, 1.0, 6)
        motion = start + np.linspace(0.0, 1.0, length)[:, None] ** 2 * rng.uniform(-span_rad, span_rad, 6)
        together = CLEARANCE.too_near(motion, link_frames(motion), 0.05, holds=True)
        np.testing.assert_array_equal(together, is_near(motion, 0.05, holds=True))
        differing.add((bool(together.any()), bool(together.all())))
    assert (True, False) in differing
    assert (False, False) in differing


@pytest.mark.parametrize("holds", [False, True])
def test_what_is_too_near_is_named_and_only_that(holds: bool) -> None:  # noqa: FBT001
    rng = np.random.default_rng(4)
    qpos = rng.uniform(-np.pi, np.pi, (200, 6))
    found = is_near(qpos, 0.04, holds=holds)
    assert 20 < found.sum() < 180 + 20 * holds
    for pose, near in zip(qpos, found, strict=True):
        pairs = near_pairs(pose, 0.04, holds=holds)
        assert bool(pairs) == near
        assert all(pair.distance_m < pair.clearance_m for pair in pairs)
        assert [pair.distance_m for pair in pairs] == sorted(pair.distance_m for pair in pairs)


def test_not_a_number_is_too_near() -> None:
    qpos = np.array([HOME, HOME])
    qpos[1, 3] = np.nan
    with np.errstate(invalid="ignore"):
        assert CLEARANCE.too_near(qpos, link_frames(qpos), 0.05, holds=False)[1]


def test_folded_arms_and_bent_wrists_meet_themselves() -> None:
    folded = HOME.copy()
    folded[2], folded[3] = 2.7, -0.8
    pairs = near_pairs(folded)
    assert pairs
    assert {pair.obstacle for pair in pairs} == {Obstacle.SELF}
    assert pairs[0].names == "upper arm at palm"
    assert near_pairs(HOME) == []


def test_an_elbow_in_the_table_is_named() -> None:
    low = HOME.copy()
    low[1], low[2], low[3] = 0.2, -1.0, -1.0
    pairs = near_pairs(low)
    assert [pair.names for pair in pairs] == ["upper arm at table", "forearm at table"]
    assert {pair.obstacle for pair in pairs} == {Obstacle.TABLE}


def down_at(offset_m: tuple[float, float, float], yaw_rad: float = 0.0) -> np.ndarray:
    """Joints with the grasp point beside the middle of the bin's floor, the hand pointing down."""
    pose = tool_pose_down(np.array([X_BIN, Y_BIN, CELL.table.height_m]) + offset_m, yaw_rad, CELL)
    return choose_solution(inverse_kinematics(pose, q6_hint=HOME[5]), HOME, joint_limits_from_config(CELL.joint_limits))


@pytest.mark.parametrize(
    ("offset_m", "names"),
    [
        ((0.0, 0.0, 0.06), []),
        ((0.0, 0.0, 0.30), []),
        ((0.0, 0.0, 0.016), ["pad_left at bin_floor", "pad_right at bin_floor"]),
        ((0.09, 0.0, 0.08), ["finger_left at bin_wall_x"]),
    ],
)
def test_in_and_over_the_bin_the_hand_is_free_until_it_is_too_near(
    offset_m: tuple[float, float, float], names: list[str]
) -> None:
    pairs = near_pairs(down_at(offset_m))
    assert set(names) <= {pair.names for pair in pairs}
    assert {pair.obstacle for pair in pairs} <= {Obstacle.FIXTURE}
    assert bool(names) == bool(pairs)


def test_what_is_held_meets_the_walls_of_the_bin_but_not_its_floor_and_not_the_table() -> None:
    half_m, inside_y_m = CELL.cube_edge_m[1] / 2, CELL.bin.inside_m[1] / 2
    at_wall = down_at((0.0, inside_y_m - half_m - 0.002, 0.13))
    assert near_pairs(at_wall, 0.05) == []
    assert [pair.names for pair in near_pairs(at_wall, 0.05, holds=True)] == [f"{HELD} at bin_wall_y"]
    for offset_m in ((0.0, 0.0, 0.03), (0.1, 0.5, 0.02)):
        assert near_pairs(down_at(offset_m), 0.05, holds=True) == []


def test_what_is_held_meets_the_arm() -> None:
    """Whenever points of a cube at the grasp point lie in one of the arm's cylinders the two are named."""
    rng, solids, met = np.random.default_rng(5), solids_of_cell(CELL), 0
    held, steps = solids.names.index(HELD), np.linspace(-1.0, 1.0, 7)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3) * solids.half_m[held]
    arm = [n for n, link in enumerate(solids.links) if 0 <= link < 6 and solids.disc_m[n]]
    for qpos in rng.uniform(-np.pi, np.pi, (300, 6)):
        T = link_frames(qpos)[solids.frames] @ solids.T_frame_solid
        points = apply_transform(T[held], grid)
        names = {pair.names for pair in near_pairs(qpos, 0.05, holds=True)}
        for part in arm:
            own = apply_transform(inverse(T[part]), points)
            inside = (np.hypot(own[:, 0], own[:, 1]) < solids.disc_m[part]) & (abs(own[:, 2]) < solids.half_m[part, 2])
            met += inside.any()
            assert not inside.any() or f"{solids.names[part]} at {HELD}" in names
    assert met > 5


def test_no_point_moves_farther_than_the_levers_say() -> None:
    """What makes one pose speak for its neighbours: two solids approach by at most lever times turn."""
    rng, solids = np.random.default_rng(6), solids_of_cell(CELL)
    pairs = CLEARANCE._all_pairs
    for _ in range(40):
        qpos, turn = rng.uniform(-np.pi, np.pi, 6), rng.uniform(-0.4, 0.4, 6)
        before, after = (
            CLEARANCE._distances_m(solids, link_frames(q)[None], pairs, np.full((1, len(pairs.first)), np.inf))[0]
            for q in (qpos, qpos + turn)
        )
        apart = (before > 0.01) & (after > 0.01)
        # The bounds themselves fall short of the distances by up to 10 mm.
        assert (np.abs(after - before) <= pairs.levers_m @ np.abs(turn) + 0.01)[apart].all()


def test_pairs_that_are_left_out_do_not_move_or_are_neighbours(scene: Scene) -> None:
    """Of two solids that no joint moves against each other the distance is the same in all poses, by MuJoCo."""
    rng, solids = np.random.default_rng(7), solids_of_cell(CELL)
    pairs = set(zip(CLEARANCE._all_pairs.first.tolist(), CLEARANCE._all_pairs.second.tolist(), strict=True))
    constant = [("base_0", "shoulder_lift_0"), ("shoulder_lift_2", "wrist_1_0"), ("elbow_2", "wrist_2_0")]
    constant += [("wrist_1_1", "wrist_3_0"), ("wrist_2_1", "coupling"), ("base_0", "shoulder_pan_0")]
    distances = []
    for qpos in rng.uniform(-np.pi, np.pi, (20, 6)):
        place_arm(scene, qpos, 0.05)
        ids = [(scene.model.geom(first).id, scene.model.geom(second).id) for first, second in constant]
        distances.append([mujoco.mj_geomDistance(scene.model, scene.data, a, b, 1.0, np.empty(6)) for a, b in ids])
    np.testing.assert_allclose(np.ptp(distances, axis=0), 0.0, atol=1e-4)
    links = solids.links.tolist()
    assert not any(0 <= links[first] == links[second] - 1 for first, second in pairs)
    assert {solids.names[second] for first, second in pairs if solids.names[first] == "wrist 2"} >= {"palm", "camera"}

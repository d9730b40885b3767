"""The solids that gates check are those of the simulator's model, and move with their links."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from handeye.robot.config import PoseConfig, WorkCellConfig
from handeye.robot.kinematics.forward import link_frames
from handeye.robot.kinematics.hand_geometry import HAND_BOXES, PAD_THICKNESS_M, hand_boxes
from handeye.robot.kinematics.solids import HELD, TABLE, solids_of_cell
from handeye.robot.simulator.appearance import sample_appearance
from handeye.robot.simulator.objects import Profile
from handeye.robot.simulator.scene import Scene, build_scene, place_arm
from handeye.robot.transforms import inverse, rotation_to_quat_wxyz, rpy_to_rotation

CELL, GEOM = WorkCellConfig(), mujoco.mjtGeom
BOX, CYLINDER, CAPSULE = int(GEOM.mjGEOM_BOX), int(GEOM.mjGEOM_CYLINDER), int(GEOM.mjGEOM_CAPSULE)


def quat_of(rpy_rad: tuple[float, float, float]) -> tuple[float, float, float, float]:
    w, x, y, z = rotation_to_quat_wxyz(rpy_to_rotation(np.array(rpy_rad))).tolist()
    return w, x, y, z


TURNED = WorkCellConfig(
    tool_tcp=PoseConfig(translation_m=(0.01, -0.02, 0.18), quat_wxyz=quat_of((0.2, -0.1, 0.9))),
    tool_camera=PoseConfig(translation_m=(0.06, -0.07, 0.045), quat_wxyz=quat_of((0.3, 0.0, -0.5))),
)


def sorted_rows(rows: list[np.ndarray]) -> np.ndarray:
    return np.array(sorted(np.round(row, 6).tolist() for row in rows)) + 0.0


def geoms_of(scene: Scene) -> list[np.ndarray]:
    """Shape, place, z axis (up to its sign) and sizes of the geoms of arm, hand and bin that can be seen."""
    model, data, rows = scene.model, scene.data, []
    for geom in range(model.ngeom):
        name = model.geom(geom).name
        if name in ("floor", "table") or name.endswith("_core"):
            continue
        z, shape, size = data.geom_xmat[geom].reshape(3, 3)[:, 2], int(model.geom_type[geom]), model.geom_size[geom]
        kept = size if shape == BOX else [0.0, size[0], size[1]]
        rows.append(np.array([shape, *data.geom_xpos[geom], *np.outer(z, z).ravel(), *kept]))
    return rows


@pytest.mark.parametrize("cell", [CELL, TURNED], ids=["default", "turned"])
@pytest.mark.parametrize("opening_m", [0.0, 0.0613])
def test_solids_are_the_geoms_of_the_model(cell: WorkCellConfig, opening_m: float) -> None:
    scene = build_scene(cell, (), sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    solids = solids_of_cell(cell).opened(opening_m)
    for qpos in np.random.default_rng(1).uniform(-np.pi, np.pi, (5, 6)):
        place_arm(scene, qpos, opening_m)
        T = link_frames(qpos)[solids.frames] @ solids.T_frame_solid
        rows = []
        for n, name in enumerate(solids.names):
            if name in (HELD, TABLE):
                continue
            shape = CYLINDER if solids.disc_m[n] else CAPSULE if solids.ball_m[n] else BOX
            size = solids.half_m[n]
            kept = size if shape == BOX else [0.0, solids.disc_m[n] + solids.ball_m[n], size[2]]
            rows.append(np.array([shape, *T[n, :3, 3], *np.outer(T[n, :3, 2], T[n, :3, 2]).ravel(), *kept]))
        np.testing.assert_allclose(sorted_rows(rows), sorted_rows(geoms_of(scene)), atol=2e-6)


def test_the_table_ends_where_the_model_has_its_top() -> None:
    scene = build_scene(CELL, (), sample_appearance(np.random.default_rng(0), Profile.TRAIN))
    solids = solids_of_cell(CELL)
    table, geom = solids.names.index(TABLE), scene.model.geom("table")
    middle, half_m = solids.T_frame_solid[table, :3, 3], solids.half_m[table]
    np.testing.assert_allclose((middle + half_m)[2], (geom.pos + geom.size)[2], atol=1e-12)
    np.testing.assert_allclose(middle[:2], geom.pos[:2], atol=1e-12)
    np.testing.assert_allclose(half_m[:2], geom.size[:2], atol=1e-12)


def test_what_is_held_is_as_large_as_the_largest_cube_and_between_the_pads() -> None:
    solids = solids_of_cell(TURNED).opened(TURNED.cube_edge_m[1])
    held, left, right = (solids.names.index(name) for name in (HELD, "pad_left", "pad_right"))
    np.testing.assert_allclose(2 * solids.half_m[held], TURNED.cube_edge_m[1])
    np.testing.assert_allclose(solids.T_frame_solid[held], TURNED.T_tool_tcp, atol=1e-12)
    for pad, sign in ((left, 1), (right, -1)):
        p_held = inverse(solids.T_frame_solid[held]) @ solids.T_frame_solid[pad, :, 3]
        assert p_held[0] == pytest.approx(sign * (TURNED.cube_edge_m[1] + PAD_THICKNESS_M) / 2)


def test_balls_around_solids_hold_their_corners() -> None:
    solids = solids_of_cell(CELL)
    corner_m = np.linalg.norm(solids.half_m, axis=1)
    assert (solids.reach_m >= corner_m - 1e-12).all()
    is_cylinder = solids.disc_m > 0
    rim_m = np.hypot(solids.disc_m, solids.half_m[:, 2])
    np.testing.assert_allclose(solids.reach_m[is_cylinder], rim_m[is_cylinder])


def test_pads_turn_tilt_and_move_with_the_frame_of_the_grasp_point() -> None:
    boxes, half_m = hand_boxes(TURNED, 0.05)
    pad_left, pad_right = (
        inverse(TURNED.T_tool_tcp) @ boxes[HAND_BOXES.index(name)] for name in ("pad_left", "pad_right")
    )
    np.testing.assert_allclose(pad_left[:3, :3], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pad_left[:3, 3] - pad_right[:3, 3], [0.05 + PAD_THICKNESS_M, 0, 0], atol=1e-12)
    tip_m = pad_left[2, 3] + half_m[HAND_BOXES.index("pad_left"), 2]
    assert tip_m == pytest.approx(TURNED.gripper.fingertip_beyond_tcp_m)


def test_a_grasp_point_behind_the_flange_or_askew_is_rejected() -> None:
    with pytest.raises(ValueError, match="before the flange"):
        WorkCellConfig(tool_tcp=PoseConfig(translation_m=(0.0, 0.0, -0.1)))
    with pytest.raises(ValueError, match="tilts it by 180"):
        WorkCellConfig(tool_tcp=PoseConfig(translation_m=(0.0, 0.0, 0.1), quat_wxyz=quat_of((np.pi, 0.0, 0.0))))

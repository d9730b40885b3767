"""The gripper's and the wrist camera's shapes, and how they are mounted on the flange.

The gripper is mounted as `tool_tcp` says: its axis is the z axis of the grasp point's frame, and its fingers open along
the x axis of that frame. Camera and bracket are mounted as `tool_camera` says. Sizes are approximate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from handeye.robot.config import Vector3, WorkCellConfig
from handeye.robot.transforms import make_transform

PALM_START_M, PALM_END_M = 0.03, 0.095
PALM_HALF_XY_M = (0.050, 0.030)
COUPLING_RADIUS_M = 0.0375
PAD_LENGTH_M, PAD_WIDTH_M, PAD_THICKNESS_M = 0.046, 0.022, 0.008
FINGER_HALF_XY_M = (0.006, 0.010)
FINGER_SHORT_OF_TIP_M = 0.004
HOUSING_HALF_M = (0.062, 0.0145, 0.013)
HOUSING_BEHIND_LENS_M = 0.020
BRACKET_HALF_X_M, BRACKET_HALF_Z_M, BRACKET_Z_M = 0.02, 0.004, 0.006
HAND_BOXES = ("palm", "finger_left", "pad_left", "finger_right", "pad_right", "camera_bracket", "camera")
"""Names of the boxes of `hand_boxes`, in their order."""


@dataclass(frozen=True, slots=True, eq=False)
class HandMounting:
    """How the gripper is mounted: its frame begins in the flange's plane, and z runs through the grasp point.

    p_tool = T_tool_hand @ p_hand. The fingers open along the hand's x axis. reach_m is the way along z from the flange
    to the grasp point, tip_m that to the fingertips.
    """

    T_tool_hand: Float[np.ndarray, "4 4"]
    reach_m: float
    tip_m: float


def hand_mounting(cell: WorkCellConfig) -> HandMounting:
    """The gripper's place on the flange, from the frame of its grasp point."""
    R, p_tcp = cell.T_tool_tcp[:3, :3], cell.T_tool_tcp[:3, 3]
    reach_m = float(p_tcp[2] / R[2, 2])
    return HandMounting(
        T_tool_hand=make_transform(R, p_tcp - reach_m * R[:, 2]),
        reach_m=reach_m,
        tip_m=reach_m + cell.gripper.fingertip_beyond_tcp_m,
    )


def hand_boxes(cell: WorkCellConfig, opening_m: float) -> tuple[Float[np.ndarray, "7 4 4"], Float[np.ndarray, "7 3"]]:
    """Palm, fingers, pads, camera bracket and housing (HAND_BOXES): middles in the tool frame and half sizes, m."""
    mounting = hand_mounting(cell)
    tip_m = mounting.tip_m
    finger_end_m = tip_m - FINGER_SHORT_OF_TIP_M
    palm_half = (*PALM_HALF_XY_M, 0.5 * (PALM_END_M - PALM_START_M))
    rows = [((0.0, 0.0, 0.5 * (PALM_START_M + PALM_END_M)), palm_half)]
    for sign in (1.0, -1.0):
        pad_x = sign * 0.5 * (opening_m + PAD_THICKNESS_M)
        back_x = sign * (0.5 * opening_m + PAD_THICKNESS_M + FINGER_HALF_XY_M[0])
        back = (*FINGER_HALF_XY_M, 0.5 * (finger_end_m - PALM_END_M))
        rows.append(((back_x, 0.0, 0.5 * (PALM_END_M + finger_end_m)), back))
        pad = (0.5 * PAD_THICKNESS_M, 0.5 * PAD_WIDTH_M, 0.5 * PAD_LENGTH_M)
        rows.append(((pad_x, 0.0, tip_m - 0.5 * PAD_LENGTH_M), pad))
    middles, halves = zip(*rows, strict=True)
    straight = make_transform(np.broadcast_to(np.eye(3), (len(rows), 3, 3)), np.array(middles))
    T_tool_bracket, bracket_half = camera_bracket(cell)
    T_camera_housing = make_transform(np.eye(3), np.array([0.0, 0.0, -HOUSING_BEHIND_LENS_M]))
    camera = np.stack([T_tool_bracket, cell.T_tool_camera @ T_camera_housing])
    return np.concatenate([mounting.T_tool_hand @ straight, camera]), np.array([*halves, bracket_half, HOUSING_HALF_M])


def camera_bracket(cell: WorkCellConfig) -> tuple[Float[np.ndarray, "4 4"], Vector3]:
    """The plate from the tool's axis to the camera, along its y axis: T_tool_bracket and half sizes, m."""
    x, y, _ = cell.tool_camera.translation_m
    length = float(np.hypot(x, y))
    cos, sin = (-y / length, x / length) if length > 0.0 else (1.0, 0.0)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    half = (BRACKET_HALF_X_M, max(0.5 * length, BRACKET_HALF_Z_M), BRACKET_HALF_Z_M)
    return make_transform(turn, np.array([0.5 * x, 0.5 * y, BRACKET_Z_M])), half

"""Points of arm, camera and fingers that must stay clear of the table, each the middle of a ball around its part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from robot.config import WorkCellConfig
from robot.types import NUM_JOINTS

# Balls around the UR10e's joint housings, measured generously on its drawing.
_ELBOW_RADIUS_M = 0.08
_WRIST_RADIUS_M = 0.06
_CAMERA_RADIUS_M = 0.065  # half the length of a D455's housing, 124 mm
_FINGER_THICKNESS_M = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class ProtectedPoints:
    """P points fixed to the frames of `link_frames`: which frame (0..6), where in it, and the radius around, m."""

    names: tuple[str, ...]
    frame_ids: Int[np.ndarray, " P"]
    p_frame: Float[np.ndarray, "P 3"]
    radius_m: Float[np.ndarray, " P"]

    def p_base(self, links: Float[np.ndarray, "7 4 4"]) -> Float[np.ndarray, "P 3"]:
        """The points in the base frame, for the frames of forward kinematics."""
        frames = links[self.frame_ids]
        return (frames[:, :3, :3] @ self.p_frame[:, :, None])[:, :, 0] + frames[:, :3, 3]

    def lowest_m(self, links: Float[np.ndarray, "7 4 4"]) -> Float[np.ndarray, " P"]:
        """Height over base z = 0 of the underside of each ball."""
        return self.p_base(links)[:, 2] - self.radius_m


def points_of_cell(cell: WorkCellConfig) -> ProtectedPoints:
    """Elbow, the three wrist joints, the camera's housing and the outer edges of both fingertips, fingers wide open."""
    tool = NUM_JOINTS
    tip_z = cell.tool_tcp.translation_m[2] + cell.gripper.fingertip_beyond_tcp_m
    tip_x = cell.gripper.opening_max_m / 2.0 + _FINGER_THICKNESS_M
    origin = (0.0, 0.0, 0.0)
    rows = [
        ("elbow", 2, origin, _ELBOW_RADIUS_M),
        ("wrist 1", 3, origin, _WRIST_RADIUS_M),
        ("wrist 2", 4, origin, _WRIST_RADIUS_M),
        ("wrist 3", 5, origin, _WRIST_RADIUS_M),
        ("camera", tool, cell.tool_camera.translation_m, _CAMERA_RADIUS_M),
        ("tcp", tool, cell.tool_tcp.translation_m, 0.0),
        ("left fingertip", tool, (-tip_x, 0.0, tip_z), 0.0),
        ("right fingertip", tool, (tip_x, 0.0, tip_z), 0.0),
    ]
    names, frame_ids, points, radii = zip(*rows, strict=True)
    return ProtectedPoints(names, np.array(frame_ids), np.array(points, dtype=np.float64), np.array(radii))

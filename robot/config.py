"""Configuration of the work cell: places, sizes, limits and camera mounting.

A real cell knows these numbers from its drawing and its calibration; the simulator builds its scene from the same
ones. Base frame = world frame: the arm's foot is the origin, z points up, the arm reaches over +x.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator

from handeye.robot.transforms import QUAT_SLACK, make_transform, quat_wxyz_to_rotation
from handeye.vision.config import Config

Vector2 = tuple[float, float]
Vector3 = tuple[float, float, float]
Vector4 = tuple[float, float, float, float]
Vector6 = tuple[float, float, float, float, float, float]

EXACT_QUAT = 1e-6
"""A quaternion whose length is as near to 1 as this stays as it is written."""
TCP_TILT_MAX_DEG = 60.0
"""A gripper tilted more than this is no longer mounted on the flange's face."""
# The camera looks along the tool's z axis, turned by 15 degrees about its x axis so that the grasp point is in view.
_CAMERA_TILT_RAD = math.radians(-15.0)


class PoseConfig(Config):
    """A rigid transform as numbers: rotation first, then translation."""

    translation_m: Vector3 = (0.0, 0.0, 0.0)
    quat_wxyz: Vector4 = (1.0, 0.0, 0.0, 0.0)
    """Unit quaternion, scalar first; one of three printed digits is normalised."""

    @field_validator("quat_wxyz")
    @classmethod
    def _normalised(cls, quat_wxyz: Vector4) -> Vector4:
        length = math.hypot(*quat_wxyz)
        if not abs(length - 1.0) <= QUAT_SLACK:
            raise ValueError(f"quat_wxyz must have length 1, has {length:.6f}")
        if abs(length - 1.0) <= EXACT_QUAT:
            return quat_wxyz
        w, x, y, z = (value / length for value in quat_wxyz)
        return w, x, y, z

    def matrix(self) -> Float[np.ndarray, "4 4"]:
        """The homogeneous matrix of the transform."""
        return make_transform(quat_wxyz_to_rotation(np.array(self.quat_wxyz)), np.array(self.translation_m))


class CameraConfig(Config):
    """A pinhole camera without distortion; the centre of the top left pixel is (0, 0)."""

    width_px: int = Field(default=640, gt=0)
    height_px: int = Field(default=480, gt=0)
    fx_px: float = Field(default=386.0, gt=0)
    fy_px: float = Field(default=386.0, gt=0)
    cx_px: float = 319.5
    cy_px: float = 239.5
    rate_hz: float = Field(default=10.0, gt=0)

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:
        """The intrinsic matrix in pixels."""
        return np.array([[self.fx_px, 0.0, self.cx_px], [0.0, self.fy_px, self.cy_px], [0.0, 0.0, 1.0]])


class BoxConfig(Config):
    """A box along the base axes."""

    low_m: Vector3
    high_m: Vector3

    @model_validator(mode="after")
    def _has_volume(self) -> BoxConfig:
        if any(low >= high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise ValueError(f"low_m {self.low_m} must lie below high_m {self.high_m} in every axis")
        return self

    def contains(self, p_base: Float[np.ndarray, " 3"]) -> bool:
        """Whether a point of the base frame lies inside or on the border."""
        return bool(np.all(p_base >= np.array(self.low_m)) and np.all(p_base <= np.array(self.high_m)))


class TableConfig(Config):
    """The table top; the arm stands on it."""

    height_m: float = 0.0
    low_xy_m: Vector2 = (-0.40, -0.90)
    high_xy_m: Vector2 = (1.20, 0.70)
    cubes_low_xy_m: Vector2 = (0.40, -0.30)
    """Corner of the rectangle in which cubes are reachable."""
    cubes_high_xy_m: Vector2 = (0.80, 0.30)

    def is_reachable(self, p_base: Float[np.ndarray, " 3"]) -> bool:
        """Whether a cube whose centre is at `p_base` stands on the rectangle in which cubes are picked."""
        low, high = np.array(self.cubes_low_xy_m), np.array(self.cubes_high_xy_m)
        return bool(np.all(p_base[:2] >= low) and np.all(p_base[:2] <= high))


class BinConfig(Config):
    """An open box on the table, walls along the base axes."""

    centre_xy_m: Vector2 = (0.45, -0.55)
    inside_m: Vector2 = (0.26, 0.22)
    wall_height_m: float = Field(default=0.12, gt=0)
    wall_thickness_m: float = Field(default=0.006, gt=0)


class GripperConfig(Config):
    """A parallel gripper whose fingers open along the tool's x axis."""

    opening_min_m: float = 0.0
    opening_max_m: float = Field(default=0.085, gt=0)
    speed_m_s: float = Field(default=0.15, gt=0)
    """How fast the opening changes."""
    force_n: float = Field(default=40.0, gt=0)
    """Grip force, the same on both fingers."""
    fingertip_beyond_tcp_m: float = 0.012
    """How far the fingertips reach beyond the grasp point along the tool's z axis."""


class JointLimitsConfig(Config):
    """UR10e: positions and speeds as published; accelerations and jerks are not, these are ours and modest."""

    qpos_low_rad: Vector6 = (-2 * math.pi, -2 * math.pi, -math.pi, -2 * math.pi, -2 * math.pi, -2 * math.pi)
    qpos_high_rad: Vector6 = (2 * math.pi, 2 * math.pi, math.pi, 2 * math.pi, 2 * math.pi, 2 * math.pi)
    qvel_rad_s: Vector6 = (2.0944, 2.0944, 3.1416, 3.1416, 3.1416, 3.1416)
    qacc_rad_s2: Vector6 = (6.0, 6.0, 8.0, 10.0, 10.0, 10.0)
    qjerk_rad_s3: Vector6 = (60.0, 60.0, 80.0, 100.0, 100.0, 100.0)


class WorkCellConfig(Config):
    """Everything fixed about the cell. T_a_b maps points of frame b into frame a."""

    table: TableConfig = TableConfig()
    bin: BinConfig = BinConfig()
    camera: CameraConfig = CameraConfig()
    gripper: GripperConfig = GripperConfig()
    joint_limits: JointLimitsConfig = JointLimitsConfig()
    tool_camera: PoseConfig = PoseConfig(
        translation_m=(0.0, -0.09, 0.045),
        quat_wxyz=(math.cos(_CAMERA_TILT_RAD / 2), math.sin(_CAMERA_TILT_RAD / 2), 0.0, 0.0),
    )
    """Where the colour camera (x right, y down, z forward) sits on the tool (flange) frame."""
    tool_tcp: PoseConfig = PoseConfig(translation_m=(0.0, 0.0, 0.16))
    """Where the grasp point is in the tool frame: x along which the fingers open, z the way they point.

    The gripper is mounted accordingly: turned, tilted or set aside with this pose.
    """
    workspace: BoxConfig = BoxConfig(low_m=(0.15, -0.80, 0.014), high_m=(1.05, 0.55, 0.95))
    """Where the grasp point may go."""
    cube_edge_m: Vector2 = (0.040, 0.055)
    """Smallest and largest edge of the cubes."""
    home_qpos: Vector6 = (2.8311, -1.8136, 1.8817, -1.6389, -1.5708, 2.8311)
    """Looks down on the table: camera about 0.58 m above it, fingers opening along base y."""
    control_hz: float = Field(default=125.0, gt=0)

    @field_validator("tool_tcp")
    @classmethod
    def _points_away_from_the_flange(cls, tool_tcp: PoseConfig) -> PoseConfig:
        tilt_deg = math.degrees(math.acos(min(1.0, max(-1.0, float(tool_tcp.matrix()[2, 2])))))
        if tilt_deg > TCP_TILT_MAX_DEG:
            raise ValueError(
                f"tool_tcp: z is the way the fingers point, at most {TCP_TILT_MAX_DEG:g} degrees off the flange's "
                f"axis; quat_wxyz {tool_tcp.quat_wxyz} tilts it by {tilt_deg:.0f}"
            )
        if tool_tcp.translation_m[2] <= 0.0:
            raise ValueError(f"tool_tcp: the grasp point lies before the flange, got z {tool_tcp.translation_m[2]} m")
        return tool_tcp

    @property
    def T_tool_camera(self) -> Float[np.ndarray, "4 4"]:
        """p_tool = T_tool_camera @ p_camera."""
        return self.tool_camera.matrix()

    @property
    def T_tool_tcp(self) -> Float[np.ndarray, "4 4"]:
        """p_tool = T_tool_tcp @ p_tcp."""
        return self.tool_tcp.matrix()


class LatencyConfig(Config):
    """What takes time on a real robot, charged by the clock in lock-step too. The defaults are those of a laptop."""

    camera_s: float = Field(default=0.04, ge=0, allow_inf_nan=False)
    """From the exposure of a frame until it can be read."""
    perception_s: float = Field(default=0.04, ge=0, allow_inf_nan=False)
    """From a frame to its tracks; meanwhile no other frame is read."""
    policy_s: float = Field(default=0.008, ge=0, allow_inf_nan=False)
    """From an observation to its action chunk; meanwhile the chunk before is followed."""
    actuation_s: float = Field(default=0.004, ge=0, allow_inf_nan=False)
    """From a command until the servos begin to follow it."""


NO_LATENCY = LatencyConfig(camera_s=0.0, perception_s=0.0, policy_s=0.0, actuation_s=0.0)

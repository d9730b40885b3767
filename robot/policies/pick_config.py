"""The numbers of the scripted pick skill, with the reason for each."""

from __future__ import annotations

from pydantic import Field

from vision.config import Config


class LookConfig(Config):
    """Where the skill looks from and when it believes what it sees."""

    min_hits: int = Field(default=2, ge=1)
    """Fresh detections that an object needs before the skill acts on it."""
    wait_s: float = Field(default=0.6, gt=0)
    """How long one view may take to show the object."""
    search_height_m: float = Field(default=0.45, gt=0)
    """Camera height over the table in the closer views that follow when the wide view shows nothing."""
    size_tolerance_m: float = Field(default=0.012, gt=0)
    """How far a measured length may lie outside the sizes that the cell knows for its cubes."""
    height_tolerance_m: float = Field(default=0.008, gt=0)
    """How far a centre may lie below that of the smallest cube on the table; what is flatter is no cube."""


class GraspConfig(Config):
    """How the fingers go about an object."""

    clearance_m: float = Field(default=0.10, gt=0)
    """Height of the grasp point above the object's centre before going straight down."""
    finger_gap_m: float = Field(default=0.014, gt=0)
    """Free space wanted on each side of the object while going down, where the opening allows it."""
    finger_thickness_m: float = Field(default=0.020, gt=0)
    """Extent of a finger along the opening direction; what it sweeps over must be free."""
    finger_width_m: float = Field(default=0.026, gt=0)
    """Extent of a finger across the opening direction."""
    table_gap_m: float = Field(default=0.005, ge=0)
    """The fingertips stay this far above the table."""
    blocked_points: int = Field(default=6, ge=1)
    """So many depth points where the fingers must go are an obstacle; fewer are noise."""
    held_opening_min_m: float = Field(default=0.015, gt=0)
    """Fingers that have closed to less than this hold nothing."""
    moved_m: float = Field(default=0.03, gt=0)
    """An object that is found this far from where it was expected has moved, and is approached anew."""
    correct_m: float = Field(default=0.0015, ge=0)
    """Corrections above the object that are smaller than this are not worth a motion."""
    correct_rad: float = Field(default=0.03, ge=0)
    """The same for the yaw."""
    max_approaches: int = Field(default=4, ge=1)
    """How often an object may be followed to a new place within one attempt before it counts as lost."""
    max_attempts: int = Field(default=4, ge=1)
    """Grasps to try before giving up."""


class CarryConfig(Config):
    """How a held object travels and is set down."""

    lift_m: float = Field(default=0.15, gt=0)
    """How far straight up before travelling."""
    wall_clearance_m: float = Field(default=0.04, gt=0)
    """Room between the object's lower edge and the top of the place's walls when it arrives above them."""
    drop_m: float = Field(default=0.06, ge=0)
    """Height of the object's lower edge above the place's floor when the fingers open."""
    verify_s: float = Field(default=0.8, gt=0)
    """How long to look for the object in its place before looking for it on the table."""


class MotionConfig(Config):
    """Speeds and patience."""

    speed_fraction: float = Field(default=1.0, gt=0, le=1)
    """Motions take 1 / speed_fraction of the time that the work cell's joint limits allow."""
    straight_speed_m_s: float = Field(default=0.5, gt=0)
    straight_acceleration_m_s2: float = Field(default=2.5, gt=0)
    straight_jerk_m_s3: float = Field(default=25.0, gt=0)
    turn_speed_rad_s: float = Field(default=1.5, gt=0)
    turn_acceleration_rad_s2: float = Field(default=6.0, gt=0)
    turn_jerk_rad_s3: float = Field(default=60.0, gt=0)
    settle_rad: float = Field(default=0.004, gt=0)
    """A motion has ended when every joint is this near to its target ..."""
    settle_rad_s: float = Field(default=0.03, gt=0)
    """... and this slow ..."""
    settle_s: float = Field(default=0.4, gt=0)
    """... or when this much time has passed since the trajectory's end."""
    gripper_settle_s: float = Field(default=0.06, gt=0)
    """The fingers have stopped when their distance has not changed for so long."""
    gripper_wait_s: float = Field(default=1.2, gt=0)
    """Longest wait for the fingers."""


class PickSkillConfig(Config):
    """The scripted pick skill."""

    look: LookConfig = LookConfig()
    grasp: GraspConfig = GraspConfig()
    carry: CarryConfig = CarryConfig()
    motion: MotionConfig = MotionConfig()
    timeout_s: float = Field(default=45.0, gt=0)
    """The skill gives up after this time, counted from its first observation."""

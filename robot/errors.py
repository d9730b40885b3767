"""Errors of the robot; all derive from RobotError.

    RobotError
    ├── TransformError            a matrix is not the rotation or transform that was asked for (also a ValueError)
    ├── KinematicsError
    │   ├── UnreachableError      no joint angles place the tool at a pose
    │   └── JointLimitError       joint angles exist, but none within the limits
    ├── MotionPlanningError       no trajectory within the limits joins start and goal
    │   └── SingularityError      ... because the path runs through or beside a singular configuration
    ├── ActionError               a policy's action chunk cannot be followed
    ├── PolicyInputError          an observation is not of the kind that a learned policy was trained on
    ├── SafetyError               the safety gates do not know the arm's place, or it lies outside them
    ├── ArmError                  the arm or the gripper cannot be reached, refuses, or has not been entered
    ├── CalibrationError          images or poses do not determine what is to be calibrated (also a UserError)
    ├── CameraError               a camera cannot be opened or no longer delivers frames
    └── StageError                a stage of the control loop failed: device, perception or policy

Errors in files and configurations are vision.errors.UserError; these here arise while the robot runs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from handeye.vision.errors import UserError


class RobotError(RuntimeError):
    """Root of the family."""


class TransformError(RobotError, ValueError):
    """A matrix is not a rotation (orthonormal, determinant +1) or not a rigid transform (last row 0 0 0 1)."""


class KinematicsError(RobotError):
    """Joint angles and tool pose cannot be brought together."""


class UnreachableError(KinematicsError):
    """No joint angles place the tool at the pose, which the error carries as `T_base_tool`."""

    def __init__(self, T_base_tool: Float[np.ndarray, "4 4"], reason: str) -> None:
        x, y, z = T_base_tool[:3, 3]
        axes = np.round(T_base_tool[:3, :3], 3).tolist()
        super().__init__(f"tool pose at ({x:.4f}, {y:.4f}, {z:.4f}) m in base, R_base_tool {axes}: {reason}")
        self.T_base_tool = T_base_tool
        self.reason = reason


class JointLimitError(KinematicsError):
    """A configuration lies outside the joint limits, and no whole turn brings it inside."""


class MotionPlanningError(RobotError):
    """No trajectory within the velocity, acceleration and jerk limits joins start and goal."""


class SingularityError(MotionPlanningError):
    """A Cartesian path passes a configuration where small tool motion needs boundless joint motion."""


class ActionError(RobotError):
    """A policy's action chunk cannot be followed: it has no rows or no period."""


class PolicyInputError(RobotError):
    """An observation has numbers, shapes or cameras that a learned policy does not know, or is not finite."""


class SafetyError(RobotError):
    """The safety gates do not know where the arm is yet, or the arm stands where they would not let it go."""


class ArmError(RobotError):
    """The arm or the gripper cannot be reached, refuses a command, or its context has not been entered."""


class CalibrationError(RobotError, UserError):
    """Images or poses do not determine what is to be calibrated; the message says what to record instead."""


class StageError(RobotError):
    """A stage of the control loop failed, by an error of any kind; `stage` names it, the cause is chained."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(f"{stage}: {' '.join(str(cause).split()) or type(cause).__name__}")
        self.stage = stage


class CameraError(RobotError):
    """A camera cannot be opened, or has stopped delivering frames."""

"""Build the MuJoCo model of the UR10e with its servos, a parallel gripper and the wrist camera.

Lengths and masses are the published ones (Universal Robots, "Parameters for calculations of kinematics and
dynamics"); shapes are those of `robot.kinematics`, and inertias follow from them. Each body turns
about the z axis of the previous DH frame, so that body i is DH frame i-1 turned by q_i.

The gripper resembles a Robotiq 2F-85: two coupled fingers slide along the x axis of `tool_tcp` with limited force, and
hold objects by the friction of their pads alone (elliptic cones, no weld). The opening is the gap between the pads.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

import numpy as np
from scipy.spatial.transform import Rotation

from handeye.robot.config import JointLimitsConfig, WorkCellConfig
from handeye.robot.kinematics.collision_geometry import UR10E_PARTS
from handeye.robot.kinematics.forward import UR10E
from handeye.robot.kinematics.hand_geometry import (
    COUPLING_RADIUS_M,
    FINGER_HALF_XY_M,
    FINGER_SHORT_OF_TIP_M,
    HOUSING_BEHIND_LENS_M,
    HOUSING_HALF_M,
    PAD_LENGTH_M,
    PAD_THICKNESS_M,
    PAD_WIDTH_M,
    PALM_END_M,
    PALM_HALF_XY_M,
    PALM_START_M,
    camera_bracket,
    hand_mounting,
)
from handeye.robot.simulator.mjcf import Numbers, add, camera_lens
from handeye.robot.transforms import apply_transform, rotation_to_quat_wxyz

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")

# As published, Nm.
TORQUE_LIMIT_NM = (330.0, 330.0, 150.0, 54.0, 54.0, 54.0)

# Servo gains: force = kp (q_target - q) + kv (qvel_target - qvel), about critically damped on each joint's own
# inertia. The armature stands for rotor and gear, which dominate the inertia of a geared joint.
_KP = (40000.0, 40000.0, 20000.0, 4000.0, 4000.0, 4000.0)
_KV = (1200.0, 1200.0, 500.0, 50.0, 50.0, 50.0)
_ARMATURE = (2.0, 2.0, 1.0, 0.15, 0.15, 0.15)

# Arm parts meet objects, table, bin and each other: contact needs contype & conaffinity of the partner. MuJoCo leaves
# out a body against its parent, which here overlap by construction; add_exclusions names what else does.
ARM_COLLISION = {"contype": "2", "conaffinity": "3"}

CORE_FRACTION, CORE_SUFFIX = 0.9, "_core"

_GREY = (0.72, 0.73, 0.75, 1.0)
_BLUE = (0.42, 0.62, 0.78, 1.0)
_DARK = (0.22, 0.23, 0.25, 1.0)

FINGER_NAMES = ("finger_left", "finger_right")
PAD_NAMES = ("pad_left", "pad_right")
PAD_FRICTION = (0.9, 0.02, 0.0001)

_FINGER_KP = 4000.0
_FINGER_DAMPING = 90.0

_BLACK = (0.10, 0.10, 0.11, 1.0)
_METAL = (0.45, 0.46, 0.48, 1.0)
_RUBBER = (0.16, 0.16, 0.17, 1.0)


# Mass (kg) and paint of each of UR10E_PARTS.
_LOOKS = (
    (4.0, _DARK),
    (3.5, _GREY),
    (3.869, _GREY),
    (4.5, _BLUE),
    (6.0, _GREY),
    (2.551, _BLUE),
    (1.4, _GREY),
    (1.889, _GREY),
    (0.7, _BLUE),
    (1.4, _GREY),
    (0.7, _BLUE),
    (1.3, _GREY),
    (0.68, _BLUE),
    (0.615, _DARK),
)


def add_arm(world: Element, actuators: Element, limits: JointLimitsConfig) -> Element:
    """Add the arm to the world body and its servos; returns the body of the last link, frame 5 turned by q6.

    The site `tool` is DH frame 6. Gravity on the arm is compensated, as the real controller does. Servos are two
    actuators a joint, first six positions (rad), then six velocities (rad/s).
    """
    base = add(world, "body", name="base")
    _add_link(base, 0, "base")
    body, pos, quat = world, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
    for index, name in enumerate(JOINT_NAMES):
        body = add(body, "body", name=name, pos=pos, quat=quat, gravcomp="1")
        low, high = limits.qpos_low_rad[index], limits.qpos_high_rad[index]
        torque = (-TORQUE_LIMIT_NM[index], TORQUE_LIMIT_NM[index])
        add(
            body,
            "joint",
            name=name,
            axis="0 0 1",
            range=(low, high),
            armature=_ARMATURE[index],
            actuatorfrcrange=torque,
        )
        _add_link(body, index + 1, name)
        pos = (UR10E.a_m[index], 0.0, UR10E.d_m[index])
        quat = (math.cos(UR10E.alpha_rad[index] / 2), math.sin(UR10E.alpha_rad[index] / 2), 0.0, 0.0)
    add(body, "site", name="tool", pos=pos, quat=quat, group="5")
    for name, gain in zip(JOINT_NAMES, _KP, strict=True):
        add(actuators, "position", name=f"{name}_position", joint=name, kp=gain, ctrllimited="false")
    for name, gain in zip(JOINT_NAMES, _KV, strict=True):
        add(actuators, "velocity", name=f"{name}_velocity", joint=name, kv=gain, ctrllimited="false")
    return body


def add_gripper(wrist: Element, actuators: Element, equality: Element, cell: WorkCellConfig) -> None:
    """Mount gripper and wrist camera on the last link of the arm.

    Adds the site `tcp`, the camera `wrist` and two position actuators whose controls are half the opening, m.
    """
    hand = add(wrist, "body", name="gripper", pos=(0.0, 0.0, UR10E.d_m[-1]), gravcomp="1")
    T_tool_hand = hand_mounting(cell).T_tool_hand
    quat = rotation_to_quat_wxyz(T_tool_hand[:3, :3])
    coupling, half = apply_transform(T_tool_hand, np.array([0.0, 0.0, PALM_START_M / 2])), PALM_START_M / 2
    _add_shell(hand, "coupling", "cylinder", coupling, (COUPLING_RADIUS_M, half), _METAL, mass=0.2, quat=quat)
    palm = apply_transform(T_tool_hand, np.array([0.0, 0.0, (PALM_START_M + PALM_END_M) / 2]))
    palm_half = (*PALM_HALF_XY_M, (PALM_END_M - PALM_START_M) / 2)
    _add_shell(hand, "palm", "box", palm, palm_half, _BLACK, mass=0.5, quat=quat)
    for sign, finger, pad in zip((1.0, -1.0), FINGER_NAMES, PAD_NAMES, strict=True):
        _add_finger(hand, sign, finger, pad, cell)
        add(
            actuators,
            "position",
            name=finger,
            joint=finger,
            kp=_FINGER_KP,
            ctrllimited="false",
            forcerange=(-cell.gripper.force_n, cell.gripper.force_n),
        )
    add(equality, "joint", joint1=FINGER_NAMES[0], joint2=FINGER_NAMES[1], polycoef="0 1 0 0 0", solref="0.005 1")
    add(hand, "site", name="tcp", pos=cell.tool_tcp.translation_m, quat=cell.tool_tcp.quat_wxyz, group="5")
    _add_camera(hand, cell)


def add_exclusions(contact: Element) -> None:
    """Bodies that touch by construction: base and shoulder, as the world is no parent, and the closed fingers' pads."""
    add(contact, "exclude", body1="base", body2=JOINT_NAMES[0])
    add(contact, "exclude", body1=FINGER_NAMES[0], body2=FINGER_NAMES[1])


def _add_link(body: Element, link: int, name: str) -> None:
    """The parts of one link, called `name_0`, `name_1`, ..."""
    painted = zip(UR10E_PARTS, _LOOKS, strict=True)
    own = [(part, *look) for part, look in painted if part.link == link]
    for number, (part, mass, rgba) in enumerate(own):
        ends = (*part.start, *part.end)
        add(
            body,
            "geom",
            name=f"{name}_{number}",
            type="capsule" if part.has_round_ends else "cylinder",
            fromto=ends,
            size=(part.radius_m,),
            mass=mass,
            rgba=rgba,
            material="metal",
            **ARM_COLLISION,
        )
        if part.has_round_ends:
            # MuJoCo 3.17 finds no contact of a capsule that runs right through a box thinner than itself, such as the
            # table; of a cylinder it does. This one lies inside the capsule, out of sight and of every lighter touch.
            size, shape = (CORE_FRACTION * part.radius_m,), {"type": "cylinder", "mass": "0", "group": "5"}
            add(body, "geom", name=f"{name}_{number}{CORE_SUFFIX}", fromto=ends, size=size, **shape, **ARM_COLLISION)


def _add_finger(hand: Element, sign: float, name: str, pad: str, cell: WorkCellConfig) -> None:
    mounting = hand_mounting(cell)
    place, quat = mounting.T_tool_hand[:3, 3], rotation_to_quat_wxyz(mounting.T_tool_hand[:3, :3])
    tip_m = mounting.tip_m
    body = add(hand, "body", name=name, pos=place, quat=quat, gravcomp="1")
    reach = (cell.gripper.opening_min_m / 2, cell.gripper.opening_max_m / 2)
    add(
        body,
        "joint",
        name=name,
        type="slide",
        axis=(sign, 0.0, 0.0),
        range=reach,
        armature=0.1,
        damping=_FINGER_DAMPING,
        solreflimit="0.005 1",
    )
    end_m = tip_m - FINGER_SHORT_OF_TIP_M
    back_middle, back_half = (PALM_END_M + end_m) / 2, (end_m - PALM_END_M) / 2
    back_x = sign * (PAD_THICKNESS_M + FINGER_HALF_XY_M[0])
    _add_shell(body, f"{name}_back", "box", (back_x, 0, back_middle), (*FINGER_HALF_XY_M, back_half), _METAL, mass=0.08)
    add(
        body,
        "geom",
        name=pad,
        type="box",
        pos=(sign * PAD_THICKNESS_M / 2, 0.0, tip_m - PAD_LENGTH_M / 2),
        size=(PAD_THICKNESS_M / 2, PAD_WIDTH_M / 2, PAD_LENGTH_M / 2),
        rgba=_RUBBER,
        material="rubber",
        mass=0.04,
        friction=PAD_FRICTION,
        condim="4",
        priority="1",
        solref="0.004 1",
        solimp="0.95 0.99 0.001",
        **ARM_COLLISION,
    )


def _add_camera(hand: Element, cell: WorkCellConfig) -> None:
    """The camera, and its housing behind the optical centre, out of view.

    MuJoCo's cameras look along -z with y up; ours look along +z with y down: half a turn about x between them.
    """
    turn = Rotation.from_quat(cell.tool_camera.quat_wxyz, scalar_first=True)
    place = np.array(cell.tool_camera.translation_m)
    quat_mujoco = (turn * Rotation.from_euler("x", np.pi)).as_quat(scalar_first=True)
    add(hand, "camera", name="wrist", pos=place, quat=quat_mujoco, **camera_lens(cell.camera))
    behind = place + turn.apply([0.0, 0.0, -HOUSING_BEHIND_LENS_M])
    quat = turn.as_quat(scalar_first=True)
    _add_shell(hand, "camera_housing", "box", behind, HOUSING_HALF_M, _METAL, mass=0.2, quat=quat)
    T_tool_bracket, half = camera_bracket(cell)
    quat_bracket = rotation_to_quat_wxyz(T_tool_bracket[:3, :3])
    _add_shell(hand, "camera_bracket", "box", T_tool_bracket[:3, 3], half, _METAL, mass=0.05, quat=quat_bracket)


def _add_shell(
    body: Element,
    name: str,
    shape: str,
    pos: Numbers,
    size: Numbers,
    rgba: Numbers,
    *,
    mass: float,
    quat: Numbers = (1.0, 0.0, 0.0, 0.0),
) -> None:
    """A rigid part of the hand."""
    look = {"rgba": rgba, "material": "metal"}
    add(body, "geom", name=name, type=shape, pos=pos, quat=quat, size=size, mass=mass, **look, **ARM_COLLISION)

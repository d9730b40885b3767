"""The UR10e as MuJoCo bodies, written from its Denavit-Hartenberg table, and its servos.

Lengths and masses are the published ones (Universal Robots, "Parameters for calculations of kinematics and
dynamics"); shapes are those of `robot.kinematics.collision_geometry`, and inertias follow from them. Each body turns
about the z axis of the previous DH frame, so that body i is DH frame i-1 turned by q_i.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element

from robot.config import JointLimitsConfig
from robot.kinematics.collision_geometry import UR10E_PARTS
from robot.kinematics.forward import UR10E
from robot.simulator.mjcf import add

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")

# As published, Nm.
TORQUE_LIMIT_NM = (330.0, 330.0, 150.0, 54.0, 54.0, 54.0)

# Servo gains: force = kp (q_target - q) + kv (qvel_target - qvel), about critically damped on each joint's own
# inertia. The armature stands for rotor and gear, which dominate the inertia of a geared joint.
_KP = (40000.0, 40000.0, 20000.0, 4000.0, 4000.0, 4000.0)
_KV = (1200.0, 1200.0, 500.0, 50.0, 50.0, 50.0)
_ARMATURE = (2.0, 2.0, 1.0, 0.15, 0.15, 0.15)

# Arm parts meet objects, table and bin, never each other: contact needs contype & conaffinity of the partner.
ARM_COLLISION = {"contype": "2", "conaffinity": "1"}

_GREY = (0.72, 0.73, 0.75, 1.0)
_BLUE = (0.42, 0.62, 0.78, 1.0)
_DARK = (0.22, 0.23, 0.25, 1.0)


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


def _add_link(body: Element, link: int, name: str) -> None:
    """The parts of one link, called `name_0`, `name_1`, ..."""
    painted = zip(UR10E_PARTS, _LOOKS, strict=True)
    own = [(part, *look) for part, look in painted if part.link == link]
    for number, (part, mass, rgba) in enumerate(own):
        add(
            body,
            "geom",
            name=f"{name}_{number}",
            type="capsule" if part.has_round_ends else "cylinder",
            fromto=(*part.start, *part.end),
            size=(part.radius_m,),
            mass=mass,
            rgba=rgba,
            material="metal",
            **ARM_COLLISION,
        )

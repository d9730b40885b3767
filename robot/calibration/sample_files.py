"""Read poses as robots and other programs write them, and pairs of poses: ours, MoveIt's and easy_handeye's.

How six or seven numbers turn is never guessed from their count: a key says it (`rotvec`, `quat_xyzw`, `quat_wxyz`), the
`--rotation` option, or Universal Robots' `p[x, y, z, rx, ry, rz]`, which is always a rotation vector.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float

from handeye.robot.calibration.hand_eye import Setting
from handeye.robot.errors import TransformError
from handeye.robot.transforms import (
    QUAT_SLACK,
    inverse,
    make_transform,
    nearest_transform,
    quat_wxyz_to_rotation,
    rotvec_to_rotation,
)
from handeye.vision.errors import UserError

TOOL, BOARD = "T_base_tool", "T_camera_board"
MOVEIT_KEYS = ("effector_wrt_world", "object_wrt_sensor")
EASY_KEYS = ("robot", "tracking")
EASY_LISTS = ("hand_world_samples", "camera_marker_samples")
EASY_TYPES = {"eye_in_hand": Setting.EYE_IN_HAND, "eye_on_base": Setting.EYE_TO_HAND}
SUFFIXES = (".json", ".yaml", ".yml", ".samples")
_PRINTED_DIGITS = 1e-3  # rotations in files are rounded; what is farther from a rotation was never one
_UR_POSE = re.compile(r"\s*p\s*\[([^\]]*)\]\s*")


class Rotation(Enum):
    """How the numbers after x, y, z turn."""

    ROTVEC = "rotvec"
    """Axis times angle (rad)."""
    QUAT_XYZW = "quat_xyzw"
    QUAT_WXYZ = "quat_wxyz"

    @property
    def count(self) -> int:
        """Numbers that it has."""
        return 3 if self is Rotation.ROTVEC else 4

    def matrix(self, numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, "3 3"]:
        """Raises ValueError for degrees and for quaternions that are none."""
        length = float(np.linalg.norm(numbers))
        if self is Rotation.ROTVEC:
            if length > 2.0 * np.pi:
                raise ValueError(f"rotvec has length {length:.4g}, more than a turn in radians: degrees?")
            return rotvec_to_rotation(numbers)
        if not abs(length - 1.0) <= QUAT_SLACK:
            raise ValueError(f"{self.value} must have length 1, has {length:.6f}")
        return quat_wxyz_to_rotation((np.roll(numbers, 1) if self is Rotation.QUAT_XYZW else numbers) / length)


def read_pose(given: object, rotation: Rotation | None) -> Float[np.ndarray, "4 4"]:
    """A pose in any form; `rotation` is that of bare numbers. Raises ValueError, TransformError with the reason."""
    if isinstance(given, str):
        matched = _UR_POSE.fullmatch(given)
        if matched is None:
            raise ValueError(f"expected a pose, or p[x, y, z, rx, ry, rz] as a UR writes it, got {given!r}")
        return _pose(_numbers(matched[1].split(","), 6, "p[...]"), Rotation.ROTVEC)
    if isinstance(given, Mapping):
        return _pose_of_keys(given)
    if not isinstance(given, Sequence):
        raise ValueError(f"expected a pose, got {given!r}")
    if len(given) in (4, 16):
        rows = [value for row in given for value in row] if all(isinstance(row, Sequence) for row in given) else given
        return nearest_transform(_numbers(rows, 16, "matrix").reshape(4, 4), _PRINTED_DIGITS, "matrix")
    if len(given) not in (6, 7):
        raise ValueError(f"expected 4 x 4 numbers, or 6 or 7, got {len(given)}")
    if rotation is None:
        raise ValueError(
            f"{len(given)} numbers do not say how they turn: name it as a key (rotvec, quat_xyzw or quat_wxyz beside "
            "translation_m), or with --rotation"
        )
    return _pose(_numbers(given, 3 + rotation.count, f"x, y, z and {rotation.value}"), rotation)


def _pose_of_keys(given: Mapping[Any, Any]) -> Float[np.ndarray, "4 4"]:
    if set(given) == {"translation", "rotation"}:  # geometry_msgs/Transform
        place, turn = _axes(given, "translation", "xyz"), _axes(given, "rotation", "xyzw")
        return _pose(np.concatenate([place, turn]), Rotation.QUAT_XYZW)
    named = [rotation for rotation in Rotation if rotation.value in given]
    unknown = sorted(map(str, set(given) - {"translation_m", *(rotation.value for rotation in Rotation)}))
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}: expected translation_m and rotvec, quat_xyzw or quat_wxyz")
    if len(named) > 1:
        raise ValueError(f"has {' and '.join(rotation.value for rotation in named)}: expected one of them")
    place = _numbers(given.get("translation_m", [0.0] * 3), 3, "translation_m")
    if not named:
        return make_transform(np.eye(3), place)
    turn = _numbers(given[named[0].value], named[0].count, named[0].value)
    return _pose(np.concatenate([place, turn]), named[0])


def _axes(given: Mapping[Any, Any], key: str, axes: str) -> Float[np.ndarray, " n"]:
    values = given[key]
    told = f"{key} {', '.join(axes)}"
    return _numbers([values.get(axis) for axis in axes] if isinstance(values, Mapping) else values, len(axes), told)


def _pose(numbers: Float[np.ndarray, " n"], rotation: Rotation) -> Float[np.ndarray, "4 4"]:
    return make_transform(rotation.matrix(numbers[3:]), numbers[:3])


def _numbers(given: object, count: int, what: str) -> Float[np.ndarray, " n"]:
    try:
        if not isinstance(given, Sequence) or isinstance(given, str) or any(isinstance(v, bool) for v in given):
            raise ValueError
        numbers = np.array([float(value) for value in given], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{what}: expected {count} finite numbers, got {given}")
    return numbers


def read_pairs(path: Path, setting: Setting, rotation: Rotation | None) -> Float[np.ndarray, "N 2 4 4"]:
    """The pairs T_base_tool, T_camera_board of a JSON or YAML file. Raises UserError naming file, sample and reason.

    easy_handeye keeps the robot's pose inverted where the camera is beside the arm, and may say which setting it had.
    """
    samples, is_easy = _samples(path, setting)
    pairs = []
    for number, sample in enumerate(samples):
        pair = []
        for what, given in zip((TOOL, BOARD), _two_poses(sample, f"{path}: sample {number}"), strict=True):
            try:
                pair.append(read_pose(given, rotation))
            except (TypeError, ValueError, TransformError) as error:
                raise UserError(f"{path}: sample {number}, {what}: {error}") from error
        if is_easy and setting is Setting.EYE_TO_HAND:
            pair[0] = inverse(pair[0])
        pairs.append(pair)
    return np.array(pairs).reshape(-1, 2, 4, 4)


def _samples(path: Path, setting: Setting) -> tuple[Sequence[Any], bool]:
    """The list of samples, and whether easy_handeye made it."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as pairs of poses: {' '.join(str(error).split())}") from error
    if isinstance(content, Mapping) and "parameters" in content:
        _check_setting(content["parameters"], setting, path)
    if isinstance(content, Mapping) and "samples" in content:
        content = content["samples"]
    if isinstance(content, Mapping) and set(EASY_LISTS) <= set(content):
        robot, tracking = (_transforms(content[key]) for key in EASY_LISTS)
        if len(robot) != len(tracking):
            raise UserError(f"{path}: {len(robot)} {EASY_LISTS[0]} and {len(tracking)} {EASY_LISTS[1]}")
        return [dict(zip(EASY_KEYS, pair, strict=True)) for pair in zip(robot, tracking, strict=True)], True
    if not isinstance(content, list):
        raise UserError(
            f"{path}: expected a list of [{TOOL}, {BOARD}], or samples as MoveIt or easy_handeye saves them"
        )
    return content, any(isinstance(row, Mapping) and EASY_KEYS[0] in row for row in content)


def _transforms(given: Any) -> list[Any]:
    listed = given.get("transforms") if isinstance(given, Mapping) else given
    return listed if isinstance(listed, list) else []


def _check_setting(parameters: Any, setting: Setting, path: Path) -> None:
    """easy_handeye's parameters, where they say so, must be those of the setting that the user gave."""
    said = easy_setting(parameters if isinstance(parameters, Mapping) else {})
    if said is not None and said is not setting:
        raise UserError(f"{path}: its parameters say {said.value}, not {setting.value}")


def easy_setting(parameters: Mapping[str, Any]) -> Setting | None:
    """What easy_handeye (`eye_on_hand`) or easy_handeye2 (`calibration_type`) says; None where it says nothing."""
    if isinstance(parameters.get("eye_on_hand"), bool):
        return Setting.EYE_IN_HAND if parameters["eye_on_hand"] else Setting.EYE_TO_HAND
    return EASY_TYPES.get(str(parameters.get("calibration_type")))


def _two_poses(sample: Any, where: str) -> tuple[Any, Any]:
    if isinstance(sample, Mapping):
        for (tool, board), told in ((MOVEIT_KEYS, "MoveIt"), (EASY_KEYS, "easy_handeye"), ((TOOL, BOARD), None)):
            if tool in sample or board in sample:
                missing = [key for key in (tool, board) if key not in sample]
                if missing:
                    raise UserError(f"{where}: {missing[0]} is missing{f', as {told} saves it' if told else ''}")
                return sample[tool], sample[board]
    if isinstance(sample, list) and len(sample) == 2:
        return sample[0], sample[1]
    raise UserError(f"{where}: expected [{TOOL}, {BOARD}], got {str(sample)[:60]}")

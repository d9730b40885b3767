"""Solve hand-eye calibration (AX = XB) in closed form from poses of tool and board.

Eye in hand: the camera is on the tool, the board lies still in the cell. Eye to hand: the camera stands still, the
board is on the tool. Both are one equation, T_camera_board = inverse(X) G Z, with
    eye in hand:  X = T_tool_camera,  Z = T_base_board,  G = inverse(T_base_tool)
    eye to hand:  X = T_base_camera,  Z = T_tool_board,  G = T_base_tool.

Methods: rotation, then translation (Park and Martin 1994); dual quaternions (Daniilidis 1999); the rotation as a linear
system in its nine elements (Andreff, Horaud and Espiau 1999). Two rotations about non-parallel axes are needed (Tsai
and Lenz 1989); the rotation about the second-best axis measures how well the motions determine X.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import (
    inverse,
    make_transform,
    nearest_rotation,
    quat_wxyz_to_rotation,
    require_transform,
    rotation_to_quat_wxyz,
    rotation_to_rotvec,
)

MAX_PLAUSIBLE_M = 20.0

MIN_POSES = 3
MIN_ROTATION_RAD = math.radians(5.0)
"""Largest rotation between any two poses; with less, errors of the poses are magnified more than twelvefold."""
MIN_SECOND_AXIS_RAD = math.radians(3.0)
"""Root mean square rotation about the second-best axis; with less, all axes are as good as parallel."""


class Setting(Enum):
    """Where the camera is mounted."""

    EYE_IN_HAND = "eye-in-hand"
    EYE_TO_HAND = "eye-to-hand"


class ClosedForm(Enum):
    """The closed form; they differ in how errors of the motions propagate, and agree on exact data."""

    PARK_MARTIN = "park-martin"
    DUAL_QUATERNION = "dual-quaternion"
    KRONECKER = "kronecker"


@dataclass(frozen=True, slots=True, eq=False)
class PosePairs:
    """Poses of the tool in the base frame and of the board in the camera frame (m), taken at the same moments.

    Raises TransformError for what is no rigid transform (mirrored, sheared, NaN), naming the sample, and
    CalibrationError for too few samples and for lengths that can only be millimetres.
    """

    T_base_tool: Float[np.ndarray, "N 4 4"]
    T_camera_board: Float[np.ndarray, "N 4 4"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for poses, what in ((self.T_base_tool, "T_base_tool"), (self.T_camera_board, "T_camera_board")):
            for name, T in zip(self.names, poses, strict=True):
                require_transform(T, f"{what} of sample {name}")
                if np.abs(T[:3, 3]).max() > MAX_PLAUSIBLE_M:
                    raise CalibrationError(
                        f"{what} of sample {name} is {np.linalg.norm(T[:3, 3]):g} m away: expected metres, are these "
                        "millimetres?"
                    )
        if len(self.names) < MIN_POSES:
            raise CalibrationError(
                f"expected at least {MIN_POSES} samples, better 15, got {len(self.names)}: record more poses, each "
                "turned by 20 to 60 degrees about another axis"
            )

    def __len__(self) -> int:
        return len(self.names)

    def without(self, index: int) -> PosePairs:
        """All samples but one."""
        keep = np.arange(len(self)) != index
        names = tuple(name for name, is_kept in zip(self.names, keep, strict=True) if is_kept)
        return PosePairs(self.T_base_tool[keep], self.T_camera_board[keep], names)


@dataclass(frozen=True, slots=True, eq=False)
class HandEye:
    """A solution: X and Z of the equation above (m)."""

    setting: Setting
    X: Float[np.ndarray, "4 4"]
    Z: Float[np.ndarray, "4 4"]

    @property
    def names(self) -> tuple[str, str]:
        """Names of X and Z in this setting."""
        match self.setting:
            case Setting.EYE_IN_HAND:
                return "T_tool_camera", "T_base_board"
            case Setting.EYE_TO_HAND:
                return "T_base_camera", "T_tool_board"
            case _:
                assert_never(self.setting)

    def predict(self, T_base_tool: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
        """T_camera_board predicted for these tool poses."""
        return inverse(self.X) @ tool_motion(T_base_tool, self.setting) @ self.Z


def tool_motion(T_base_tool: Float[np.ndarray, "*batch 4 4"], setting: Setting) -> Float[np.ndarray, "*batch 4 4"]:
    """G of the equation above."""
    match setting:
        case Setting.EYE_IN_HAND:
            return inverse(T_base_tool)
        case Setting.EYE_TO_HAND:
            return T_base_tool
        case _:
            assert_never(setting)


def solve_hand_eye(pairs: PosePairs, setting: Setting, method: ClosedForm) -> HandEye:
    """X by a closed form over all pairs of samples, Z as the mean over samples.

    Raises CalibrationError where the motions determine no X.
    """
    # With U = inverse(G): U_i X C_i = Z for every sample i, so inverse(U_i) U_j X = X C_i inverse(C_j) for every pair.
    unmoved = inverse(tool_motion(pairs.T_base_tool, setting))
    X = solve_ax_xb(relative_motions(unmoved), relative_motions(inverse(pairs.T_camera_board)), method)
    return place_board(pairs, setting, X)


def place_board(pairs: PosePairs, setting: Setting, X: Float[np.ndarray, "4 4"]) -> HandEye:
    """A known X, with the board where these samples see it: the mean over them."""
    unmoved = inverse(tool_motion(pairs.T_base_tool, setting))
    return HandEye(setting, X, mean_transform(unmoved @ X @ pairs.T_camera_board))


def mean_transform(transforms: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "4 4"]:
    """The rotation nearest to all rotations (chordal distance) and the mean translation."""
    return make_transform(nearest_rotation(transforms[:, :3, :3].mean(axis=0)), transforms[:, :3, 3].mean(axis=0))


def transform_errors(
    found: Float[np.ndarray, "*batch 4 4"], expected: Float[np.ndarray, "*batch 4 4"]
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Distance of the origins (m) and angle between the axes (rad)."""
    distance = np.linalg.norm(found[..., :3, 3] - expected[..., :3, 3], axis=-1)
    turn = np.swapaxes(expected[..., :3, :3], -1, -2) @ found[..., :3, :3]
    return np.asarray(distance), np.asarray(np.linalg.norm(rotation_to_rotvec(turn), axis=-1))


def relative_motions(poses: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "M 4 4"]:
    """inverse(pose i) @ pose j for all M = N (N - 1) / 2 pairs i < j."""
    first, second = np.triu_indices(len(poses), k=1)
    return inverse(poses[first]) @ poses[second]


def solve_ax_xb(
    A: Float[np.ndarray, "M 4 4"], B: Float[np.ndarray, "M 4 4"], method: ClosedForm
) -> Float[np.ndarray, "4 4"]:
    """X with A_i X = X B_i as nearly as possible for all i (lengths in m).

    Raises CalibrationError where the motions leave X undetermined: too few, too small, or about parallel axes.
    """
    # Near a half turn noise flips the axis, and pairs no longer correspond.
    is_usable = np.maximum(_angles(A), _angles(B)) < np.pi - 0.1
    A, B = A[is_usable], B[is_usable]
    check_motions(A)
    match method:
        case ClosedForm.PARK_MARTIN:
            R = _rotation_by_axes(A, B)
            return make_transform(R, _translation(A, B, R))
        case ClosedForm.DUAL_QUATERNION:
            return _by_dual_quaternions(A, B)
        case ClosedForm.KRONECKER:
            return _by_kronecker_product(A, B)
        case _:
            assert_never(method)


@dataclass(frozen=True, slots=True, eq=False)
class Excitation:
    """How much a set of motions rotates: root mean square angle about its principal axes (rad, falling), the axes in
    rows, and the largest angle between two poses.
    """

    angles_rad: Float[np.ndarray, " 3"]
    axes: Float[np.ndarray, "3 3"]
    largest_rad: float


def excitation(motions: Float[np.ndarray, "M 4 4"]) -> Excitation:
    """The rotation in these motions, with axes in their frame."""
    rotvecs = rotation_to_rotvec(motions[:, :3, :3])
    _, singular, axes = np.linalg.svd(rotvecs.reshape(-1, 3), full_matrices=False)
    angles = np.zeros(3)
    angles[: len(singular)] = singular / np.sqrt(max(1, len(rotvecs)))
    largest = float(np.linalg.norm(rotvecs, axis=1).max(initial=0.0))
    return Excitation(angles, axes if len(axes) == 3 else np.eye(3), largest)


def check_motions(motions: Float[np.ndarray, "M 4 4"]) -> None:
    """Raise CalibrationError, saying what to record, where relative motions leave AX = XB undetermined."""
    if len(motions) < 2:
        raise CalibrationError(
            f"{len(motions)} motion cannot determine where the camera sits: record at least {MIN_POSES} poses, "
            "better 15, each turned about another axis"
        )
    found = excitation(motions)
    if found.largest_rad < MIN_ROTATION_RAD:
        raise CalibrationError(
            f"the poses differ by at most {np.rad2deg(found.largest_rad):.2f} degrees: only rotations determine where "
            f"the camera sits, translations do not; turn the tool by 20 to 60 degrees between poses"
        )
    if found.angles_rad[1] < MIN_SECOND_AXIS_RAD:
        x, y, z = found.axes[0]
        raise CalibrationError(
            f"all rotations are about one axis, ({x:.2f}, {y:.2f}, {z:.2f}) in the tool's frame; along it the camera's "
            f"place is undetermined (about others they turn {np.rad2deg(found.angles_rad[1]):.2f} degrees): also tilt "
            "the tool by 20 to 40 degrees about two axes across that one"
        )


def _angles(T: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rotation_to_rotvec(T[:, :3, :3]), axis=1)


def _rotation_by_axes(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """X turns each motion's rotation vector: log A = R log B. The best R is that of Arun, Huang and Blostein (1987).

    Park and Martin's (M^T M)^(-1/2) M^T is the same matrix wherever M is regular and free of noise.
    """
    alpha, beta = rotation_to_rotvec(A[:, :3, :3]), rotation_to_rotvec(B[:, :3, :3])
    return nearest_rotation(alpha.T @ beta)


def _translation(A: np.ndarray, B: np.ndarray, R: np.ndarray) -> np.ndarray:
    """(R_A - 1) t = R t_B - t_A in the least squares sense."""
    rows = (A[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    right = (B[:, :3, 3] @ R.T - A[:, :3, 3]).reshape(-1)
    return np.linalg.lstsq(rows, right, rcond=None)[0]


def _by_dual_quaternions(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """a q = q b for unit dual quaternions: the two smallest singular directions, combined to have unit length.

    Equations 31 to 33 and 35 of Daniilidis (1999); scalar parts are equal by congruence and are left out.
    """
    a, a_dual = _dual_quaternion(A)
    b, b_dual = _dual_quaternion(B)
    zero = np.zeros((len(A), 3, 4))
    difference, dual = _vector_commutator(a, b), _vector_commutator(a_dual, b_dual)
    rows = np.concatenate([np.concatenate([difference, zero], -1), np.concatenate([dual, difference], -1)], axis=1)
    v7, v8 = np.linalg.svd(rows.reshape(-1, 8), full_matrices=False)[2][-2:]
    (u1, w1), (u2, w2) = (v7[:4], v7[4:]), (v8[:4], v8[4:])
    # q . q' = 0 fixes the ratio s of the two, |q| = 1 their size.
    candidates = np.roots([u1 @ w1, u1 @ w2 + u2 @ w1, u2 @ w2]).real
    lengths = [s * s * (u1 @ u1) + 2 * s * (u1 @ u2) + u2 @ u2 for s in candidates]
    s = candidates[int(np.argmax(lengths))]
    scale = 1.0 / np.sqrt(max(lengths))
    q, q_dual = scale * (s * u1 + u2), scale * (s * w1 + w2)
    t = 2.0 * _quaternion_product(q_dual, q * np.array([1.0, -1.0, -1.0, -1.0]))[1:]
    return make_transform(quat_wxyz_to_rotation(q), t)


def _dual_quaternion(T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real and dual part (M, 4) of transforms, scalar first: q and t q / 2."""
    q = rotation_to_quat_wxyz(T[:, :3, :3])
    t = np.concatenate([np.zeros((len(T), 1)), T[:, :3, 3]], axis=1)
    return q, 0.5 * _quaternion_product(t, q)


def _quaternion_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton's product, scalar first, over leading dimensions."""
    scalar = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(axis=-1, keepdims=True)
    vector = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + np.cross(a[..., 1:], b[..., 1:])
    return np.concatenate([scalar, vector], axis=-1)


def _vector_commutator(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, 3, 4) with M q = the vector part of a q - q b for each pair: its columns are the images of the units."""
    units = np.eye(4)
    columns = [_quaternion_product(a, unit) - _quaternion_product(unit, b) for unit in units]
    return np.stack([column[:, 1:] for column in columns], axis=-1)


def _by_kronecker_product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """R_A R - R R_B = 0 is linear in the nine elements of R: the null vector up to scale, made a rotation.

    As published the three of the translation are in the same system, which weighs metres against radians by their
    units; here they follow from the rotation.
    """
    identity, rotations = np.eye(3), zip(A[:, :3, :3], B[:, :3, :3], strict=True)
    rows = [np.kron(R_A, identity) - np.kron(identity, R_B.T) for R_A, R_B in rotations]
    null = np.linalg.svd(np.concatenate(rows), full_matrices=False)[2][-1].reshape(3, 3)
    R = nearest_rotation(null * np.sign(np.linalg.det(null)))
    return make_transform(R, _translation(A, B, R))

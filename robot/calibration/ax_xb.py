"""Closed forms for AX = XB: X from pairs of motions of two bodies that are rigidly joined by X.

Hand-eye calibration is of this kind: A are motions of the tool, B those of the camera at the same times. Rotation
first, then translation, after Park and Martin (1994); both at once by dual quaternions after Daniilidis (1999); the
rotation as a linear system in its nine elements after Andreff, Horaud and Espiau (1999).
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from robot.calibration.degeneracy import check_motions
from robot.transforms import (
    inverse,
    make_transform,
    nearest_rotation,
    quat_wxyz_to_rotation,
    rotation_to_quat_wxyz,
    rotation_to_rotvec,
)


class ClosedForm(Enum):
    """Which closed form; they differ in how errors of the motions spread, and agree where there are none."""

    PARK_MARTIN = "park-martin"
    DUAL_QUATERNION = "dual-quaternion"
    KRONECKER = "kronecker"


def relative_motions(poses: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "M 4 4"]:
    """inverse(pose i) @ pose j for all M = N (N - 1) / 2 pairs i < j."""
    first, second = np.triu_indices(len(poses), k=1)
    return inverse(poses[first]) @ poses[second]


def solve_ax_xb(
    A: Float[np.ndarray, "M 4 4"], B: Float[np.ndarray, "M 4 4"], method: ClosedForm
) -> Float[np.ndarray, "4 4"]:
    """X with A_i X = X B_i as nearly as the method can for all i (lengths in m).

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

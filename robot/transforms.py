"""Rigid transforms, rotations and angles: p_base = T_base_camera @ p_camera, so inner names cancel in a product.

Rotations convert to and from rotation vectors (axis times angle), roll-pitch-yaw and quaternions (scalar first).
Leading dimensions are batches everywhere. Exponential and logarithm of SE(3): Lynch and Park, Modern Robotics, 3.3.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

from handeye.robot.errors import TransformError

ROTATION_TOLERANCE = 1e-6
QUAT_SLACK = 1.001e-3
"""Largest error of a quaternion's length: four numbers of three printed digits are off by 0.0005 each."""
Angle = TypeVar("Angle", float, np.ndarray)
_SMALL_ANGLE = 1e-4  # below it series are used; their first neglected term is then under 1e-17


def make_transform(
    R: Float[np.ndarray, "*#batch 3 3"], p: Float[np.ndarray, "*#batch 3"]
) -> Float[np.ndarray, "*_ 4 4"]:
    """The 4x4 transform with rotation R and translation p (m); their batches broadcast."""
    T = np.zeros((*np.broadcast_shapes(R.shape[:-2], p.shape[:-1]), 4, 4))
    T[..., :3, :3] = R
    T[..., :3, 3] = p
    T[..., 3, 3] = 1.0
    return T


def translation(x: float, y: float, z: float) -> Float[np.ndarray, "4 4"]:
    """The transform that only moves, by x, y, z in m."""
    return make_transform(np.eye(3), np.array([x, y, z], dtype=np.float64))


def compose(*transforms: Float[np.ndarray, "*_ 4 4"]) -> Float[np.ndarray, "*_ 4 4"]:
    """The product from left to right: compose(T_base_tool, T_tool_camera) = T_base_camera. Of nothing: the identity."""
    product = np.eye(4)
    for T in transforms:
        product = product @ T
    return product


def inverse(T_a_b: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 4 4"]:
    """T_b_a, by transposing the rotation: exact, and cheaper than a general inverse."""
    R_b_a = np.swapaxes(T_a_b[..., :3, :3], -1, -2)
    return make_transform(R_b_a, -(R_b_a @ T_a_b[..., :3, 3:])[..., 0])


def apply_transform(
    T_a_b: Float[np.ndarray, "4 4"], points_b: Float[np.ndarray, "*points 3"]
) -> Float[np.ndarray, "*points 3"]:
    """points_a = R points_b + p, for one point or any array of them (m)."""
    return points_b @ T_a_b[:3, :3].T + T_a_b[:3, 3]


def rotate_vectors(
    T_a_b: Float[np.ndarray, "4 4"], vectors_b: Float[np.ndarray, "*points 3"]
) -> Float[np.ndarray, "*points 3"]:
    """Directions and velocities turn with the frame but do not move with it."""
    return vectors_b @ T_a_b[:3, :3].T


def is_rotation(
    R: Float[np.ndarray, "*batch 3 3"], tolerance: float = ROTATION_TOLERANCE
) -> Bool[np.ndarray, "*batch"]:
    """Whether R^T R = 1 within `tolerance` for every element and det R > 0; NaN and reflections are no rotations."""
    error = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max(axis=(-2, -1))
    return np.asarray((error <= tolerance) & (_determinant(R) > 0.0))


def require_rotation(R: Float[np.ndarray, "*batch 3 3"], name: str = "R") -> None:
    """Raise TransformError, saying by how much, unless every matrix is a rotation."""
    if not np.all(is_rotation(R)):
        error = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max()
        determinant = _determinant(R).min()
        raise TransformError(
            f"{name}: expected a rotation (R^T R = 1 within {ROTATION_TOLERANCE:g}, determinant +1), "
            f"got R^T R off by {error:.3g} and determinant {determinant:.6g}"
        )


def require_transform(T: Float[np.ndarray, "*batch 4 4"], name: str = "T") -> None:
    """Raise TransformError unless every matrix is a finite rigid transform with last row 0 0 0 1."""
    if not np.all(np.isfinite(T)):
        raise TransformError(f"{name}: expected finite numbers, got {T.tolist()}")
    if not np.all(T[..., 3, :] == np.array([0.0, 0.0, 0.0, 1.0])):
        raise TransformError(f"{name}: expected the last row 0 0 0 1, got {T[..., 3, :].tolist()}")
    require_rotation(T[..., :3, :3], name)


def nearest_rotation(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The rotation R with the largest trace(R^T matrix), by singular values (Kabsch 1978); never a reflection."""
    left, _, right = np.linalg.svd(matrix)
    signs = np.ones(left.shape[:-1])
    signs[..., 2] = _determinant(left @ right)
    return (left * signs[..., None, :]) @ right


def nearest_transform(
    T: Float[np.ndarray, "*batch 4 4"], tolerance: float, name: str = "T"
) -> Float[np.ndarray, "*batch 4 4"]:
    """The rigid transform nearest to T (Frobenius norm, by singular values), for matrices printed with few digits.

    Raises TransformError where an element of the rotation must change by more than `tolerance`, so that mirrored,
    scaled and sheared frames are refused rather than bent straight.
    """
    if not np.all(np.isfinite(T)):
        raise TransformError(f"{name}: expected finite numbers, got {T.tolist()}")
    R = nearest_rotation(T[..., :3, :3])
    change = np.abs(R - T[..., :3, :3]).max()
    last_row = np.abs(T[..., 3, :] - np.array([0.0, 0.0, 0.0, 1.0])).max()
    if max(change, last_row) > tolerance:
        mirrored = " (it is mirrored: an axis is flipped)" if _determinant(T[..., :3, :3]).min() < 0.0 else ""
        raise TransformError(
            f"{name}: expected a rotation and the last row 0 0 0 1, each within {tolerance:g}; the nearest rotation is "
            f"{change:.3g} away{mirrored}, the last row {last_row:.3g}"
        )
    return make_transform(R, T[..., :3, 3])


def rotvec_to_rotation(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rodrigues' formula for a rotation vector: its direction is the axis, its length the angle in rad, of any size."""
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    cross = cross_matrix(rotvec)
    return np.eye(3) + _sine_ratio(angle) * cross + _versine_ratio(angle) * (cross @ cross)


def rotation_to_rotvec(R: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """The rotation vector of length at most pi; at exactly pi either of the two opposite axes. TransformError."""
    quat = rotation_to_quat_wxyz(R)
    sin_half = np.linalg.norm(quat[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sin_half, quat[..., :1])
    # angle / sin(angle / 2), which tends to 2 as the angle vanishes
    scale = 2.0 / _sine_ratio(angle / 2.0)
    return quat[..., 1:] * scale


def axis_angle_to_rotation(axis: Float[np.ndarray, "3"], angle_rad: float) -> Float[np.ndarray, "3 3"]:
    """Rotation by angle_rad about an axis of any length but zero; TransformError for the zero axis."""
    length = float(np.linalg.norm(axis))
    if not (np.isfinite(length) and length > 0.0):
        raise TransformError(f"expected an axis of finite length above zero, got {axis.tolist()}")
    return rotvec_to_rotation(axis * (angle_rad / length))


def rotation_to_axis_angle(R: Float[np.ndarray, "3 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Unit axis and angle in [0, pi]; the identity, which has every axis, gives z. TransformError."""
    rotvec = rotation_to_rotvec(R)
    angle = float(np.linalg.norm(rotvec))
    axis = rotvec / angle if angle > 0.0 else np.array([0.0, 0.0, 1.0])
    return axis, angle


def rpy_to_rotation(rpy: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """R_z(yaw) R_y(pitch) R_x(roll): turn about the fixed x, then y, then z axis (rad), as in URDF."""
    (sr, sp, sy), (cr, cp, cy) = np.moveaxis(np.sin(rpy), -1, 0), np.moveaxis(np.cos(rpy), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_to_rpy(R: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Roll, pitch in [-pi/2, pi/2], yaw (rad). At pitch = +-pi/2 only yaw -+ roll is defined; roll is 0 there."""
    require_rotation(R)
    cos_pitch = np.hypot(R[..., 0, 0], R[..., 1, 0])
    pitch = np.arctan2(-R[..., 2, 0], cos_pitch)
    is_locked = cos_pitch < 1e-9
    roll = np.where(is_locked, 0.0, np.arctan2(R[..., 2, 1], R[..., 2, 2]))
    yaw = np.where(is_locked, np.arctan2(-R[..., 0, 1], R[..., 1, 1]), np.arctan2(R[..., 1, 0], R[..., 0, 0]))
    return np.stack([roll, pitch, yaw], axis=-1)


def quat_wxyz_to_rotation(quat_wxyz: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation of a unit quaternion, scalar first; TransformError if its length is off by more than QUAT_SLACK."""
    length = np.linalg.norm(quat_wxyz, axis=-1, keepdims=True)
    if not np.all(np.abs(length - 1.0) <= QUAT_SLACK):
        raise TransformError(f"expected a unit quaternion, scalar first, got {quat_wxyz.tolist()}")
    w, x, y, z = np.moveaxis(quat_wxyz / length, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rotation_to_quat_wxyz(R: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 4"]:
    """Unit quaternion, scalar first and >= 0. TransformError for what is no rotation.

    The sixteen products 4 q_i q_j are linear in R; the row with the largest diagonal entry is well conditioned
    whatever the angle (Shepperd 1978).
    """
    require_rotation(R)
    r = [[R[..., i, j] for j in range(3)] for i in range(3)]
    wx, wy, wz = r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1]
    xy, xz, yz = r[0][1] + r[1][0], r[0][2] + r[2][0], r[1][2] + r[2][1]
    products = [
        [1.0 + r[0][0] + r[1][1] + r[2][2], wx, wy, wz],
        [wx, 1.0 + r[0][0] - r[1][1] - r[2][2], xy, xz],
        [wy, xy, 1.0 - r[0][0] + r[1][1] - r[2][2], yz],
        [wz, xz, yz, 1.0 - r[0][0] - r[1][1] + r[2][2]],
    ]
    matrix = np.stack([np.stack(row, axis=-1) for row in products], axis=-2)
    largest = np.argmax(np.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
    quat = np.take_along_axis(matrix, largest[..., None, None], axis=-2)[..., 0, :]
    quat = quat / np.linalg.norm(quat, axis=-1, keepdims=True)
    return np.where(quat[..., :1] < 0.0, -quat, quat)


def wrap_angle(angle_rad: Angle, period_rad: float = 2.0 * np.pi) -> Angle:
    """The equal angle in [-period / 2, period / 2), for one angle or an array of them."""
    return (angle_rad + 0.5 * period_rad) % period_rad - 0.5 * period_rad


def rotation_angle(R_a: Float[np.ndarray, "3 3"], R_b: Float[np.ndarray, "3 3"]) -> float:
    """The angle in [0, pi] by which R_a must turn to become R_b, rad."""
    return float(np.linalg.norm(rotation_to_rotvec(R_a.T @ R_b)))


def exp_se3(twist: Float[np.ndarray, "*batch 6"]) -> Float[np.ndarray, "*batch 4 4"]:
    """The motion after one second along a constant twist (v, w): linear part in m/s first, then angular in rad/s."""
    v, w = twist[..., :3], twist[..., 3:]
    return make_transform(rotvec_to_rotation(w), (rotation_left_jacobian(w) @ v[..., None])[..., 0])


def rotation_left_jacobian(rotvec: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """J with exp(rotvec + d) = exp(J d) exp(rotvec) for small d (rad)."""
    angle = np.linalg.norm(rotvec, axis=-1)[..., None, None]
    cross = cross_matrix(rotvec)
    return np.eye(3) + _versine_ratio(angle) * cross + _cubic_ratio(angle) * (cross @ cross)


def log_se3(T: Float[np.ndarray, "*batch 4 4"]) -> Float[np.ndarray, "*batch 6"]:
    """The twist (v, w) with exp_se3(twist) = T and an angle of at most pi; TransformError for what is no transform."""
    require_transform(T)
    w = rotation_to_rotvec(T[..., :3, :3])
    angle = np.linalg.norm(w, axis=-1)[..., None, None]
    cross = cross_matrix(w)
    left_jacobian_inverse = np.eye(3) - 0.5 * cross + _cotangent_ratio(angle) * (cross @ cross)
    return np.concatenate([(left_jacobian_inverse @ T[..., :3, 3:])[..., 0], w], axis=-1)


def cross_matrix(w: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """[w]x with [w]x p = w x p."""
    cross = np.zeros((*w.shape, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -w[..., 2], w[..., 1], -w[..., 0]
    cross[..., 1, 0], cross[..., 2, 0], cross[..., 2, 1] = w[..., 2], -w[..., 1], w[..., 0]
    return cross


def _determinant(R: np.ndarray) -> np.ndarray:
    """The triple product of the columns; numpy's determinant would warn about NaN, which is judged here."""
    return np.asarray((np.cross(R[..., 0], R[..., 1]) * R[..., 2]).sum(axis=-1))


def _sine_ratio(angle: np.ndarray) -> np.ndarray:
    """sin(x) / x, 1 at 0."""
    return np.sinc(angle / np.pi)


def _versine_ratio(angle: np.ndarray) -> np.ndarray:
    """(1 - cos x) / x^2 = (sin(x/2) / (x/2))^2 / 2, which cancels nothing; 1/2 at 0."""
    return 0.5 * np.sinc(angle / (2.0 * np.pi)) ** 2


def _cubic_ratio(angle: np.ndarray) -> np.ndarray:
    """(x - sin x) / x^3; 1/6 at 0."""
    safe = np.where(angle > _SMALL_ANGLE, angle, 1.0)
    return np.where(angle > _SMALL_ANGLE, (safe - np.sin(safe)) / safe**3, 1.0 / 6.0 - angle**2 / 120.0)


def _cotangent_ratio(angle: np.ndarray) -> np.ndarray:
    """(1 - (x/2) cot(x/2)) / x^2; 1/12 at 0."""
    safe = np.where(angle > _SMALL_ANGLE, angle, 1.0)
    exact = (1.0 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2
    return np.where(angle > _SMALL_ANGLE, exact, 1.0 / 12.0 + angle**2 / 720.0)

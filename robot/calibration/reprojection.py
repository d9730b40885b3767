"""Where the board's corners land in the camera, as a function of hand-eye, board and pose corrections, with Jacobian.

Camera point p = R_X^T (r - t_X). Eye in hand: r = C^-1 G q; eye to hand: r = G C q; with q = Z p_board, and C the
correction of the tool's pose, T_base_tool <- T_base_tool C. Rotations are exp(w) R_start, translations t_start + t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from typing_extensions import assert_never

from robot.calibration.hand_eye import HandEye, Setting, tool_motion
from robot.camera.intrinsics import Intrinsics
from robot.errors import CalibrationError
from robot.transforms import apply_transform, cross_matrix, make_transform, rotation_left_jacobian, rotvec_to_rotation


@dataclass(frozen=True, slots=True, eq=False)
class BoardMeasurement:
    """One sample's corners: on the board (m), and in the image as a pinhole of focal_px sees them, (x / z, y / z).

    Taking the lens's distortion out of the measurement once leaves a smooth and simple projection to fit.
    """

    points_board: Float[np.ndarray, "n 3"]
    straight_xy: Float[np.ndarray, "n 2"]
    focal_px: Float[np.ndarray, " 2"]


def measure(
    points_board: Float[np.ndarray, "n 3"], pixels_uv: Float[np.ndarray, "n 2"], intrinsics: Intrinsics
) -> BoardMeasurement:
    """A measurement from corners found in an image. Raises CalibrationError for pixels that no direction leads to."""
    straight = intrinsics.directions(pixels_uv)[:, :2]
    if not np.isfinite(straight).all():
        raise CalibrationError("corners lie where the lens's distortion model folds over: calibrate the lens anew")
    return BoardMeasurement(points_board, straight, np.array([intrinsics.K[0, 0], intrinsics.K[1, 1]]))


def measure_pose(T_camera_board: Float[np.ndarray, "4 4"]) -> BoardMeasurement:
    """A pose of which no picture is left, as the corners that a camera would have seen of a board of 15 x 15 cm.

    A pose's error is then weighed as pictures make it: larger along the viewing direction than across it.
    """
    places = np.linspace(-0.075, 0.075, 4)
    x, y = np.meshgrid(places, places)
    points_board = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    p_camera = apply_transform(T_camera_board, points_board)
    if (p_camera[:, 2] <= 0.0).any():
        raise CalibrationError("the board is not in front of the camera: is T_camera_board inverted?")
    return BoardMeasurement(points_board, p_camera[:, :2] / p_camera[:, 2:], np.array([600.0, 600.0]))


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The geometry at one set of parameters; M corners in all, each with its sample's matrices."""

    R_X: np.ndarray  # (3, 3)
    q: np.ndarray  # (M, 3) corners seen from the frame in which Z places the board
    r: np.ndarray  # (M, 3) the same in the frame in which X places the camera
    p: np.ndarray  # (M, 3) the same in the camera
    dr_dq: np.ndarray  # (N, 3, 3)


class Reprojection:
    """Residuals (px) of all corners. Parameters: t and w of X, t and w of Z, then t and w of each correction."""

    def __init__(
        self, start: HandEye, T_base_tool: Float[np.ndarray, "N 4 4"], measurements: tuple[BoardMeasurement, ...]
    ) -> None:
        self.start = start
        self.num_samples = len(measurements)
        self.num_parameters = 12 + 6 * self.num_samples
        self._G = tool_motion(T_base_tool, start.setting)
        counts = [len(measurement.points_board) for measurement in measurements]
        self._sample: Int64[np.ndarray, " M"] = np.repeat(np.arange(self.num_samples), counts)
        self._points = np.concatenate([measurement.points_board for measurement in measurements])
        self._straight = np.concatenate([measurement.straight_xy for measurement in measurements])
        self._focal = np.stack([measurement.focal_px for measurement in measurements])[self._sample]

    def hand_eye(self, parameters: Float[np.ndarray, " P"]) -> HandEye:
        """X and Z at these parameters."""
        moved = []
        for T, change in ((self.start.X, parameters[:6]), (self.start.Z, parameters[6:12])):
            moved.append(make_transform(rotvec_to_rotation(change[3:]) @ T[:3, :3], T[:3, 3] + change[:3]))
        return HandEye(self.start.setting, moved[0], moved[1])

    def residuals_px(self, parameters: Float[np.ndarray, " P"]) -> Float[np.ndarray, " residuals"]:
        """Predicted minus measured, u and v of each corner in turn."""
        p = self._state(parameters).p
        return ((p[:, :2] / p[:, 2:] - self._straight) * self._focal).reshape(-1)

    def rms_px(self, parameters: Float[np.ndarray, " P"]) -> Float[np.ndarray, " N"]:
        """Root mean square distance between predicted and measured corners of each sample."""
        square = (self.residuals_px(parameters).reshape(-1, 2) ** 2).sum(axis=1)
        return np.sqrt(np.bincount(self._sample, square) / np.bincount(self._sample))

    def jacobian_px(self, parameters: Float[np.ndarray, " P"]) -> Float[np.ndarray, "residuals P"]:
        """Derivatives of the residuals, exact."""
        state = self._state(parameters)
        to_camera, sample = state.R_X.T, self._sample
        dp_dr = np.broadcast_to(to_camera, (len(sample), 3, 3))
        dp_dq = (to_camera @ state.dr_dq)[sample]
        camera_at, board_at = self.start.X[:3, 3] + parameters[:3], self.start.Z[:3, 3] + parameters[6:9]
        J_X, J_Z = rotation_left_jacobian(parameters[3:6]), rotation_left_jacobian(parameters[9:12])
        dr_dt, dr_dw = self._correction_jacobians(parameters, state)
        blocks = np.concatenate(
            [
                -dp_dr,
                dp_dr @ cross_matrix(state.r - camera_at) @ J_X,
                dp_dq,
                -dp_dq @ cross_matrix(state.q - board_at) @ J_Z,
                dp_dr @ dr_dt,
                dp_dr @ dr_dw,
            ],
            axis=-1,
        )
        return self._scatter(self._pixels_per_metre(state.p) @ blocks)

    def _state(self, parameters: np.ndarray) -> _State:
        solution = self.hand_eye(parameters)
        q = self._points @ solution.Z[:3, :3].T + solution.Z[:3, 3]
        v, R_C = self._corrections(parameters)
        R_G, moved, sample = self._G[:, :3, :3], self._G[:, :3, 3], self._sample
        match self.start.setting:
            case Setting.EYE_IN_HAND:
                dr_dq = np.swapaxes(R_C, -1, -2) @ R_G
                offset = (np.swapaxes(R_C, -1, -2) @ (moved - v)[..., None])[..., 0]
            case Setting.EYE_TO_HAND:
                dr_dq = R_G @ R_C
                offset = (R_G @ v[..., None])[..., 0] + moved
            case _:
                assert_never(self.start.setting)
        r = (dr_dq[sample] @ q[..., None])[..., 0] + offset[sample]
        return _State(solution.X[:3, :3], q, r, (r - solution.X[:3, 3]) @ solution.X[:3, :3], dr_dq)

    def _corrections(self, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        corrections = parameters[12:].reshape(-1, 6)
        return corrections[:, :3], rotvec_to_rotation(corrections[:, 3:])

    def _correction_jacobians(self, parameters: np.ndarray, state: _State) -> tuple[np.ndarray, np.ndarray]:
        """(M, 3, 3) each: d r by the translation and by the rotation of the corner's own correction."""
        _, R_C = self._corrections(parameters)
        J_C, sample = rotation_left_jacobian(parameters[12:].reshape(-1, 6)[:, 3:]), self._sample
        match self.start.setting:
            case Setting.EYE_IN_HAND:  # r = R_C^T (G q - v), and R_C^T [R_C r]x = [r]x R_C^T
                R_inverse = np.swapaxes(R_C, -1, -2)[sample]
                return -R_inverse, cross_matrix(state.r) @ R_inverse @ J_C[sample]
            case Setting.EYE_TO_HAND:  # r = R_G (R_C q + v) + t_G
                R_G, turned = self._G[sample, :3, :3], (R_C[sample] @ state.q[..., None])[..., 0]
                return R_G, -R_G @ cross_matrix(turned) @ J_C[sample]
            case _:
                assert_never(self.start.setting)

    def _pixels_per_metre(self, p: np.ndarray) -> np.ndarray:
        """(M, 2, 3) d residual / d camera point."""
        rows = np.zeros((len(p), 2, 3))
        rows[:, 0, 0] = rows[:, 1, 1] = 1.0
        rows[:, :, 2] = -p[:, :2] / p[:, 2:]
        return rows * (self._focal / p[:, 2:])[..., None]

    def _scatter(self, blocks: np.ndarray) -> np.ndarray:
        """(M, 2, 18) to (2M, P): the last six columns belong to the corner's own sample."""
        J = np.zeros((len(blocks), 2, self.num_parameters))
        J[:, :, :12] = blocks[:, :, :12]
        columns = 12 + 6 * self._sample[:, None] + np.arange(6)
        np.put_along_axis(J, columns[:, None, :].repeat(2, axis=1), blocks[:, :, 12:], axis=2)
        return J.reshape(-1, self.num_parameters)

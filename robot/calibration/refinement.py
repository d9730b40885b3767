"""Refine a hand-eye calibration by maximum likelihood (bundle adjustment over camera, board and robot pose errors).

The corners' pixels are what is measured; the arm's poses are measured too, less well than they are printed. So each
pose has a correction (translation and rotation at the tool) that is held to zero by the arm's accuracy, and the
unknowns are X, Z and all corrections: bundle adjustment with the arm as prior. How accurate pixels and arm are is
estimated along with it (variance components by expectation-maximisation, Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from scipy.optimize import least_squares
from typing_extensions import assert_never

from handeye.robot.calibration.hand_eye import HandEye, PosePairs, Setting, tool_motion
from handeye.robot.camera.intrinsics import Intrinsics
from handeye.robot.errors import CalibrationError
from handeye.robot.transforms import (
    apply_transform,
    cross_matrix,
    make_transform,
    rotation_left_jacobian,
    rotvec_to_rotation,
)

NUM_SHARED = 12  # translation and rotation of X, then of Z
_EM_STEPS = 12
_GAUSS_NEWTON_STEPS = 3
_MOST_EVALUATIONS = 100
"""Of the residuals in one fit: samples that fit need a dozen, those that fit nothing would go on for minutes."""


@dataclass(frozen=True, slots=True)
class NoiseLevels:
    """Standard deviations: of a corner's coordinate (px), and of each coordinate of the arm's position (m) and of its
    orientation (rad).
    """

    corner_px: float = 0.2
    tool_m: float = 0.5e-3
    tool_rad: float = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """The most likely solution; covariance of X's translation (m, first three) and of its rotation (rad).

    corner_rms_px is what is left at each sample's corners after the corrections (translation m, rotation rad).
    """

    hand_eye: HandEye
    covariance: Float[np.ndarray, "6 6"]
    noise: NoiseLevels
    tool_corrections: Float[np.ndarray, "N 6"]
    corner_rms_px: Float[np.ndarray, " N"]


def refine_hand_eye(
    start: HandEye,
    T_base_tool: Float[np.ndarray, "N 4 4"],
    measurements: tuple[BoardMeasurement, ...],
    noise: NoiseLevels | None = None,
) -> Refinement:
    """The most likely X and Z near `start`. With `noise` given it is taken as known, otherwise it is estimated."""
    problem = Reprojection(start, T_base_tool, measurements)
    levels = NoiseLevels() if noise is None else noise
    parameters = np.zeros(problem.num_parameters)
    for _ in range(_EM_STEPS if noise is None else 0):
        parameters = _most_likely(problem, parameters, levels)
        levels = _updated_noise(problem, parameters, levels)
    parameters = _most_likely(problem, parameters, levels)
    return Refinement(
        problem.hand_eye(parameters),
        _covariance(problem, parameters, levels)[:6, :6],
        levels,
        parameters[NUM_SHARED:].reshape(-1, 6),
        problem.rms_px(parameters),
    )


def leave_one_out(
    refinement: Refinement, pairs: PosePairs, measurements: tuple[BoardMeasurement, ...]
) -> Float[np.ndarray, "N 4 4"]:
    """T_camera_board of each sample as predicted by all others; compared with what was seen, that is an unbiased error.

    The noise levels stay those of the whole; every solution starts from the whole's, so near that plain Gauss-Newton
    steps do.
    """
    predictions = []
    for index in range(len(pairs)):
        kept = pairs.without(index)
        others = tuple(m for number, m in enumerate(measurements) if number != index)
        problem = Reprojection(refinement.hand_eye, kept.T_base_tool, others)
        corrections = np.delete(refinement.tool_corrections, index, axis=0).ravel()
        parameters = _step_to_optimum(problem, np.concatenate([np.zeros(NUM_SHARED), corrections]), refinement.noise)
        predictions.append(problem.hand_eye(parameters).predict(pairs.T_base_tool[index]))
    return np.stack(predictions)


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
    """A pose without an image, as the corners that a camera would have seen of a board of 15 x 15 cm.

    A pose's error is then weighed as images make it: larger along the viewing direction than across it.
    """
    places = np.linspace(-0.075, 0.075, 4)
    x, y = np.meshgrid(places, places)
    points_board = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    p_camera = apply_transform(T_camera_board, points_board)
    if (p_camera[:, 2] <= 0.0).any():
        raise CalibrationError(
            "the board is not in front of the camera (z forward): is T_camera_board inverted, or its frame not the "
            "optical one?"
        )
    return BoardMeasurement(points_board, p_camera[:, :2] / p_camera[:, 2:], np.array([600.0, 600.0]))


class Reprojection:
    """Residuals (px) of all corners. Parameters: t and w of X, t and w of Z, then t and w of each correction.

    Camera point p = R_X^T (r - t_X). Eye in hand: r = C^-1 G q; eye to hand: r = G C q; with q = Z p_board, and C the
    correction of the tool's pose, T_base_tool <- T_base_tool C. Rotations are exp(w) R_start, translations t_start + t.
    """

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


def _step_to_optimum(problem: Reprojection, parameters: np.ndarray, noise: NoiseLevels) -> np.ndarray:
    for _ in range(_GAUSS_NEWTON_STEPS):
        J = _weighted_jacobian(problem, parameters, noise)
        priors = parameters[NUM_SHARED:] / _prior_sigmas(problem, noise)
        residuals = np.concatenate([problem.residuals_px(parameters) / noise.corner_px, priors])
        scale = np.linalg.norm(J, axis=0)
        J = J / scale
        parameters = parameters - np.linalg.solve(J.T @ J, J.T @ residuals) / scale
    return parameters


def _most_likely(problem: Reprojection, start: np.ndarray, noise: NoiseLevels) -> np.ndarray:
    def residuals(parameters: np.ndarray) -> np.ndarray:
        return np.concatenate([problem.residuals_px(parameters) / noise.corner_px, parameters[NUM_SHARED:] / prior])

    prior = _prior_sigmas(problem, noise)
    # Steps in units of each parameter's own accuracy; metres and radians then mix without harm.
    jacobian: Any = partial(_weighted_jacobian, problem, noise=noise)
    found: Any = least_squares(
        residuals, start, jacobian, method="lm", x_scale="jac", xtol=1e-12, ftol=1e-12, max_nfev=_MOST_EVALUATIONS
    )
    return found.x


def _weighted_jacobian(problem: Reprojection, parameters: np.ndarray, noise: NoiseLevels) -> np.ndarray:
    corners = problem.jacobian_px(parameters) / noise.corner_px
    priors = np.zeros((len(parameters) - NUM_SHARED, len(parameters)))
    priors[:, NUM_SHARED:] = np.diag(1.0 / _prior_sigmas(problem, noise))
    return np.concatenate([corners, priors])


def _prior_sigmas(problem: Reprojection, noise: NoiseLevels) -> np.ndarray:
    return np.tile(np.repeat([noise.tool_m, noise.tool_rad], 3), problem.num_samples)


def _covariance(problem: Reprojection, parameters: np.ndarray, noise: NoiseLevels) -> np.ndarray:
    J = _weighted_jacobian(problem, parameters, noise)
    return np.linalg.pinv(J.T @ J, hermitian=True)


def _updated_noise(problem: Reprojection, parameters: np.ndarray, noise: NoiseLevels) -> NoiseLevels:
    """One EM step: the expected squares of what each level scales, given all measurements.

    X and Z count as unknown with a flat prior, so the degrees of freedom that they take are accounted for.
    """
    covariance = _covariance(problem, parameters, noise)
    expected_square = (parameters**2 + np.diag(covariance))[NUM_SHARED:].reshape(-1, 2, 3)
    J = problem.jacobian_px(parameters)
    corner_square = problem.residuals_px(parameters) ** 2 + ((J @ covariance) * J).sum(axis=1)
    tool_m, tool_rad = np.sqrt(expected_square.mean(axis=(0, 2)))
    return replace(
        noise,
        corner_px=max(float(np.sqrt(corner_square.mean())), 1e-4),
        tool_m=max(float(tool_m), 1e-7),
        tool_rad=max(float(tool_rad), 1e-7),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """The geometry at one set of parameters; M corners in all, each with its sample's matrices."""

    R_X: np.ndarray  # (3, 3)
    q: np.ndarray  # (M, 3) corners seen from the frame in which Z places the board
    r: np.ndarray  # (M, 3) the same in the frame in which X places the camera
    p: np.ndarray  # (M, 3) the same in the camera
    dr_dq: np.ndarray  # (N, 3, 3)

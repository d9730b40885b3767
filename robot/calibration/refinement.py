"""Hand-eye calibration by maximum likelihood: camera, board and the error of every robot pose, all at once.

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
from jaxtyping import Float
from scipy.optimize import least_squares

from robot.calibration.hand_eye import HandEye, PosePairs
from robot.calibration.reprojection import BoardMeasurement, Reprojection

NUM_SHARED = 12  # translation and rotation of X, then of Z
_EM_STEPS = 12
_GAUSS_NEWTON_STEPS = 3


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
    """T_camera_board of each sample as predicted by all others; its difference to what was seen is an honest error.

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
    found: Any = least_squares(residuals, start, jacobian, method="lm", x_scale="jac", xtol=1e-12, ftol=1e-12)
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

"""Evaluate policies on Push-T (Chi et al. 2023): a disc pushes a T-shaped block onto a target (package gym-pusht).

Lengths are px of the 512 x 512 table, x right and y down. Replayed in the environment, the recorded demonstrations give
the recorded states; they end with 0.86 to 0.97 of the target covered, which is what policies learn from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from statistics import fmean, stdev
from typing import Any, Protocol, SupportsFloat, runtime_checkable

import numpy as np
from jaxtyping import Float

from handeye.robot.policies.chunk_execution import BlendingConfig, build_blending
from handeye.robot.viewer.report import wilson_interval
from handeye.vision.errors import MissingPackageError, UserError

FPS = 10
MAX_STEPS = 300
"""As published; the environment ends an episode earlier once the block covers SUCCESS_COVERAGE of the target."""
SUCCESS_COVERAGE = 0.95
BLOCK_KEYPOINTS = np.array(
    [
        (9.270, 90.041),
        (-60.983, -1.187),
        (60.913, -1.393),
        (-0.271, 25.544),
        (-14.065, 122.816),
        (39.003, 32.857),
        (-39.966, 32.730),
        (-16.824, 62.863),
        (23.541, -1.700),
    ]
)
"""The nine keypoints in the block's frame, px: the median over the recorded frames, which agree."""
STATE_NAMES = ("agent_x", "agent_y")
ENVIRONMENT_NAMES = tuple(f"keypoint_{index}" for index in range(BLOCK_KEYPOINTS.size))


@runtime_checkable
class PushtEnvironment(Protocol):
    """The part of a Gymnasium environment that is used; an observation is agent x, y, block x, y and angle (rad)."""

    def reset(self, *, seed: int) -> tuple[Any, dict[str, Any]]:
        """Start the episode of a seed: first observation and info."""
        ...

    def step(self, action: np.ndarray, /) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Send the agent to a position: observation, reward, terminated, truncated, info."""
        ...


@runtime_checkable
class PushtPolicy(Protocol):
    """A policy that takes the agent's position and the block's keypoints."""

    def predict(
        self,
        state: Float[np.ndarray, " S"],
        images: Mapping[str, np.ndarray],
        environment: Float[np.ndarray, " E"] | None = None,
    ) -> Float[np.ndarray, "T A"]:
        """Targets of the agent for this step and the next ones."""
        ...


@dataclass(frozen=True, slots=True)
class PushtResult:
    """One episode; coverages are fractions of the target, max_coverage the largest after any step."""

    seed: int
    max_coverage: float
    last_coverage: float
    steps: int
    success: bool


def open_pusht() -> Any:
    """The environment of gym-pusht with states as observations. Raises MissingPackageError."""
    try:
        gymnasium = import_module("gymnasium")
        import_module("gym_pusht")  # registers its environment
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "Push-T needs the package gym-pusht, best in a separate environment: pip install 'handeye[pusht,cpu]'"
        ) from error
    return gymnasium.make("gym_pusht/PushT-v0", obs_type="state", max_episode_steps=MAX_STEPS)


def block_points(block_x: float, block_y: float, angle_rad: float) -> Float[np.ndarray, "9 2"]:
    """The nine keypoints of a block at this pose, px of the table."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return BLOCK_KEYPOINTS @ np.array([[cos, sin], [-sin, cos]]) + (block_x, block_y)


def require_pusht_policy(state: Sequence[str], environment: Sequence[str], cameras: Sequence[str], fps: int) -> None:
    """Raise UserError for a policy that was trained on something else."""
    given = (tuple(state), tuple(environment), tuple(cameras), fps)
    if given != (STATE_NAMES, ENVIRONMENT_NAMES, (), FPS):
        raise UserError(
            f"the policy takes {', '.join((*state, *environment, *cameras))} at {fps} Hz; Push-T provides "
            f"{', '.join(STATE_NAMES)} and keypoint_0 to {ENVIRONMENT_NAMES[-1]} at {FPS} Hz, as in "
            "configs/policy/pusht_state.yaml"
        )


def run_pusht_episode(
    policy: PushtPolicy, world: PushtEnvironment, blending: BlendingConfig, *, seed: int
) -> PushtResult:
    """Run one episode in lock-step. Row 0 of a chunk is the action for the observation it was predicted from."""
    blend = build_blending(blending, 1 / FPS)
    observation, _ = world.reset(seed=seed)
    coverages: list[float] = []
    is_over = False
    while not is_over:
        agent, points = np.asarray(observation[:2], float), block_points(*observation[2:5]).reshape(-1)
        now_s = len(coverages) / FPS
        blend.observe(lambda agent=agent, points=points: policy.predict(agent, {}, points), now_s)
        blend.refresh(now_s + 1 / FPS)
        action = blend.action_at(now_s + 1 / FPS)
        if action is None:
            raise UserError(f"{blending.kind} blending had no action for the first step: its chunks arrive too late")
        observation, _, is_done, is_late, info = world.step(np.clip(action, 0.0, 512.0))
        coverages.append(float(info["coverage"]))
        is_over = is_done or is_late
    blend.close()
    best = max(coverages)
    return PushtResult(seed, best, coverages[-1], len(coverages), best > SUCCESS_COVERAGE)


def summarise_pusht(results: Sequence[PushtResult]) -> dict[str, Any]:
    """The report as JSON holds it; mean_score is the published measure, coverage / 0.95 and at most 1."""
    best = [result.max_coverage for result in results]
    successes = sum(result.success for result in results)
    low, high = wilson_interval(successes, len(results))
    return {
        "episodes": len(results),
        "mean_max_coverage": fmean(best),
        "standard_error": stdev(best) / len(best) ** 0.5 if len(best) > 1 else None,
        "mean_score": fmean(min(value / SUCCESS_COVERAGE, 1.0) for value in best),
        "successes": successes,
        "success_rate": successes / len(results),
        "wilson_low": low,
        "wilson_high": high,
        "results": [asdict(result) for result in results],
    }

"""Push-T: its points are the recorded ones, its loop asks and acts in time, and gym-pusht moves as was recorded."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handeye.robot import pusht
from handeye.robot.datasets.zarr_store import ZarrStore
from handeye.robot.policies.chunk_execution import BlendingConfig, EnsembledConfig, SynchronousConfig
from handeye.robot.pusht import (
    ENVIRONMENT_NAMES,
    FPS,
    STATE_NAMES,
    PushtResult,
    block_points,
    open_pusht,
    require_pusht_policy,
    run_pusht_episode,
    summarise_pusht,
)
from handeye.tools import evaluate_pusht
from handeye.tools.evaluate_pusht import Arguments
from handeye.vision.errors import MissingPackageError, UserError
from tests.robot.datasets.test_replay_buffer import FIRST_EPISODES, PUSHT

CHUNK = 6


def worst_point_errors(root: Path, every: int) -> np.ndarray:
    """Of every so many frames: how far (px) the worst of the nine points is from the recorded one."""
    states, keypoints = (ZarrStore(root).read(f"data/{name}")[::every] for name in ("state", "keypoint"))
    found = np.stack([block_points(*state[2:]) for state in states.astype(float)])
    return np.abs(found - keypoints).max(axis=(1, 2))


def test_the_blocks_points_are_those_that_were_recorded(sample: Callable[[str], Path]) -> None:
    worst = worst_point_errors(sample(FIRST_EPISODES), every=1)
    assert len(worst) == 964
    assert np.median(worst) < 1e-3
    assert worst.max() < 0.1


@pytest.mark.slow
def test_the_blocks_points_are_the_recorded_ones_in_all_demonstrations(shared: Callable[[str], Path]) -> None:
    """But for a frame in a hundred: the simulation had gone on between the recorded pose and its points."""
    worst = worst_point_errors(shared(PUSHT), every=10)
    assert np.median(worst) < 1e-3
    assert np.quantile(worst, 0.98) < 0.15
    assert worst.max() < 2.5


class GlidingBlock:
    """The block goes where the agent was sent; it covers as much of its mark as its x says, in hundreds of px."""

    def __init__(self, steps: int = 12) -> None:
        self.steps, self.sent, self.closed = steps, [], False
        self._place = np.zeros(2)

    def _seen(self) -> np.ndarray:
        return np.array([*self._place, *self._place, 0.5])

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self._place, self.sent = np.array([float(seed), 0.0]), []
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._place = np.array(action)
        self.sent.append(self._place.tolist())
        coverage = self._place[0] / 100
        return self._seen(), coverage, coverage > 0.95, len(self.sent) == self.steps, {"coverage": coverage}

    def close(self) -> None:
        self.closed = True


class Marching:
    """Wants the agent one px further at every step; y counts the rows of the chunk."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def predict(
        self, state: np.ndarray, images: Mapping[str, np.ndarray], environment: np.ndarray | None = None
    ) -> np.ndarray:
        assert not images
        assert environment is not None
        np.testing.assert_allclose(environment.reshape(9, 2), block_points(state[0], state[1], 0.5))
        self.asked.append(float(state[0]))
        return np.stack([state[0] + 1 + np.arange(CHUNK), np.arange(CHUNK)], axis=1)


@pytest.mark.parametrize(
    ("blending", "asked", "rows"),
    [
        (SynchronousConfig(rows=4), [10, 14, 18], [0, 1, 2, 3] * 3),
        (SynchronousConfig(rows=1), list(range(10, 22)), [0] * 12),
        (EnsembledConfig(decay=0.0), list(range(10, 22)), None),
    ],
)
def test_row_0_is_the_action_of_the_step_it_was_asked_for(
    blending: BlendingConfig, asked: list[int], rows: list[int] | None
) -> None:
    world, policy = GlidingBlock(), Marching()
    result = run_pusht_episode(policy, world, blending, seed=10)
    assert policy.asked == pytest.approx(asked)
    assert [x for x, _ in world.sent] == pytest.approx(list(range(11, 23)))
    if rows is not None:
        assert [y for _, y in world.sent] == pytest.approx(rows)
    assert (result.seed, result.steps, result.success) == (10, 12, False)
    assert (result.max_coverage, result.last_coverage) == pytest.approx((0.22, 0.22))


def test_an_episode_ends_when_the_mark_is_covered() -> None:
    result = run_pusht_episode(Marching(), GlidingBlock(), SynchronousConfig(rows=4), seed=90)
    assert (result.steps, result.success) == (6, True)
    assert result.max_coverage == pytest.approx(0.96)


def test_the_report_counts_and_averages() -> None:
    results = [PushtResult(0, 0.97, 0.96, 80, True), PushtResult(1, 0.475, 0.1, 300, False)]
    report = summarise_pusht(results)
    assert report["mean_max_coverage"] == pytest.approx(0.7225)
    assert report["standard_error"] == pytest.approx(0.2475)
    assert report["mean_score"] == pytest.approx(0.75)
    assert (report["successes"], report["success_rate"]) == (1, 0.5)
    assert report["wilson_low"] < 0.5 < report["wilson_high"]
    assert [entry["seed"] for entry in report["results"]] == [0, 1]


def test_a_policy_of_something_else_is_refused() -> None:
    require_pusht_policy(STATE_NAMES, ENVIRONMENT_NAMES, (), FPS)
    for wrong in [
        (("q1", "q2"), ENVIRONMENT_NAMES, (), FPS),
        (STATE_NAMES, (), (), FPS),
        (STATE_NAMES, ENVIRONMENT_NAMES, ("top",), FPS),
        (STATE_NAMES, ENVIRONMENT_NAMES, (), 20),
    ]:
        with pytest.raises(UserError, match=r"Push-T provides agent_x, agent_y and keypoint_0 to keypoint_17 at 10 Hz"):
            require_pusht_policy(*wrong)


def test_without_gym_pusht_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'handeye\[pusht,cpu\]'"):
        open_pusht()


class LoadedPolicy(Marching):
    chunk_size = CHUNK

    def __init__(self) -> None:
        super().__init__()
        self.signature = self
        self.state_names, self.environment_names, self.cameras, self.fps = STATE_NAMES, ENVIRONMENT_NAMES, (), FPS


def test_the_verb_reports_every_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = GlidingBlock()
    monkeypatch.setattr(evaluate_pusht, "open_pusht", lambda: world)
    monkeypatch.setattr(evaluate_pusht.OnnxPolicy, "load", lambda *words, **options: LoadedPolicy())
    file = tmp_path / "report.json"
    assert evaluate_pusht.run(Arguments(Path("act.onnx"), episodes=2, seed=86, rows=4, json=file)) == 0
    report = json.loads(file.read_text())
    assert [(entry["seed"], entry["steps"], entry["success"]) for entry in report["results"]] == [
        (86, 10, True),
        (87, 9, True),
    ]
    assert report["blending"] == {"kind": "synchronous", "rows": 4}
    assert world.closed
    for wrong in (
        Arguments(Path("act.onnx"), episodes=0),
        Arguments(Path("act.onnx"), seed=-1),
        Arguments(Path("act.onnx"), rows=CHUNK + 1),
        Arguments(Path("act.onnx"), blending="ensembled", decay=-1.0),
    ):
        with pytest.raises(UserError, match="expected"):
            evaluate_pusht.run(wrong)


@pytest.mark.slow
def test_gym_pusht_moves_as_the_demonstrations_were_recorded(sample: Callable[[str], Path]) -> None:
    """Recorded actions, from the recorded first state on, give the recorded states and cover most of the mark."""
    pytest.importorskip("gym_pusht")
    root, world = sample(FIRST_EPISODES), pusht.open_pusht()
    states, actions = (ZarrStore(root).read(f"data/{name}").astype(float) for name in ("state", "action"))
    ends = ZarrStore(root).read("meta/episode_ends").tolist()
    for first, end in zip([0, *ends[:4]], ends[:5], strict=True):
        world.reset(seed=0)
        coverage = 0.0
        place_as_recorded(world.unwrapped, states[first])
        for frame in range(first, end):
            seen, _, _, _, remarks = world.step(actions[frame])
            coverage = remarks["coverage"]
            if frame + 1 < end:
                np.testing.assert_allclose(seen[:4], states[frame + 1, :4], atol=0.01)
        assert coverage > 0.85


def place_as_recorded(world: Any, state: np.ndarray) -> None:
    """The environment's own way of setting a state lets the block's place depend on the order of assignments."""
    world.agent.position = state[:2].tolist()
    world.block.angle = state[4]
    world.block.position = state[2:4].tolist()
    for body in (world.agent, world.block):
        world.space.reindex_shapes_for_body(body)

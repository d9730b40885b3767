"""A network in the loop: it picks by every blending, and is rejected where it was trained for something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.interfaces import Outcome, Policy, PolicyStatus
from handeye.robot.kinematics.forward import forward_kinematics
from handeye.robot.learning.export import export_policy
from handeye.robot.policies.chunk_execution import (
    AsynchronousConfig,
    BlendingConfig,
    EnsembledConfig,
    SynchronousConfig,
)
from handeye.robot.policies.learned_pick import (
    LearnedPick,
    LearnedPickConfig,
    ask_network,
    load_pick_network,
    require_fit,
)
from handeye.robot.policies.onnx_policy import OUTPUT_NAME, OnnxPolicy, PolicyManifest, PolicySignature, StateStatistics
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES
from handeye.robot.timing import StageTimer
from handeye.robot.types import ENVIRONMENT_KEY, STATE_KEY
from handeye.vision.errors import ModelFileError
from tests.robot.learning.expert_network import ExpertNetwork
from tests.robot.learning.small_policy import untrained_pick_policy
from tests.robot.policies.paper_world import CELL, DT_S, EDGE_M, PaperWorld
from tests.robot.policies.test_scripted_policy import TASK, is_in_bin

ON_TABLE = np.array([0.6, 0.1, EDGE_M / 2])
BLENDINGS = [
    SynchronousConfig(),
    EnsembledConfig(),
    AsynchronousConfig(simulated_latency_s=0.03),  # a thread's real latency has no place in a world without real time
]


def pick(world: PaperWorld, blending: BlendingConfig | None = None, timeout_s: float = 25.0) -> PolicyStatus:
    config = LearnedPickConfig(blending=blending or SynchronousConfig(), timeout_s=timeout_s)
    policy = LearnedPick(CELL, config, ExpertNetwork(CELL, TASK), StageTimer())
    policy.reset(TASK)
    return world.run(policy, 60.0)


@pytest.mark.parametrize("blending", BLENDINGS, ids=lambda config: config.kind)
def test_each_blending_brings_the_cube_into_the_bin(blending: BlendingConfig) -> None:
    world = PaperWorld(ON_TABLE)
    status = pick(world, blending)
    assert (status.outcome, status.reason, status.attempts) == (Outcome.SUCCEEDED, None, 1)
    assert is_in_bin(world)


def test_a_failed_grasp_is_tried_again_and_a_moved_cube_followed() -> None:
    def move(world: PaperWorld) -> None:
        if world.tick == round(0.6 / DT_S):
            world.p_cube = np.array([0.5, -0.1, EDGE_M / 2])

    world = PaperWorld(ON_TABLE, grip_fails=1, each_tick=move)
    status = pick(world)
    assert status.outcome is Outcome.SUCCEEDED
    assert status.attempts >= 2
    assert is_in_bin(world)


def test_an_arm_that_was_held_goes_on() -> None:
    def hold(world: PaperWorld) -> None:
        if world.tick == round(0.6 / DT_S):
            world.holds_until_s = 0.9

    world = PaperWorld(ON_TABLE, each_tick=hold)
    assert pick(world).outcome is Outcome.SUCCEEDED
    assert np.abs(np.diff(world.sent[round(0.85 / DT_S) : round(0.9 / DT_S)], axis=0)).max() < 1e-3, "it was not held"


def test_without_a_cube_its_time_runs_out() -> None:
    status = pick(PaperWorld(ON_TABLE, is_seen=lambda world: False), timeout_s=1.0)
    assert (status.outcome, status.reason, status.stage) == (Outcome.FAILED, "timeout", "look")


def test_a_policy_whose_time_runs_out_asks_for_standstill() -> None:
    policy = LearnedPick(CELL, LearnedPickConfig(timeout_s=0.8), ExpertNetwork(CELL, TASK), StageTimer())
    policy.reset(TASK)
    world = PaperWorld(ON_TABLE)
    for _ in range(round(2.0 / DT_S)):
        world.step(policy)
    assert policy.status.is_over
    over = round(0.8 / DT_S)
    assert np.abs(np.diff(world.sent[over - 1 : over + 1], axis=0)).max() > 0.1 * DT_S, "it was at rest anyway"
    np.testing.assert_array_equal(world.asked[-1], world.asked[over + 3])
    np.testing.assert_allclose(world.sent[-1], world.asked[-1], atol=1e-9)


class TiltingNetwork(ExpertNetwork):
    """Turns the hand over and into the table, a little more with each row."""

    def predict(
        self, state: np.ndarray, images: Mapping[str, np.ndarray], environment: np.ndarray | None = None
    ) -> np.ndarray:
        rows = np.tile(np.append(state[:6], 0.085), (self.chunk_size, 1))
        rows[:, 1] += 0.01 * np.arange(1, self.chunk_size + 1)
        rows[:, 3] += 0.004 * np.arange(1, self.chunk_size + 1)
        return rows


def test_the_hand_keeps_pointing_down_and_off_the_table() -> None:
    policy = LearnedPick(CELL, LearnedPickConfig(timeout_s=9.0), TiltingNetwork(CELL, TASK), StageTimer())
    policy.reset(TASK)
    world = PaperWorld(ON_TABLE)
    world.run(policy, 6.0)
    poses = np.array([forward_kinematics(qpos) @ CELL.T_tool_tcp for qpos in world.asked])
    np.testing.assert_allclose(poses[:, 2, 2], -1.0, atol=1e-4)
    assert poses[0, 2, 3] - poses[-1, 2, 3] > 0.3, "it never came down"
    assert poses[:, 2, 3].min() > 0.019


def test_the_network_is_asked_at_its_own_rate_and_timed() -> None:
    network, timer = ExpertNetwork(CELL, TASK), StageTimer()
    policy = LearnedPick(CELL, LearnedPickConfig(), network, timer)
    policy.reset(TASK)
    world = PaperWorld(ON_TABLE)
    for _ in range(round(1.0 / DT_S)):
        world.step(policy)
    assert network.calls == network.fps
    assert len(timer.durations_ms()["policy"]) == network.calls


def test_before_a_task_it_says_so() -> None:
    policy = LearnedPick(CELL, LearnedPickConfig(), ExpertNetwork(CELL, TASK), StageTimer())
    assert isinstance(policy, Policy)
    with pytest.raises(RuntimeError, match="call reset first"):
        policy.act(PaperWorld(ON_TABLE).observe())


# Networks that do not fit -------------------------------------------------------------------------------------------


class FakeSession:
    """An engine whose output is `answer` everywhere."""

    engine = "fake"
    num_threads = 1

    def __init__(self, signature: PolicySignature, answer: float) -> None:
        self.inputs = {key: (1, *shape) for key, shape in signature.input_shapes().items()}
        self.outputs = {OUTPUT_NAME: (1, 16, len(signature.action_names))}
        self._answer = answer

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {OUTPUT_NAME: np.full(self.outputs[OUTPUT_NAME], self._answer, np.float32)}


def network(answer: float = 0.0, mean: Sequence[float] = CELL.home_qpos, **signature: Any) -> OnnxPolicy:
    names = {"state_names": STATE_NAMES, "action_names": ACTION_NAMES, "fps": 25}
    whole = PolicySignature.model_validate(names | signature)
    count = len(whole.state_names)
    statistics = StateStatistics(mean=(*mean, *[0.05] * count)[:count], std=(0.3,) * count)
    manifest = PolicyManifest(
        name="it", signature=whole, chunk_size=16, state_statistics=statistics, graph_sha256="of a test"
    )
    return OnnxPolicy(FakeSession(whole, answer), manifest)


@pytest.mark.parametrize(
    "signature", [{}, {"state_names": STATE_NAMES[:7]}, {"cameras": ("scene", "wrist"), "image_hw": (32, 48)}]
)
def test_a_network_for_picking_in_this_cell_is_taken(signature: dict[str, Any]) -> None:
    require_fit(network(**signature), WorkCellConfig())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_names": (*STATE_NAMES, "force")}, "its state has force; picking has qpos_1"),
        ({"action_names": ACTION_NAMES[:6]}, "its action is .*; picking has .* gripper_target_m"),
        ({"environment_names": ("goal_x",)}, "its environment has goal_x; picking has qpos_1"),
        ({"cameras": ("wrist", "front")}, "looks through observation.images.front; picking has .*wrist, .*scene"),
        ({"fps": 30}, "has 30 rows a second; .*125 Hz must be a multiple"),
        ({"answer": np.nan}, "not finite: its weights cannot be used"),
        (
            {"mean": (*CELL.home_qpos[:1], 3.2, *CELL.home_qpos[2:])},
            "statistics of another data set: qpos_2 is -1.81 at this cell's home",
        ),
    ],
)
def test_a_policy_trained_elsewhere_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=f"it: .*{message}"):
        require_fit(network(**changes), WorkCellConfig())


class RecordingSession(FakeSession):
    """Keeps what it was given."""

    seen: Mapping[str, np.ndarray]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen = inputs
        return super().run(inputs)


def test_a_network_may_take_the_cube_as_its_environment() -> None:
    """As LeRobot's ACT, which cannot do without one, has to."""
    own = STATE_NAMES.index("cube_is_known")
    split = network(state_names=STATE_NAMES[:own], environment_names=STATE_NAMES[own:])
    require_fit(split, WorkCellConfig())
    session = RecordingSession(split.signature, 0.0)
    state = np.arange(len(STATE_NAMES), dtype=np.float32)
    ask_network(OnnxPolicy(session, split.manifest), state, {})
    np.testing.assert_array_equal(session.seen[STATE_KEY][0], state[:own])
    np.testing.assert_array_equal(session.seen[ENVIRONMENT_KEY][0], state[own:])
    with pytest.raises(ModelFileError, match="statistics of another data set: qpos_1"):
        require_fit(network(mean=(9.0,), state_names=STATE_NAMES[:own], environment_names=STATE_NAMES[own:]), CELL)


def test_an_exported_file_tells_what_its_policy_has_seen(tmp_path: Path) -> None:
    export_policy(untrained_pick_policy(), tmp_path / "policy.onnx")
    loaded = load_pick_network(tmp_path / "policy.onnx", WorkCellConfig(), LearnedPickConfig())
    assert loaded.manifest.state_statistics is not None
    np.testing.assert_allclose(loaded.manifest.state_statistics.mean[:6], CELL.home_qpos, rtol=1e-6)
    assert loaded.session.num_threads == 1

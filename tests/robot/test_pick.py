"""Whole episodes in the simulator: the skill copes with what goes wrong, and repeats exactly from its seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.control.episode import EpisodeResult
from handeye.robot.control.loop import TickSink
from handeye.robot.control.recorder import read_recording
from handeye.robot.interfaces import Outcome
from handeye.robot.pick import (
    SHIPPED_DETECTOR,
    SHIPPED_POLICY,
    Output,
    PickConfig,
    PickStation,
    load_detector,
    open_station,
    run_episodes,
)
from handeye.robot.simulator.cell import SimulatorConfig
from handeye.robot.simulator.faults import CubeMoved, Fault, FramesDropped, FrictionLowered, GripperStuck
from handeye.robot.simulator.renderers import RendererKind
from handeye.robot.simulator.sensor_noise import DepthNoiseConfig
from tests.robot.control.fake_devices import BlindDetector, KeptTicks
from tests.robot.oracle_detector import OracleDetector

SEED = 1000


def pick(faults: Sequence[Fault] = (), sinks: Sequence[TickSink] = (), seed: int = SEED) -> EpisodeResult:
    detector = OracleDetector()
    with PickStation(PickConfig(), detector) as station:
        detector.cell = station.cell
        return station.run(seed, faults=faults, sinks=sinks)


@pytest.mark.slow
def test_a_gripper_that_sticks_during_the_first_grasp_is_tried_again() -> None:
    kept = KeptTicks()
    result = pick([GripperStuck(at_s=1.0, until_s=2.2)], [kept])
    assert (result.success, result.attempts, result.reason) == (True, 2, None)
    assert result.gate_violations == {}
    stages = list(dict.fromkeys(tick.status.stage for tick in kept.ticks))
    assert stages == ["look", "approach", "relook", "grasp", "lift", "carry", "place", "verify", "done"]


@pytest.mark.slow
def test_a_cube_that_is_pushed_during_the_approach_is_followed() -> None:
    result = pick([CubeMoved(at_s=0.6, by_xy_m=(-0.06, 0.08))])
    assert (result.success, result.attempts) == (True, 1)
    assert result.gate_violations == {}


@pytest.mark.slow
def test_a_cube_that_is_pushed_away_from_under_the_fingers_is_grasped_at_the_next_try() -> None:
    result = pick([CubeMoved(at_s=1.25, by_xy_m=(-0.07, 0.05))])
    assert result.success
    assert result.attempts == 2


@pytest.mark.slow
def test_slippery_pads_lose_the_cube_and_it_is_picked_up_again() -> None:
    kept = KeptTicks()
    result = pick([FrictionLowered(at_s=2.3, factor=0.01, until_s=3.5)], [kept])
    assert result.success
    assert result.attempts >= 2


@pytest.mark.slow
def test_a_camera_that_loses_frames_holds_the_arm_and_costs_nothing_else() -> None:
    result = pick([FramesDropped(at_s=0.45, until_s=1.0)])
    assert result.success
    assert set(result.gate_violations) == {"stale_observation"}


@pytest.mark.slow
def test_without_a_detection_the_task_fails_with_its_reason() -> None:
    with PickStation(PickConfig(), BlindDetector()) as station:
        result = station.run(SEED)
    assert (result.success, result.outcome, result.reason) == (False, Outcome.FAILED, "not_found")
    assert result.check_reason == "never_held"


@pytest.mark.slow
def test_an_episode_that_takes_too_long_is_ended() -> None:
    detector = OracleDetector()
    with PickStation(PickConfig(timeout_s=1.0), detector) as station:
        detector.cell = station.cell
        result = station.run(SEED)
    assert (result.success, result.reason) == (False, "episode_timeout")
    assert result.cycle_s == pytest.approx(1.0, abs=0.009)


@pytest.mark.slow
def test_an_episode_repeats_from_its_seed_whatever_came_before(tmp_path: Path) -> None:
    detector = OracleDetector()
    with PickStation(PickConfig(), detector) as station:
        detector.cell = station.cell
        for name, seed in (("first", SEED), ("between", SEED + 1), ("again", SEED)):
            station.run(seed, output=Output(tmp_path / name, video=False))
    first, again = (read_recording(tmp_path / name / f"episode_{SEED}" / "ticks.jsonl") for name in ("first", "again"))
    np.testing.assert_array_equal(first.qpos_measured, again.qpos_measured)
    np.testing.assert_array_equal(first.qpos_command, again.qpos_command)


@pytest.mark.slow
def test_the_shipped_detector_picks_with_both_renderers_and_without_depth_noise() -> None:
    perfect = DepthNoiseConfig(enabled=False)
    for simulator in (
        SimulatorConfig(),
        SimulatorConfig(renderer=RendererKind.RAYS),
        SimulatorConfig(depth_noise=perfect),
    ):
        config = PickConfig(simulator=simulator)
        with PickStation(config, load_detector(config, SHIPPED_DETECTOR)) as station:
            result = station.run(SEED)
        assert (result.success, result.gate_violations) == (True, {})


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers() -> None:
    config = PickConfig()

    def figures(workers: int) -> list[EpisodeResult]:
        results = run_episodes(config, [SEED, SEED + 1], SHIPPED_DETECTOR, output=None, workers=workers)
        return [replace(result, stage_ms={}) for result in results]

    assert figures(2) == figures(1)


# The shipped policy --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learned() -> Iterator[PickStation]:
    """A cell in which the trained policy that comes with the package sees through the shipped detector."""
    with open_station(PickConfig(), SHIPPED_DETECTOR, SHIPPED_POLICY) as station:
        yield station


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [[], [CubeMoved(at_s=0.6, by_xy_m=(-0.06, 0.08))], [GripperStuck(at_s=1.0, until_s=2.2)]],
    ids=["nothing", "a moved cube", "a gripper that sticks"],
)
def test_the_shipped_policy_copes_with(faults: list[Fault], learned: PickStation) -> None:
    result = learned.run(SEED, faults=faults)
    assert (result.success, result.reason, result.gate_violations) == (True, None, {})


@pytest.mark.slow
def test_slippery_pads_lose_the_cube_and_the_shipped_policy_picks_it_up_again(learned: PickStation) -> None:
    result = learned.run(SEED, faults=[FrictionLowered(at_s=1.9, factor=0.01, until_s=3.0)])
    assert result.success
    assert result.attempts >= 2


@pytest.mark.slow
def test_an_episode_of_the_shipped_policy_repeats_from_its_seed(learned: PickStation) -> None:
    first, _, again = (replace(learned.run(seed), stage_ms={}) for seed in (SEED, SEED + 1, SEED))
    assert first == again

"""Identity on the simulated tabletop: no cube changes hands while the arm passes over all of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.robot.perception.tabletop_scene import build_scenario, run_scene


def test_a_scenario_hides_the_target_moves_the_others_and_lets_none_touch():
    scenarios = build_scenario(np.random.default_rng(0))
    centres = np.array([[solid.centre for solid in scenario.cubes] for scenario in scenarios])
    assert np.ptp(centres[:, 0], axis=0).max() == 0.0
    assert (np.linalg.norm(centres[-1, [1, 2, 4]] - centres[0, [1, 2, 4]], axis=1) > 0.015).all()
    distances = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1) + np.eye(6)
    assert distances.min() > 0.06


def test_one_scene_keeps_every_identity():
    outcome = run_scene(0)
    assert outcome.num_hidden > 10
    assert (outcome.num_switches, outcome.is_target_kept) == (0, True)


@pytest.mark.long
@pytest.mark.parametrize("start", [0, 25, 50, 75])
def test_over_100_occlusion_scenes_the_target_never_changes_hands(start: int):
    outcomes = [run_scene(seed) for seed in range(start, start + 25)]
    print(f"seeds from {start}: {sum(o.num_switches for o in outcomes)} switches of any cube")
    assert min(outcome.num_hidden for outcome in outcomes) > 10
    assert sum(outcome.target_switches for outcome in outcomes) == 0
    assert all(outcome.is_target_kept for outcome in outcomes)

"""Random faults: as often as they are asked for, at their time, and the same for the same seed."""

from __future__ import annotations

from handeye.robot.simulator.faults import (
    MIXED,
    CubeNudged,
    Fault,
    FrictionLowered,
    GripperStuck,
    RandomFaultsConfig,
    sample_random_faults,
)

ALWAYS = RandomFaultsConfig(nudge_chance=1.0, slip_chance=1.0, stuck_chance=1.0)


def test_none_unless_asked_for_and_all_when_certain() -> None:
    for seed in range(20):
        assert sample_random_faults(RandomFaultsConfig(), seed) == []
        assert [type(fault) for fault in sample_random_faults(ALWAYS, seed)] == [
            CubeNudged,
            FrictionLowered,
            GripperStuck,
        ]


def test_they_repeat_from_the_seed_and_differ_between_seeds() -> None:
    assert sample_random_faults(ALWAYS, 7) == sample_random_faults(ALWAYS, 7)
    assert sample_random_faults(ALWAYS, 7) != sample_random_faults(ALWAYS, 8)


def test_chances_and_times_are_those_of_the_configuration() -> None:
    drawn: list[Fault] = [fault for seed in range(4000) for fault in sample_random_faults(MIXED, seed)]
    for kind, chance, (first_s, last_s) in (
        (CubeNudged, MIXED.nudge_chance, MIXED.nudge_at_s),
        (FrictionLowered, MIXED.slip_chance, MIXED.slip_at_s),
        (GripperStuck, MIXED.stuck_chance, MIXED.stuck_at_s),
    ):
        of_kind = [fault for fault in drawn if isinstance(fault, kind)]
        # Five standard deviations of a count of 4000 draws.
        assert abs(len(of_kind) / 4000 - chance) < 5 * (chance * (1 - chance) / 4000) ** 0.5
        assert all(first_s <= fault.at_s <= last_s for fault in of_kind)


def test_a_chance_that_changes_leaves_the_other_faults_alone() -> None:
    only_slips = RandomFaultsConfig(slip_chance=1.0)
    assert sample_random_faults(only_slips, 3) == [sample_random_faults(ALWAYS, 3)[1]]

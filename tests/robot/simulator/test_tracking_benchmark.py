"""The simulated tabletop: exact, repeatable, hard enough, and won by what the tracker knows of the arm."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handeye.robot.config import CameraConfig, WorkCellConfig

pytest.importorskip("mujoco", reason="the simulator is not installed: pip install 'handeye[sim]'")

from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.renderers import build_renderer
from handeye.robot.simulator.rendering import RendererKind
from handeye.robot.simulator.tracking_benchmark import ScenarioResult, Sight, run_scenarios, summarise, track_scenario
from handeye.robot.simulator.tracking_scenarios import Scenario, ScenarioKind, sample_scenario
from handeye.tools.command_line import run_command

CELL = WorkCellConfig()
SMALL = WorkCellConfig(camera=CameraConfig(width_px=320, height_px=240, cx_px=159.5, cy_px=119.5))
"""A quarter of the pixels: the middle of the outside camera's image, which is enough to see all cubes."""


def results_of(course: Scenario, sight: Sight) -> ScenarioResult:
    renderer = build_renderer(RendererKind.RAYS, course.camera, camera_name=course.camera_name)
    renderer.load(course.scene)
    return track_scenario(course, renderer, 0, sight=sight)


def tracks_of(result: ScenarioResult, cube: int) -> set[int]:
    """The tracks that were ever the nearest to a cube and near enough."""
    best = [
        (pair.track_ids[pair.ious[cube].argmax()], pair.ious[cube].max()) for pair in result.frames if pair.ious.size
    ]
    return {int(track) for track, likeness in best if likeness >= 0.5}


@pytest.mark.parametrize("kind", ScenarioKind)
def test_courses_repeat_from_their_seed_and_cubes_never_overlap(kind: ScenarioKind) -> None:
    course, again, other = (sample_scenario(kind, CELL, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a.qpos, b.qpos) for a, b in zip(course.moments, again.moments, strict=True))
    assert not np.array_equal(course.moments[0].feet_xy, other.moments[0].feet_xy)
    edges = np.array([item.edge_m for item in course.scene.objects])
    for moment in course.moments:
        apart = np.linalg.norm(moment.feet_xy[:, None] - moment.feet_xy, axis=-1) + np.eye(len(edges))
        assert (apart > 0.5 * (edges[:, None] + edges)).all()


def test_a_course_puts_cubes_and_arm_where_it_says() -> None:
    course = sample_scenario(ScenarioKind.PUSH, CELL, 0)
    start, end = course.moments[0], course.moments[-1]
    assert end.feet_xy[1, 0] - start.feet_xy[1, 0] == pytest.approx(0.12, abs=0.001)
    course.pose(end)
    place = object_pose(course.scene, course.scene.objects[1])[:3, 3]
    np.testing.assert_allclose(place, [*end.feet_xy[1], 0.5 * course.scene.objects[1].edge_m], atol=1e-9)
    np.testing.assert_allclose(course.scene.data.qpos[:6], end.qpos)


def test_a_cube_behind_the_arm_keeps_its_identity_and_is_not_lost_because_the_arm_is_known() -> None:
    """The hand stands for 1.6 s between a fixed camera and a cube; what is not told so gives the cube up."""
    course = sample_scenario(ScenarioKind.ARM, SMALL, 0)
    course = replace(course, moments=course.moments[8:36])
    informed, uninformed = results_of(course, Sight.ARM), results_of(course, Sight.NONE)
    assert informed.hidden == uninformed.hidden
    assert informed.hidden > 12
    assert informed.false_lost == 0
    assert uninformed.false_lost > 5
    assert [len(tracks_of(informed, cube)) for cube in range(6)] == [1] * 6


@pytest.mark.slow
def test_the_command_reports_every_course_and_repeats(tmp_path: Path) -> None:
    pytest.importorskip("motmetrics", reason="judging tracks needs pip install 'handeye[tracking]'")
    reports = []
    for name in ("a.json", "b.json"):
        report = str(tmp_path / name)
        words = ["benchmark-tracking", "--scenes", "1", "--course", "crossing", "--renderer", "rays", "--json", report]
        assert run_command(words) == 0
        reports.append(json.loads(Path(report).read_text(encoding="utf-8")))
    assert reports[0] == reports[1]
    assert reports[0]["courses"]["crossing"]["frames"] == 39
    assert reports[0]["id_switches"] == 0
    assert reports[0]["error_mm_median"] < 3.0
    assert reports[0]["HOTA"] > 85.0


@pytest.mark.slow
def test_small_scenes_are_tracked_without_a_switch() -> None:
    pytest.importorskip("motmetrics", reason="judging tracks needs pip install 'handeye[tracking]'")
    kinds = (ScenarioKind.PUSH, ScenarioKind.ARM)
    runs = run_scenarios(kinds, range(1, 2), sight=Sight.ARM, renderer=RendererKind.RAYS, cell=SMALL)
    summary = summarise(list(runs))
    assert summary.frames == 49 + 47
    assert summary.hidden > 20
    assert summary.scores.id_switches == 0
    assert summary.false_lost == 0
    assert summary.scores.IDF1 > 90.0
    assert summary.error_mm_median < 3.0


def test_wrong_numbers_are_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["benchmark-tracking", "--scenes", "0"]) == 2
    assert "--scenes" in capsys.readouterr().err

"""What lies on the table: colours keep their names, profiles share nothing, things stand apart and come to rest."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from handeye.robot.config import WorkCellConfig
from handeye.robot.simulator.appearance import TEXTURE_PX, sample_appearance, sample_table_texture
from handeye.robot.simulator.layout import Area, Layout, object_pose, settle
from handeye.robot.simulator.objects import CUBE_CLASSES, Profile, SceneObject, sample_cube, sample_distractor
from handeye.robot.simulator.scene import build_scene

HUE_DEGREES = {"red_cube": 0.0, "green_cube": 125.0, "blue_cube": 220.0, "yellow_cube": 52.0}


def hue_degrees(item: SceneObject) -> float:
    return 360.0 * colorsys.rgb_to_hsv(*item.rgba[:3])[0]


def shapes(item: SceneObject) -> tuple[str, ...]:
    return tuple(part.shape for part in item.parts)


@pytest.mark.parametrize("class_id", range(4))
def test_cubes_keep_size_mass_and_the_name_of_their_colour(cell: WorkCellConfig, class_id: int) -> None:
    rng = np.random.default_rng(class_id)
    for number in range(100):
        cube = sample_cube(rng, class_id, f"object_{number}", cell)
        assert cell.cube_edge_m[0] <= cube.edge_m <= cell.cube_edge_m[1]
        assert 0.05 <= cube.mass_kg <= 0.12
        away = (hue_degrees(cube) - HUE_DEGREES[CUBE_CLASSES[class_id]] + 180) % 360 - 180
        assert abs(away) < 25


def test_no_distractor_is_a_cube_in_one_of_the_four_colours() -> None:
    rng = np.random.default_rng(0)
    for profile in Profile:
        for number in range(400):
            item = sample_distractor(rng, profile, f"object_{number}")
            hue, saturation, value = colorsys.rgb_to_hsv(*item.rgba[:3])
            for part in (part for part in item.parts if part.shape == "box"):
                is_cube = max(part.size) < 1.5 * min(part.size)
                gaps = [abs((360 * hue - named + 180) % 360 - 180) for named in HUE_DEGREES.values()]
                assert not (is_cube and saturation > 0.3 and value > 0.42 and min(gaps) < 20)
            assert item.class_id is None


def test_profiles_share_no_kind_of_clutter() -> None:
    kinds = {}
    for profile in Profile:
        rng = np.random.default_rng(1)
        kinds[profile] = {shapes(sample_distractor(rng, profile, "object_0")) for _ in range(300)}
    assert not kinds[Profile.TRAIN] & kinds[Profile.HELD_OUT]
    assert len(kinds[Profile.TRAIN]) >= 4
    assert len(kinds[Profile.HELD_OUT]) >= 5


@pytest.mark.parametrize("profile", list(Profile))
def test_textures_are_images_and_follow_the_seed(profile: Profile) -> None:
    for seed in range(12):
        texture = sample_table_texture(np.random.default_rng(seed), profile)
        assert texture.shape == (TEXTURE_PX, TEXTURE_PX, 3)
        assert texture.dtype == np.uint8
        np.testing.assert_array_equal(texture, sample_table_texture(np.random.default_rng(seed), profile))


@pytest.mark.parametrize("profile", list(Profile))
def test_standing_objects_do_not_overlap_and_stay_where_they_are(cell: WorkCellConfig, profile: Profile) -> None:
    rng = np.random.default_rng(7)
    layout = Layout(cell, rng, profile)
    area = Area((0.4, -0.3), (0.8, 0.3))
    layout.add_cubes([0, 1, 2, 3], area)
    layout.add_distractors(8, area)
    places = [np.array(item.pos[:2]) for item in layout.objects]
    for i, item in enumerate(layout.objects):
        for j in range(i):
            assert np.hypot(*(places[i] - places[j])) > item.radius_m + layout.objects[j].radius_m
    scene = build_scene(cell, layout.objects, sample_appearance(rng, profile))
    settle(scene, 0.4)
    for item, place in zip(scene.objects, places, strict=True):
        pose = object_pose(scene, item)
        if item.class_id is not None:
            np.testing.assert_allclose(pose[:2, 3], place, atol=0.002)
            assert pose[2, 3] == pytest.approx(item.edge_m / 2, abs=0.001)


def test_dropped_cubes_end_in_the_bin(cell: WorkCellConfig) -> None:
    rng = np.random.default_rng(3)
    layout = Layout(cell, rng, Profile.TRAIN)
    layout.fill_bin([0, 1, 2])
    scene = build_scene(cell, layout.objects, sample_appearance(rng, Profile.TRAIN))
    settle(scene, 0.8)
    for item in scene.objects:
        p_base = object_pose(scene, item)[:3, 3]
        assert np.all(np.abs(p_base[:2] - cell.bin.centre_xy_m) < np.array(cell.bin.inside_m) / 2)
        assert p_base[2] < cell.bin.wall_height_m


def test_a_full_table_takes_no_more(cell: WorkCellConfig) -> None:
    layout = Layout(cell, np.random.default_rng(0), Profile.TRAIN)
    layout.add_cubes([0] * 30, Area((0.5, 0.0), (0.6, 0.1)))
    assert 1 <= len(layout.objects) <= 4

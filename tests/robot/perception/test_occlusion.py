"""Visibility from the depth image."""

from __future__ import annotations

import numpy as np

from handeye.robot.perception.occlusion import VisibilityConfig, build_visibility
from tests.robot.perception.ray_scene import SIZE_HW, Box, add_stereo_noise, cast, cube, frame_of, look_at

T_BASE_CAMERA = look_at(np.array([0.55, 0.0, 0.6]), np.array([0.6, 0.0, 0.0]))
CONFIG = VisibilityConfig()
PLACE = np.array([0.6, 0.0, 0.025])


def visibility(boxes: list[Box]):
    depth, _ = cast(boxes, T_BASE_CAMERA)
    return build_visibility(frame_of(add_stereo_noise(depth, np.random.default_rng(0))), T_BASE_CAMERA, CONFIG)


def test_a_free_place_and_an_object_in_its_place_are_visible():
    assert visibility([])(PLACE)
    assert visibility([cube(0.6, 0.0, 0.05)])(PLACE)


def test_behind_the_arm_nothing_is_visible_but_beside_it_is():
    is_visible = visibility([Box(np.array([0.6, 0.0, 0.3]), np.array([0.08, 0.08, 0.2]))])
    assert not is_visible(PLACE)
    assert is_visible(PLACE + [0.0, 0.2, 0.0])


def test_outside_of_the_image_at_its_border_and_behind_the_camera_nothing_is_visible():
    is_visible = visibility([])
    assert not is_visible(np.array([2.0, 0.0, 0.0]))
    assert not is_visible(np.array([0.55, 0.0, 1.0]))
    edge = np.array([0.6, 0.0, 0.0])
    while is_visible(edge):
        edge = edge + [0.0, 0.002, 0.0]
    # The centre still projects inside by the object's radius.
    assert is_visible(edge - [0.0, 0.002, 0.0])
    assert 0.3 < edge[1] < 0.4


def test_a_blind_sensor_sees_nothing():
    frame = frame_of(np.full(SIZE_HW, np.nan))
    assert not build_visibility(frame, T_BASE_CAMERA, CONFIG)(PLACE)

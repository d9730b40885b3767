"""Centres of cubes from exact and from noisy depth: accuracy, honesty of the covariance, fallbacks and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import chi2

from handeye.robot.errors import CameraError, RobotError, TransformError
from handeye.robot.perception.box_depth import DepthError, NoDepth
from handeye.robot.perception.camera_view import ProjectionConfig, View
from handeye.robot.perception.localize import locate_box, locate_objects
from handeye.robot.transforms import exp_se3, make_transform
from handeye.robot.types import Frame, ObjectPosition
from tests.robot.perception.ray_scene import (
    NAMES,
    SIZE_HW,
    Box,
    add_stereo_noise,
    box_of,
    cast,
    count_pixels,
    cube,
    detections_of,
    frame_of,
    look_at,
)

CONFIG = ProjectionConfig()
HAND_EYE_SIGMAS = np.array(
    [CONFIG.uncertainty.hand_eye_translation_m] * 3 + [CONFIG.uncertainty.hand_eye_rotation_rad] * 3
)


@dataclass(frozen=True)
class Case:
    """A cube, where it was thought to be, and how much of it was visible."""

    cube: Box
    position: ObjectPosition
    seen: float

    @property
    def error_m(self) -> np.ndarray:
        return self.position.p_base - self.cube.centre

    @property
    def normalised_error_squared(self) -> float:
        return float(self.error_m @ np.linalg.solve(self.position.covariance_base, self.error_m))

    @property
    def yaw_error_rad(self) -> float:
        assert self.position.yaw_rad is not None
        return (self.position.yaw_rad - self.cube.yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4


def random_cubes(rng: np.random.Generator, num: int, gap_m: float) -> list[Box]:
    """Cubes within 0.13 m of (0.6, 0), no nearer than gap_m to each other at any yaw."""
    cubes: list[Box] = []
    while len(cubes) < num:
        x, y = rng.uniform(-0.13, 0.13, 2)
        new = cube(0.6 + x, y, rng.uniform(0.04, 0.055), rng.uniform(-np.pi / 4, np.pi / 4))
        reach = [0.5 * np.sqrt(2) * (new.size[0] + other.size[0]) + gap_m for other in cubes]
        if all(np.linalg.norm(new.centre - other.centre) > r for other, r in zip(cubes, reach, strict=True)):
            cubes.append(new)
    return cubes


def random_view(rng: np.random.Generator, max_tilt: float) -> np.ndarray:
    """T_base_camera 0.4 to 0.7 m from the table's middle, tilted by at most max_tilt."""
    target = np.array([0.6, 0.0, 0.02]) + [*rng.uniform(-0.05, 0.05, 2), 0.0]
    tilt, azimuth = rng.uniform(0, max_tilt), rng.uniform(0, 2 * np.pi)
    direction = np.array([np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth), np.cos(tilt)])
    return look_at(target + rng.uniform(0.4, 0.7) * direction, target, rng.uniform(0, 6))


def cases(
    seed: int, scenes: int, *, num: int = 4, gap_m: float = 0.01, max_tilt_deg: float = 35, noisy: bool = True
) -> Iterator[Case]:
    """All cubes that lie wholly inside of the image and are visible by more than a third."""
    rng = np.random.default_rng(seed)
    for _ in range(scenes):
        cubes, T_base_camera = random_cubes(rng, num, gap_m), random_view(rng, np.radians(max_tilt_deg))
        depth, hit = cast(cubes, T_base_camera)
        T_estimated = T_base_camera @ exp_se3(rng.normal(0, HAND_EYE_SIGMAS)) if noisy else T_base_camera
        frame = frame_of(add_stereo_noise(depth, rng) if noisy else depth)
        for index, solid in enumerate(cubes):
            box = box_of(hit, index)
            if box is None or box.min() < 3 or (box[2:] > [637, 477]).any():
                continue
            seen = float((hit == index).sum()) / count_pixels(solid, T_base_camera)
            if seen > 1 / 3:
                jittered = box + rng.normal(0, 1.5, 4) if noisy else box
                found = locate_objects(detections_of([jittered]), frame, T_estimated, CONFIG, table_height_m=0.0)
                yield from (Case(solid, position, seen) for position in found)


def test_exact_depth_gives_the_cube_to_a_fraction_of_a_pixel():
    found = list(cases(0, 8, noisy=False))
    assert len(found) > 20
    for case in found:
        assert np.linalg.norm(case.error_m) < 0.0006
        assert abs(case.yaw_error_rad) < np.radians(1.5)
        np.testing.assert_allclose(case.position.size_m, case.cube.size, atol=0.0015)


def test_noisy_depth_and_calibration_stay_within_the_stated_accuracy_and_covariance():
    found = [case for case in cases(1, 30) if case.seen > 0.999]
    assert len(found) > 80
    errors_mm = 1e3 * np.array([np.linalg.norm(case.error_m) for case in found])
    assert np.median(errors_mm) <= 3.0
    assert np.percentile(errors_mm, 95) <= 8.0
    yaw_deg = np.degrees([abs(case.yaw_error_rad) for case in found if case.position.yaw_rad is not None])
    assert len(yaw_deg) > 0.95 * len(found)
    assert np.median(yaw_deg) <= 3.0
    # Cubes of one scene share one calibration error, so the scenes are the independent witnesses. The covariance is
    # that of a real calibration and rounds the edges' error up: the mean may be below 3, it must not be above.
    normalised = np.array([case.normalised_error_squared for case in found])
    assert 1.2 < normalised.mean() < chi2.ppf(0.999, 3 * 30) / 30
    assert np.mean(normalised > chi2.ppf(0.99, 3)) < 0.04


@pytest.mark.slow
def test_crowded_and_occluded_cubes_are_placed_well_or_say_that_they_are_not():
    found = list(cases(2, 20, num=6, gap_m=-0.012, max_tilt_deg=55))
    hidden = [case for case in found if case.seen < 0.97]
    assert len(hidden) > 10
    assert np.median([np.linalg.norm(case.error_m) for case in hidden]) < 0.008
    normalised = np.array([case.normalised_error_squared for case in found])
    assert np.median(normalised) < chi2.ppf(0.5, 3) * 1.3
    assert np.mean(normalised > chi2.ppf(0.999, 3)) < 0.05


def place(box: Box, T_base_camera: np.ndarray, **changes) -> ObjectPosition | None:
    """What is said of one box alone on the table."""
    depth, hit = cast([box], T_base_camera)
    found = locate_objects(
        detections_of([box_of(hit, 0)]), frame_of(depth), T_base_camera, CONFIG, **({"table_height_m": 0.0} | changes)
    )
    return found[0] if found else None


ABOVE = look_at(np.array([0.5, 0.05, 0.6]), np.array([0.58, 0.0, 0.0]), roll=0.5)


def test_a_long_box_gives_length_width_height_and_the_direction_of_its_length():
    for yaw in (-1.2, -0.3, 0.5, 1.4):
        position = place(Box(np.array([0.58, 0.02, 0.015]), np.array([0.08, 0.04, 0.03]), yaw), ABOVE)
        np.testing.assert_allclose(position.size_m, [0.08, 0.04, 0.03], atol=0.0015)
        assert abs((position.yaw_rad - yaw + np.pi / 2) % np.pi - np.pi / 2) < np.radians(2)


def test_the_table_may_be_anywhere():
    raised = make_transform(np.eye(3), np.array([0.0, 0.0, 0.3]))
    depth, hit = cast([cube(0.58, 0.02, 0.05)], ABOVE)
    (position,) = locate_objects(
        detections_of([box_of(hit, 0)]), frame_of(depth), raised @ ABOVE, CONFIG, table_height_m=0.3
    )
    np.testing.assert_allclose(position.p_base, [0.58, 0.02, 0.325], atol=0.001)


def test_a_cube_in_the_air_is_placed_by_its_surface_with_a_larger_covariance():
    held, standing = cube(0.58, 0.0, 0.05, 0.3, bottom=0.2), cube(0.58, 0.0, 0.05, 0.3)
    in_air, on_table = place(held, ABOVE), place(standing, ABOVE)
    error = in_air.p_base - held.centre
    assert np.linalg.norm(error) < 0.015
    assert error @ np.linalg.solve(in_air.covariance_base, error) < chi2.ppf(0.99, 3)
    assert np.trace(in_air.covariance_base) > 10 * np.trace(on_table.covariance_base)
    assert in_air.yaw_rad is None
    assert in_air.size_m is None


def test_without_a_known_table_the_visible_surface_must_do():
    position = place(cube(0.58, 0.0, 0.05), ABOVE, table_height_m=None)
    error = position.p_base - [0.58, 0.0, 0.025]
    assert np.linalg.norm(error) < 0.02
    assert error @ np.linalg.solve(position.covariance_base, error) < chi2.ppf(0.99, 3)


def test_without_depth_the_ray_to_the_table_must_do():
    depth, hit = cast([cube(0.58, 0.02, 0.05)], ABOVE)
    blind = frame_of(np.full(SIZE_HW, np.nan))
    (position,) = locate_objects(detections_of([box_of(hit, 0)]), blind, ABOVE, CONFIG, table_height_m=0.0)
    error = position.p_base - [0.58, 0.02, 0.025]
    assert np.linalg.norm(error) < 0.012
    assert error @ np.linalg.solve(position.covariance_base, error) < chi2.ppf(0.99, 3)
    assert position.yaw_rad is None
    view = View(blind, ABOVE, None, CONFIG)
    assert locate_box(box_of(hit, 0), view) is NoDepth.NO_READING


def test_a_truncated_cube_has_no_yaw_and_a_larger_covariance():
    for y in np.linspace(0.30, 0.42, 13):
        solid = cube(0.58, y, 0.05, 0.3)
        T_base_camera = look_at(np.array([0.58, 0.0, 0.55]), np.array([0.6, 0.0, 0.0]))
        depth, hit = cast([solid], T_base_camera)
        box = box_of(hit, 0)
        is_truncated = box is not None and (box.min() <= 0 or box[2] >= 640 or box[3] >= 480)
        if not is_truncated or np.prod(box[2:] - box[:2]) < 400:
            continue
        (position,) = locate_objects(detections_of([box]), frame_of(depth), T_base_camera, CONFIG, table_height_m=0.0)
        error = position.p_base - solid.centre
        assert position.yaw_rad is None
        assert position.size_m is None
        assert np.sqrt(np.trace(position.covariance_base)) > 0.008
        assert error @ np.linalg.solve(position.covariance_base, error) < chi2.ppf(0.999, 3)


def test_positions_carry_class_score_and_stamp_in_the_detectors_order():
    cubes = [cube(0.55, -0.08, 0.05), cube(0.62, 0.06, 0.04)]
    depth, hit = cast(cubes, ABOVE)
    boxes = [box_of(hit, 1), np.array([5.0, 5, 40, 40]), box_of(hit, 0)]
    frame = frame_of(depth, stamp_s=12.5)
    positions = locate_objects(detections_of(boxes, [2, 1, 3]), frame, ABOVE, CONFIG, table_height_m=0.0)
    assert [position.class_name for position in positions] == [NAMES[2], NAMES[3]]  # nothing stands in the second box
    assert {position.stamp_s for position in positions} == {12.5}
    assert positions[0].score == pytest.approx(0.9)
    np.testing.assert_allclose([p.p_base[:2] for p in positions], [c.centre[:2] for c in cubes[::-1]], atol=0.001)


def test_no_detections_give_no_positions():
    assert locate_objects(detections_of([]), good_frame(), ABOVE, CONFIG, table_height_m=0.0) == ()


@pytest.mark.long
def test_each_of_5000_boxes_is_placed_as_if_it_were_alone():
    rng = np.random.default_rng(11)
    depth, hit = cast(random_cubes(rng, 4, 0.01), ABOVE)
    frame = frame_of(add_stereo_noise(depth, rng))
    around = [box_of(hit, index) for index in range(4)]
    boxes = [around[index % 4] + rng.normal(0, 2.0, 4) for index in range(5000)]
    positions = locate_objects(detections_of(boxes), frame, ABOVE, CONFIG, table_height_m=0.0)
    assert len(positions) == 5000
    for index in rng.choice(5000, 25, replace=False):
        (alone,) = locate_objects(detections_of([boxes[index]]), frame, ABOVE, CONFIG, table_height_m=0.0)
        np.testing.assert_array_equal(positions[index].p_base, alone.p_base)
        np.testing.assert_array_equal(positions[index].covariance_base, alone.covariance_base)


def good_frame() -> Frame:
    return frame_of(cast([cube(0.58, 0.02, 0.05)], ABOVE)[0])


BELOW = look_at(np.array([0.5, 0.0, -0.6]), np.array([0.58, 0.0, 0.0]))


def mirrored(T: np.ndarray) -> np.ndarray:
    return T @ np.diag([-1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("frame_changes", "T_base_camera", "error"),
    [
        ({"depth_m": np.full(SIZE_HW, 700.0, np.float32)}, ABOVE, DepthError),
        ({"K": np.diag([2.0, 2.0, 1.0]) @ good_frame().K}, ABOVE, CameraError),
        ({"K": np.zeros((3, 3))}, ABOVE, CameraError),
        ({}, mirrored(ABOVE), TransformError),
        ({}, 1.01 * ABOVE, TransformError),
        ({}, np.full((4, 4), np.nan), TransformError),
        ({}, BELOW, RobotError),
    ],
)
def test_nonsense_is_refused_with_its_reason(frame_changes: dict, T_base_camera: np.ndarray, error: type[RobotError]):
    frame = replace(good_frame(), **frame_changes)
    with pytest.raises(error):
        locate_objects(detections_of([]), frame, T_base_camera, CONFIG, table_height_m=0.0)


def test_whatever_the_boxes_and_holes_the_answer_is_finite_and_its_covariance_positive():
    rng = np.random.default_rng(7)
    depth, _ = cast(random_cubes(rng, 4, 0.0), ABOVE)
    noisy = add_stereo_noise(depth, rng)
    num_found = 0
    for table_height_m in (None, 0.0, 0.02, -0.3):
        for value in (np.nan, 0.0, 50.0, 1e-3):
            broken = np.where(rng.random(SIZE_HW) < rng.random(), value, noisy)
            middles = rng.uniform([-50, -50], [690, 530], (8, 2))
            halves = 0.5 * rng.uniform(0, 1, (8, 2)) ** 3 * rng.choice([3, 40, 300, 800], (8, 1))
            boxes = list(np.concatenate([middles - halves, middles + halves], axis=1))
            found = locate_objects(detections_of(boxes), frame_of(broken), ABOVE, CONFIG, table_height_m=table_height_m)
            num_found += len(found)
            for position in found:
                assert np.isfinite(position.p_base).all()
                np.testing.assert_allclose(position.covariance_base, position.covariance_base.T, rtol=1e-12)
                assert np.linalg.eigvalsh(position.covariance_base).min() > 0.0
    assert num_found > 10


def touching_errors(seed: int, num_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Distance errors (m) and normalised squared errors of two cubes of one height, side by side without a gap."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(num_pairs):
        yaw, edge = rng.uniform(-np.pi / 4, np.pi / 4), rng.uniform(0.042, 0.054)
        step = edge * np.array([np.cos(yaw), np.sin(yaw)])
        pair = [cube(0.6, 0.0, edge, yaw), cube(0.6 + step[0], step[1], edge, yaw)]
        T_base_camera = random_view(rng, np.radians(35))
        depth, hit = cast(pair, T_base_camera)
        frame = frame_of(add_stereo_noise(depth, rng))
        for index, solid in enumerate(pair):
            box = box_of(hit, index)
            assert box is not None
            boxes = detections_of([box + rng.normal(0, 1.5, 4)])
            (position,) = locate_objects(boxes, frame, T_base_camera, CONFIG, table_height_m=0.0)
            found.append(Case(solid, position, 1.0))
    return (
        np.array([np.linalg.norm(case.error_m) for case in found]),
        np.array([case.normalised_error_squared for case in found]),
    )


def test_cubes_that_touch_are_separated_by_their_boxes_within_their_covariance():
    errors_m, normalised = touching_errors(3, 12)
    assert np.median(errors_m) < 0.006
    assert np.percentile(errors_m, 95) < 0.015
    assert np.mean(normalised > chi2.ppf(0.999, 3)) <= 0.05

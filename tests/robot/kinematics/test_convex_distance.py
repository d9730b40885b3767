"""Distances of convex solids: exact where they are known, and never more than MuJoCo finds."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from handeye.robot.kinematics.convex_distance import Placed, least_distances, reaches
from handeye.robot.transforms import quat_wxyz_to_rotation

UPRIGHT = np.eye(3)


def placed(middle: tuple[float, float, float], half_m: tuple[float, float, float], **round_m: float) -> Placed:
    disc_m, ball_m = np.array([round_m.get("disc_m", 0.0)]), np.array([round_m.get("ball_m", 0.0)])
    return Placed(np.array([middle]), UPRIGHT[None], np.array([half_m]), disc_m, ball_m)


def distance_m(a: Placed, b: Placed) -> float:
    return float(least_distances(a, b, np.full(1, np.inf))[0])


CUBE = (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("other", "expected_m"),
    [
        (placed((0.3, 0.0, 0.0), CUBE), 0.1),
        (placed((0.3, 0.05, -0.05), CUBE), 0.1),
        (placed((0.2, 0.0, 0.0), CUBE), 0.0),
        (placed((0.3, 0.3, 0.3), CUBE), 0.1 * np.sqrt(3)),
        (placed((0.0, 0.0, 0.5), (0.0, 0.0, 0.2), disc_m=0.05), 0.2),
        (placed((0.5, 0.0, 0.0), (0.0, 0.0, 0.2), disc_m=0.05), 0.35),
        (placed((0.5, 0.0, 0.0), (0.0, 0.0, 0.2), ball_m=0.05), 0.35),
        (placed((0.0, 0.0, 0.5), (0.0, 0.0, 0.2), ball_m=0.05), 0.15),
    ],
)
def test_known_distances_from_a_cube(other: Placed, expected_m: float) -> None:
    cube = placed((0.0, 0.0, 0.0), CUBE)
    assert distance_m(cube, other) == pytest.approx(expected_m, abs=1e-12)
    assert distance_m(other, cube) == pytest.approx(expected_m, abs=1e-12)


def test_two_cylinders_side_by_side_and_crossed() -> None:
    upright = placed((0.0, 0.0, 0.0), (0.0, 0.0, 0.3), disc_m=0.05)
    lying = upright._replace(R=np.array([[[0, 0, 1], [0, 1, 0], [-1, 0, 0]]], dtype=float))
    beside = np.array([[0.02, 0.25, 0.1]])
    assert distance_m(upright, upright._replace(middles=np.array([[0.15, 0.2, 0.1]]))) == pytest.approx(0.15)
    assert distance_m(upright, lying._replace(middles=beside)) == pytest.approx(0.15)


def test_one_solid_in_the_other_is_not_apart() -> None:
    inside = placed((0.01, 0.0, 0.0), (0.0, 0.0, 0.02), disc_m=0.01)
    assert distance_m(placed((0.0, 0.0, 0.0), CUBE), inside) < -0.05


def test_reach_is_the_farthest_point_along_a_direction() -> None:
    """Against the corners of a box and points on the rim of a cylinder."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(1, 50, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    box, cylinder = placed((0, 0, 0), (0.1, 0.2, 0.3)), placed((0, 0, 0), (0.0, 0.0, 0.3), disc_m=0.1)
    corners = (signs * box.half_m) @ directions[0].T
    np.testing.assert_allclose(reaches(directions, box)[0], corners.max(axis=0))
    angles = np.linspace(0, 2 * np.pi, 2000)
    rim = np.array([[0.1 * np.cos(angle), 0.1 * np.sin(angle), z] for angle in angles for z in (-0.3, 0.3)])
    np.testing.assert_allclose(reaches(directions, cylinder)[0], (rim @ directions[0].T).max(axis=0), atol=1e-6)


def mujoco_distance_m(kind: str, a: Placed, b: Placed) -> float:
    """Of the first pair, at most 1 m."""
    geoms = ""
    for shape, solid in zip(kind.split(), (a, b), strict=True):
        radius = solid.disc_m[0] + solid.ball_m[0]
        size = solid.half_m[0] if shape == "box" else [radius, solid.half_m[0, 2]]
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, solid.R[0].ravel().copy())
        texts = [" ".join(map(repr, map(float, values))) for values in (size, solid.middles[0], quat)]
        geoms += '<geom type="{}" size="{}" pos="{}" quat="{}"/>'.format(shape, *texts)
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{geoms}</worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return mujoco.mj_geomDistance(model, data, 0, 1, 1.0, np.empty(6))


def random_solid(rng: np.random.Generator, shape: str) -> Placed:
    quat = rng.normal(size=(1, 4))
    R = quat_wxyz_to_rotation(quat / np.linalg.norm(quat))
    half_m, radius = rng.uniform(0.005, 0.12, 3), rng.uniform(0.03, 0.09)
    kept = half_m if shape == "box" else np.array([0.0, 0.0, half_m[2]])
    disc_m, ball_m = radius * (shape == "cylinder"), radius * (shape == "capsule")
    return Placed(rng.uniform(-0.14, 0.14, (1, 3)), R, kept[None], np.array([disc_m]), np.array([ball_m]))


@pytest.mark.parametrize(
    "kind", ["box box", "cylinder box", "cylinder cylinder", "capsule cylinder", "capsule capsule", "capsule box"]
)
def test_a_bound_is_never_beyond_the_distance_and_seldom_short_of_it(kind: str) -> None:
    """Clear means clear by MuJoCo; of pairs that are 25 mm apart by MuJoCo all but a few are found 5 mm apart."""
    rng, missed, far, penetrating = np.random.default_rng(0), 0, 0, 0
    for _ in range(300):
        a, b = (random_solid(rng, shape) for shape in kind.split())
        bound_m, reference_m = distance_m(a, b), mujoco_distance_m(kind, a, b)
        assert bound_m <= max(reference_m, 0.0) + 1e-5
        far += reference_m > 0.025
        missed += reference_m > 0.025 and bound_m < 0.005
        penetrating += reference_m < 0.0
    assert min(far, penetrating) > 40
    assert missed <= 0.02 * far


@pytest.mark.parametrize("kind", ["box box", "capsule capsule"])
def test_boxes_and_capsules_that_do_not_touch_are_always_found_apart(kind: str) -> None:
    """The directions tried are complete for them: no pair that MuJoCo finds apart has a negative bound."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        a, b = (random_solid(rng, shape) for shape in kind.split())
        reference_m = mujoco_distance_m(kind, a, b)
        if abs(reference_m) > 1e-4:
            assert (distance_m(a, b) > 0.0) == (reference_m > 0.0)


def test_a_pair_that_is_far_enough_apart_is_not_looked_at_more_closely() -> None:
    rng = np.random.default_rng(2)
    a, b = random_solid(rng, "box"), random_solid(rng, "box")._replace(middles=np.array([[1.0, 0.3, 0.2]]))
    coarse_m, fine_m = float(least_distances(a, b, np.zeros(1))[0]), distance_m(a, b)
    assert 0.0 < coarse_m <= fine_m

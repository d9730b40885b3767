"""Forward kinematics: poses known by hand, rigid everywhere, batched like single, and MuJoCo agrees."""

from __future__ import annotations

import numpy as np
import pytest

from handeye.robot.kinematics.forward import UR10E, forward_kinematics, joint_transforms, link_frames
from handeye.robot.transforms import is_rotation
from tests.robot.kinematics.conftest import MujocoPose

RANDOM_QPOS = np.random.default_rng(0).uniform(-2 * np.pi, 2 * np.pi, (200, 6))


def test_stretched_at_zero_along_minus_x() -> None:
    T = forward_kinematics(np.zeros(6))
    a, d = UR10E.a_m, UR10E.d_m
    np.testing.assert_allclose(T[:3, 3], [a[1] + a[2], -(d[3] + d[5]), d[0] - d[4]], atol=1e-15)
    np.testing.assert_allclose(T[:3, :3], [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-15)


def test_pointing_up() -> None:
    T = forward_kinematics(np.array([0.0, -np.pi / 2, 0.0, -np.pi / 2, 0.0, 0.0]))
    a, d = UR10E.a_m, UR10E.d_m
    height = d[0] - a[1] - a[2] + d[4]
    np.testing.assert_allclose(T[:3, 3], [0.0, -(d[3] + d[5]), height], atol=1e-15)


def test_mujoco_agrees(mujoco_pose: MujocoPose) -> None:
    ours = forward_kinematics(RANDOM_QPOS)
    theirs = np.stack([mujoco_pose(qpos)[0] for qpos in RANDOM_QPOS])
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_frames_chain_the_joint_transforms() -> None:
    frames, steps = link_frames(RANDOM_QPOS), joint_transforms(RANDOM_QPOS)
    np.testing.assert_array_equal(frames[:, 0], np.broadcast_to(np.eye(4), (len(RANDOM_QPOS), 4, 4)))
    np.testing.assert_allclose(frames[:, :6] @ steps, frames[:, 1:], atol=1e-14)
    np.testing.assert_array_equal(frames[:, 6], forward_kinematics(RANDOM_QPOS))
    assert np.all(is_rotation(frames[..., :3, :3], tolerance=1e-13))


def test_a_joint_moves_only_the_frames_behind_it() -> None:
    before = link_frames(RANDOM_QPOS[0])
    for joint in range(6):
        qpos = RANDOM_QPOS[0].copy()
        qpos[joint] += 0.3
        after = link_frames(qpos)
        np.testing.assert_array_equal(after[: joint + 1], before[: joint + 1])
        assert np.abs(after[joint + 1] - before[joint + 1]).max() > 0.01


def test_whole_turns_change_nothing() -> None:
    turned = RANDOM_QPOS + 2 * np.pi * np.array([1, -1, 1, -1, 1, -1])
    np.testing.assert_allclose(forward_kinematics(turned), forward_kinematics(RANDOM_QPOS), atol=1e-13)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3)])
def test_leading_dimensions_are_batches(shape: tuple[int, ...]) -> None:
    qpos = np.broadcast_to(RANDOM_QPOS[0], (*shape, 6))
    expected = np.broadcast_to(forward_kinematics(RANDOM_QPOS[0]), (*shape, 4, 4))
    got = forward_kinematics(qpos)
    assert got.shape == expected.shape
    # Not to the bit: sines of a batch may come from vector instructions and those of one from others. Six products of
    # four terms up to 1.4, and sines to 4 units in the last place: 6 * (4 + 8) * 1.1e-16 * 1.4.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1.2e-14)

"""Training from layouts other than our own: ACT's HDF5 episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handeye.robot.learning.act_policy import ActPolicyConfig
from handeye.robot.learning.config import ImagesConfig, LeRobotDataConfig, TrainPolicyConfig
from handeye.robot.learning.data import open_source, read_frames, read_training_frames, signature_of
from tests.robot.datasets.test_act_files import JOINTS, LENGTH, draw, write_episode
from tests.robot.learning.small_policy import small_network

pytest.importorskip("h5py", reason="HDF5 needs pip install 'handeye[hdf5]'")


def test_training_reads_act_episodes_at_the_rate_that_is_said(tmp_path: Path) -> None:
    for number in range(3):
        write_episode(tmp_path / f"episode_{number}.hdf5", draw(number), "padded")
    source = open_source(LeRobotDataConfig(root=tmp_path, fps=30))
    signature = signature_of(source, ("top",), (16, 20), None)
    assert (signature.fps, len(signature.state_names), len(signature.action_names)) == (30, JOINTS, JOINTS)
    frames = read_frames(source, [0, 2], signature)
    expected = np.concatenate([draw(number)["action"] for number in (0, 2)]).astype(np.float32)
    np.testing.assert_array_equal(frames.actions, expected)
    assert frames.images[0].shape == (2 * LENGTH, 16, 20, 3)
    config = TrainPolicyConfig(
        policy=ActPolicyConfig(network=small_network()),
        data=LeRobotDataConfig(root=tmp_path),
        images=ImagesConfig(cameras=("wrist",), size_hw=(16, 20)),
    )
    data = read_training_frames(config)
    assert (data.signature.fps, data.learnt.num_episodes) == (50, 2)

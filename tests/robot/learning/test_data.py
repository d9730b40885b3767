"""Chunks by hand at the ends of episodes, the order of frames, and what data sets are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handeye.robot.learning.data import DemonstrationFrames, frames_of_step, read_frames, signature_of
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.errors import DatasetError
from tests.robot.learning.small_policy import MadeDemonstrations, MadeFeature


def numbered_frames(lengths: tuple[int, ...]) -> DemonstrationFrames:
    """Episodes whose action is the number of the frame."""
    count = sum(lengths)
    actions = np.arange(count, dtype=np.float32)[:, None]
    ends = np.repeat(np.cumsum(lengths), lengths)
    return DemonstrationFrames(actions.copy(), None, (), actions, ends)


def test_chunks_stop_at_the_end_of_their_episode() -> None:
    actions, is_pad = numbered_frames((3, 2)).chunks(np.array([0, 1, 2, 3, 4]), 3)
    assert actions[..., 0].tolist() == [[0, 1, 2], [1, 2, 2], [2, 2, 2], [3, 4, 4], [4, 4, 4]]
    assert is_pad.astype(int).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 1]]


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), chunk_size=st.integers(1, 12))
def test_every_action_that_is_data_is_of_the_same_episode(lengths: list[int], chunk_size: int) -> None:
    frames = numbered_frames(tuple(lengths))
    actions, is_pad = frames.chunks(np.arange(len(frames)), chunk_size)
    for frame, (chunk, pad) in enumerate(zip(actions[..., 0], is_pad, strict=True)):
        left = int(frames.ends[frame]) - frame
        assert (~pad).sum() == min(left, chunk_size)
        assert chunk[~pad].tolist() == list(range(frame, frame + min(left, chunk_size)))
        assert not pad[0]


@given(num_frames=st.integers(1, 50), batch_size=st.integers(1, 20), seed=st.integers(0, 3))
def test_an_epoch_sees_frames_at_most_once(num_frames: int, batch_size: int, seed: int) -> None:
    steps = max(num_frames // min(batch_size, num_frames), 1)
    for epoch in range(2):
        steps_of_epoch = range(epoch * steps, (epoch + 1) * steps)
        seen = np.concatenate([frames_of_step(num_frames, batch_size, seed, step) for step in steps_of_epoch])
        assert len(set(seen.tolist())) == len(seen) == steps * min(batch_size, num_frames)


def test_the_order_follows_from_seed_and_step() -> None:
    one, same = (frames_of_step(1000, 10, 1, 7) for _ in range(2))
    assert one.tolist() == same.tolist()
    assert one.tolist() != frames_of_step(1000, 10, 2, 7).tolist()
    assert one.tolist() != frames_of_step(1000, 10, 1, 107).tolist()


def test_frames_come_with_their_images_at_the_policys_size() -> None:
    source = MadeDemonstrations(cameras=("wrist", "scene"))
    signature = signature_of(source, ("scene",), (32, 48))
    frames = read_frames(source, [0, 2], signature)
    assert len(frames) == 9 + 7
    assert frames.num_episodes == 2
    assert frames.images[0].shape == (16, 32, 48, 3)
    batch = frames.batch(np.array([0, 15]), 4)
    assert batch.observations.state.tolist() == frames.state[[0, 15]].tolist()
    assert batch.observations.images[0][1].float().mean() == pytest.approx(float(frames.images[0][15].mean()))
    assert batch.is_pad.tolist() == [[False] * 4, [False, True, True, True]]
    assert sum(len(part.actions) for part in frames.all_batches(5, 4)) == 16


def test_the_signature_tells_what_is_recorded() -> None:
    signature = signature_of(MadeDemonstrations(cameras=("wrist",)), ("wrist",), (32, 48))
    assert signature.state_names == ("q1", "q2", "grip")
    assert signature.environment_names == ("environment_state_0", "environment_state_1")
    assert signature.fps == 10
    assert signature.input_shapes() == {
        STATE_KEY: (3,),
        ENVIRONMENT_KEY: (2,),
        IMAGE_PREFIX + "wrist": (32, 48, 3),
    }


def test_a_policy_may_be_told_less_than_was_recorded() -> None:
    source = MadeDemonstrations()
    everything = read_frames(source, [0, 2], signature_of(source, (), (32, 48)))
    signature = signature_of(source, (), (32, 48), ("grip", "q1"))
    assert signature.state_names == ("grip", "q1")
    np.testing.assert_array_equal(read_frames(source, [0, 2], signature).state, everything.state[:, [2, 0]])
    with pytest.raises(DatasetError, match=r"has no q3, q4; it has q1, q2, grip"):
        signature_of(source, (), (32, 48), ("q1", "q3", "q4"))


def drop_action(source: MadeDemonstrations) -> None:
    del source.features[ACTION_KEY]


def make_state_a_matrix(source: MadeDemonstrations) -> None:
    source.features[STATE_KEY] = MadeFeature((3, 2), None)


def widen_an_episode(source: MadeDemonstrations) -> None:
    source._episodes[1][ACTION_KEY] = np.zeros((12, 5), np.float32)


def lose_frames(source: MadeDemonstrations) -> None:
    source._episodes[1][ACTION_KEY] = source._episodes[1][ACTION_KEY][:4]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (drop_action, "have no action; they have observation.state"),
        (make_state_a_matrix, "expected one row of numbers"),
        (widen_an_episode, r"action has the shape \(12, 5\), expected \(12, 3\)"),
        (lose_frames, r"action has the shape \(4, 3\), expected \(12, 3\)"),
    ],
)
def test_odd_data_sets_are_refused(spoil: Callable[[MadeDemonstrations], None], told: str) -> None:
    source = MadeDemonstrations()
    spoil(source)
    with pytest.raises(DatasetError, match=told):
        read_frames(source, [0, 1, 2], signature_of(source, (), (32, 48)))


def test_a_missing_camera_is_named() -> None:
    with pytest.raises(DatasetError, match="no observation.images.wrist; they have .*observation.images.scene"):
        signature_of(MadeDemonstrations(cameras=("scene",)), ("wrist",), (32, 48))

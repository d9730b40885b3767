"""Images on their way to a policy: the same in the loop as in a demonstration of the same episode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from handeye.robot.config import NO_LATENCY, WorkCellConfig
from handeye.robot.demonstration_sink import SCENE, WRIST, DemonstrationSink, ImageSize
from handeye.robot.interfaces import Policy
from handeye.robot.pick import PickConfig, PickStation, build_task
from handeye.robot.policies.learned_pick import ImageBuffer, LearnedPick, LearnedPickConfig
from handeye.robot.policies.onnx_policy import resize_image
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES
from handeye.robot.simulator.objects import CUBE_CLASSES
from handeye.robot.timing import StageTimer
from handeye.robot.types import ACTION_KEY, STATE_KEY, Frame, JointState, Observation
from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.detections import Detections
from tests.robot.policies.test_scripted_policy import TASK

SIZE = ImageSize(60, 80)
TAKEN = (*STATE_NAMES[:7], "is_holding")


class Watcher:
    """Fills `ChunkPredictor`: turns the first joint a little, and remembers what it was shown."""

    fps, chunk_size = 10, 4
    state_names, action_names = TAKEN, ACTION_NAMES
    environment_names = ()
    image_keys = (SCENE, WRIST)

    def __init__(self) -> None:
        self.states: list[np.ndarray] = []
        self.images: list[Mapping[str, np.ndarray]] = []

    def predict(
        self, state: np.ndarray, images: Mapping[str, np.ndarray], environment: np.ndarray | None = None
    ) -> np.ndarray:
        assert environment is None
        self.states.append(state)
        self.images.append(dict(images))
        rows = np.tile(np.append(state[:6], 0.085), (self.chunk_size, 1))
        rows[:, 0] += 0.02 * np.arange(1, self.chunk_size + 1)
        return rows


def test_states_and_images_are_those_of_the_demonstration_of_the_same_episode() -> None:
    config = PickConfig.model_validate({"cell": {"control_hz": 100}, "timeout_s": 0.55, "latency": NO_LATENCY})
    watcher = Watcher()

    def build(station: PickStation, seed: int, timer: StageTimer) -> Policy:
        return LearnedPick(config.cell, LearnedPickConfig(), watcher, timer, scene=station.cell.scene_image)

    with PickStation(config, lambda image_rgb: Detections.empty(CUBE_CLASSES), build) as station:
        sink = DemonstrationSink(
            config.cell, build_task(config), policy_hz=10.0, seed=5, image_size=SIZE, scene=station.cell.scene_image
        )
        station.run(5, sinks=[sink])
    columns = sink.episode().columns
    rows = len(columns[ACTION_KEY])
    assert rows >= 5
    np.testing.assert_allclose(columns["frame_stamp_s"], columns["stamp_s"], atol=1e-9)
    taken = [STATE_NAMES.index(name) for name in TAKEN]
    np.testing.assert_array_equal(np.array(watcher.states[:rows]), columns[STATE_KEY][:, taken])
    for key in watcher.image_keys:
        seen = [resize_image(images[key], (SIZE.height, SIZE.width)) for images in watcher.images[:rows]]
        np.testing.assert_array_equal(np.array(seen), columns[key])
        assert (columns[key][0] != columns[key][-1]).any(), "nothing moved"


def look(stamp_s: float, shade: int | None) -> Observation:
    frame = None
    if shade is not None:
        image = np.full((12, 16, 3), shade, np.uint8)
        frame = Frame(image, np.ones((12, 16), np.float32), np.eye(3), stamp_s)
    joints = JointState(np.array(WorkCellConfig().home_qpos), np.zeros(6), 0.085, stamp_s)
    return Observation(joints, frame, (), stamp_s)


def test_without_an_image_it_waits_and_then_runs_at_its_own_rate() -> None:
    watcher = Watcher()
    scene = np.zeros((6, 8, 3), np.uint8)
    cell = WorkCellConfig(control_hz=100.0)
    policy = LearnedPick(cell, LearnedPickConfig(), watcher, StageTimer(), scene=lambda: scene)
    policy.reset(TASK)
    for tick in range(75):
        chunk = policy.act(look(tick / 100, shade=tick if tick >= 25 and tick % 5 == 0 else None))
        if tick < 25:
            np.testing.assert_array_equal(chunk.qpos_target[0], cell.home_qpos)
            assert not watcher.images
    assert [int(images[WRIST][0, 0, 0]) for images in watcher.images] == [25, 35, 45, 55, 65]
    assert all(images[SCENE] is scene for images in watcher.images)
    policy.reset(TASK)
    policy.act(look(1.0, None))
    assert len(watcher.images) == 5, "it remembered an image of the task before"


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelFileError, match=r"looks through observation\.images\.scene; picking has .*wrist$"):
        ImageBuffer([WRIST, SCENE], None)

"""Record the ticks of an episode as a demonstration: states and actions at the policy's rate, images if wanted.

Works with whatever moves the arm: an expert, a script, a learned policy or teleoperation. The action of a row is the
set-point commanded one policy period after the row's state, so that a policy learns to lead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from handeye.robot.config import WorkCellConfig
from handeye.robot.control.loop import Tick
from handeye.robot.datasets.format import Episode, Feature, colour_video, depth_image, numbers
from handeye.robot.interfaces import PickTask
from handeye.robot.policies.pick_state import ACTION_NAMES, STATE_NAMES, PickStateReader
from handeye.robot.types import ACTION_KEY, IMAGE_PREFIX, STATE_KEY, Frame, Observation, Track
from handeye.vision.errors import UserError

WRIST, SCENE, WRIST_DEPTH = IMAGE_PREFIX + "wrist", IMAGE_PREFIX + "scene", "depth.wrist"
OLDEST_S = 100.0
"""Cap of the recorded age of a cube's last detection; also written while no cube is known."""

SceneView = Callable[[], UInt8[np.ndarray, "h w 3"]]
"""Gives the scene camera's image of now."""


@dataclass(frozen=True, slots=True)
class ImageSize:
    """Height and width of recorded images, px; both even, as the video codec needs."""

    height: int
    width: int


def demonstration_features(image_size: ImageSize | None) -> dict[str, Feature]:
    """What a demonstration of picking holds; with `image_size` also both cameras and the wrist's depth."""
    features = {
        STATE_KEY: numbers(STATE_NAMES),
        ACTION_KEY: numbers(ACTION_NAMES),
        "stamp_s": Feature("float64", (1,)),
        "frame_stamp_s": Feature("float64", (1,)),
        "cube_age_s": Feature("float32", (1,)),
        "seed": Feature("int64", (1,)),
    }
    if image_size is None:
        return features
    size = (image_size.height, image_size.width)
    return features | {WRIST: colour_video(*size), SCENE: colour_video(*size), WRIST_DEPTH: depth_image(*size)}


class DemonstrationSink:
    """A tick sink that records one episode; make a new one for each.

    policy_hz must divide the control rate: UserError otherwise. `scene` is needed with `image_size`.
    """

    def __init__(
        self,
        cell: WorkCellConfig,
        task: PickTask,
        *,
        policy_hz: float,
        seed: int,
        image_size: ImageSize | None = None,
        scene: SceneView | None = None,
    ) -> None:
        self._ticks_per_row = ticks_per_row(cell.control_hz, policy_hz)
        self._task = task
        self._seed = seed
        self._image_size = image_size
        self._scene = scene
        self._reader = PickStateReader(cell)
        self._reader.reset(task)
        self._rows: dict[str, list] = {key: [] for key in demonstration_features(image_size)}
        self._num_ticks = 0
        self._began_s = 0.0
        self._tracks: tuple[Track, ...] = ()
        self._frame: Frame | None = None
        self._scene_rgb: np.ndarray | None = None
        self._opening_command_m: float | None = None

    def write(self, tick: Tick) -> None:
        """Record one tick."""
        if tick.percept is not None:
            self._tracks, self._frame = tick.percept.tracks, tick.percept.frame
            self._scene_rgb = None if self._scene is None or self._image_size is None else self._scene()
        if self._image_size is not None and self._frame is None:
            return
        if self._num_ticks == 0:
            self._began_s = tick.stamp_s
        if self._num_ticks % self._ticks_per_row == 0:
            self._add_row(tick)
        self._num_ticks += 1
        self._opening_command_m = tick.decision.gripper_command_m

    def episode(self) -> Episode:
        """The recorded episode, without the last state, which has no action."""
        features = demonstration_features(self._image_size)
        length = len(self._rows[ACTION_KEY])
        columns = {
            key: np.array(self._rows[key][:length], features[key].array_dtype).reshape(length, *feature.array_shape)
            for key, feature in features.items()
        }
        return Episode(columns, f"pick the {self._task.class_name} and put it into the {self._task.place_name}")

    def _add_row(self, tick: Tick) -> None:
        if self._num_ticks:
            self._rows[ACTION_KEY].append(np.append(tick.qpos_command, tick.decision.gripper_command_m))
        opening_m = tick.joints.gripper_opening_m if self._opening_command_m is None else self._opening_command_m
        state = self._reader.read(Observation(tick.joints, None, self._tracks, tick.stamp_s), opening_m)
        self._rows[STATE_KEY].append(state.vector())
        self._rows["stamp_s"].append(tick.stamp_s)
        self._rows["frame_stamp_s"].append(self._began_s if self._frame is None else self._frame.stamp_s)
        self._rows["cube_age_s"].append(min(state.cube_age_s, OLDEST_S))
        self._rows["seed"].append(self._seed)
        if self._image_size is not None and self._frame is not None and self._scene_rgb is not None:
            self._rows[WRIST].append(shrink(self._frame.image_rgb, self._image_size))
            self._rows[SCENE].append(shrink(self._scene_rgb, self._image_size))
            self._rows[WRIST_DEPTH].append(depth_to_mm(self._frame.depth_m, self._image_size))


def ticks_per_row(control_hz: float, policy_hz: float) -> int:
    """Control ticks in a policy period. Raises UserError unless they are a whole number."""
    ratio = control_hz / policy_hz
    if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
        raise UserError(f"policy_hz {policy_hz:g}: the control rate {control_hz:g} Hz must be a multiple of it")
    return round(ratio)


def shrink(image_rgb: UInt8[np.ndarray, "h w 3"], size: ImageSize) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image at the recorded size, by area averaging."""
    return np.asarray(cv2.resize(image_rgb, (size.width, size.height), interpolation=cv2.INTER_AREA), np.uint8)


def depth_to_mm(depth_m: np.ndarray, size: ImageSize) -> UInt16[np.ndarray, "h2 w2"]:
    """Depth at the recorded size in whole mm, 0 for no reading; nearest neighbour, so no averages over edges."""
    small = cv2.resize(depth_m, (size.width, size.height), interpolation=cv2.INTER_NEAREST)
    return np.round(np.nan_to_num(1000.0 * small, nan=0.0).clip(0, 65535)).astype(np.uint16)

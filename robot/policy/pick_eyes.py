"""What a policy of picking sees: the newest picture of the camera at the wrist and of the one that looks on.

Both are taken when the wrist camera gives a new frame, as in the demonstrations, and stay until the next.
"""

from __future__ import annotations

from collections.abc import Sequence

from robot.types import Frame
from robot.policies.chunk_execution import Images
from robot.demonstration_sink import SCENE, WRIST, SceneView
from vision.errors import ModelFileError

CAMERAS = (WRIST, SCENE)
"""Of the simulated cell."""


def require_cameras(keys: Sequence[str], cameras: Sequence[str] = CAMERAS) -> None:
    """Raises ModelFileError where a policy wants to look through a camera that is not there."""
    missing = [key for key in keys if key not in cameras]
    if missing:
        raise ModelFileError(f"looks through {', '.join(missing)}; picking has {', '.join(cameras)}")


class PickEyes:
    """Keeps the pictures that a network wants to see."""

    def __init__(self, keys: Sequence[str], scene: SceneView | None) -> None:
        """Raises ModelFileError for a camera that this cell does not have."""
        require_cameras(keys, (WRIST,) if scene is None else CAMERAS)
        self._keys, self._scene = tuple(keys), scene
        self._images: Images = {}

    def close(self) -> None:
        """Forget what was seen."""
        self._images = {}

    def see(self, frame: Frame) -> None:
        """Take the wrist's picture out of a new frame, and one of the scene beside it, as far as they are wanted."""
        images = {WRIST: frame.image_rgb} if WRIST in self._keys else {}
        if self._scene is not None and SCENE in self._keys:
            images[SCENE] = self._scene()
        self._images = images

    @property
    def are_open(self) -> bool:
        """Whether there is a picture of every camera; always, where none is wanted."""
        return len(self._images) == len(self._keys)

    @property
    def images(self) -> Images:
        """Key -> (H, W, 3) bytes in RGB, in the cameras' own sizes."""
        return self._images

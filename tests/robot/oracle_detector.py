"""A detector that knows: boxes of the simulated cubes by geometry, so that tests of picking need no trained network."""

from __future__ import annotations

import numpy as np

from handeye.robot.simulator.cell import SimulatedCell
from handeye.robot.simulator.layout import object_pose
from handeye.robot.simulator.objects import CUBE_CLASSES, SceneObject
from handeye.vision.runtime.detections import Detections

MIN_SIDE_PX = 8
CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


class OracleDetector:
    """Give it the cell before its first call. It sees through things, but not beyond the image."""

    cell: SimulatedCell

    def __call__(self, image_rgb: np.ndarray) -> Detections:
        height, width = image_rgb.shape[:2]
        found = []
        for item in self.cell.scene.objects:
            if item.class_id is None:
                continue
            box = np.clip(self._box(item), 0.0, [width, height, width, height])
            if min(box[2:] - box[:2]) >= MIN_SIDE_PX:
                found.append((box, item.class_id))
        if not found:
            return Detections.empty(CUBE_CLASSES)
        boxes = np.array([box for box, _ in found], np.float32)
        class_ids = np.array([class_id for _, class_id in found], np.int64)
        return Detections(boxes, np.full(len(found), 0.9, np.float32), class_ids, CUBE_CLASSES)

    def _box(self, item: SceneObject) -> np.ndarray:
        """Bounds of the projected corners, px; an empty box behind the camera."""
        scene = self.cell.scene
        T = object_pose(scene, item)
        corners = item.edge_m * CORNERS @ T[:3, :3].T + T[:3, 3]
        camera = scene.data.cam("wrist")
        R_base_camera = camera.xmat.reshape(3, 3) * np.array([1.0, -1.0, -1.0])
        seen = (corners - camera.xpos) @ R_base_camera @ self.cell.cell.camera.K.T
        if seen[:, 2].min() <= 0.01:
            return np.zeros(4)
        pixels = seen[:, :2] / seen[:, 2:]
        return np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])

"""Localize detections in the base frame from depth, each position with its covariance.

An object on the table is located by its top face, one that is held in the air or shows no top by its visible surface,
and a box without any depth by the ray through its middle; the covariance of the last two is much larger.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from typing_extensions import assert_never

from handeye.robot.perception.box_depth import BoxDepth, NoDepth, measure_box_depth
from handeye.robot.perception.camera_view import Located, ProjectionConfig, View, plane_inverse_depth
from handeye.robot.perception.tabletop import locate_on_ray, locate_on_table, locate_surface
from handeye.robot.types import Frame, ObjectPosition
from handeye.vision.runtime.detections import Detections


def locate_objects(
    detections: Detections,
    frame: Frame,
    T_base_camera: Float[np.ndarray, "4 4"],
    config: ProjectionConfig,
    *,
    table_height_m: float | None,
) -> tuple[ObjectPosition, ...]:
    """Locate detections in the base frame, in their order; those that cannot be located are left out.

    A detection is left out when its box lies outside of the image, when nothing in it stands before the table, or when
    there is neither depth nor a table. table_height_m is the height of the table top in the base frame, None if it is
    not known. T_base_camera is the camera's pose at frame.stamp_s. Raises what `View` raises.
    """
    view = View(frame, T_base_camera, table_height_m, config)
    positions = (_position(detections, row, view) for row in range(len(detections)))
    return tuple(position for position in positions if position is not None)


def locate_box(box_xyxy: Float[np.ndarray, "4"], view: View) -> Located | NoDepth:
    """The centre of what one box (px) shows, by the best way that its depth allows, or the reason why there is none."""
    background = None
    if view.table_height_m is not None:
        background = plane_inverse_depth(view.frame.K, view.T_base_camera, view.table_height_m)
    found = measure_box_depth(view.frame.depth_m, box_xyxy, view.focal_px, view.config.depth, background=background)
    match found:
        case BoxDepth():
            return locate_on_table(found, box_xyxy, view) or locate_surface(found, view)
        case NoDepth.NO_READING:
            return locate_on_ray(box_xyxy, view) or found
        case NoDepth.OUTSIDE | NoDepth.NO_OBJECT:
            return found
        case _:
            assert_never(found)


def _position(detections: Detections, row: int, view: View) -> ObjectPosition | None:
    located = locate_box(detections.boxes_xyxy[row].astype(np.float64), view)
    if isinstance(located, NoDepth):
        return None
    class_id = int(detections.class_ids[row])
    return ObjectPosition(
        p_base=located.p_base,
        covariance_base=located.covariance_base,
        yaw_rad=located.yaw_rad,
        size_m=located.size_m,
        class_id=class_id,
        class_name=detections.class_names[class_id],
        score=float(detections.scores[row]),
        stamp_s=view.frame.stamp_s,
    )

"""The pinhole of a CameraConfig in MuJoCo's words, exact to the last digit."""

from __future__ import annotations

from robot.config import CameraConfig


def camera_lens(camera: CameraConfig) -> dict[str, tuple[float, float] | tuple[int, int]]:
    """Attributes of a MuJoCo camera with these intrinsics.

    MuJoCo measures the principal point from the image's centre, ours from the centre of the top left pixel.
    """
    centre_x, centre_y = (camera.width_px - 1) / 2, (camera.height_px - 1) / 2
    return {
        "resolution": (camera.width_px, camera.height_px),
        "sensorsize": (camera.width_px * 1e-5, camera.height_px * 1e-5),
        "focalpixel": (camera.fx_px, camera.fy_px),
        "principalpixel": (centre_x - camera.cx_px, centre_y - camera.cy_px),
    }

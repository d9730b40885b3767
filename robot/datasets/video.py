"""Encode and decode camera videos of episodes (mp4) with PyAV.

H.264 with a key frame every two images: larger files, but any image takes at most two to decode.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from handeye.vision.errors import DatasetError, MissingPackageError

CODEC, PIXELS, QUALITY, KEY_EVERY = "libx264", "yuv420p", 20, 2
MISSING = "videos need the package av: pip install 'handeye[demonstrations]'"


def write_video(path: Path, images_rgb: UInt8[np.ndarray, "T H W 3"], fps: int) -> None:
    """Encode the images. Raises DatasetError for odd sizes, which the chroma of yuv420p cannot hold."""
    height, width = images_rgb.shape[1:3]
    if height % 2 or width % 2:
        raise DatasetError(f"videos need even heights and widths, got {height} x {width}")
    with _av().open(str(path), "w") as container:
        options = {"crf": str(QUALITY), "g": str(KEY_EVERY), "bf": "0", "preset": "fast"}
        stream: Any = container.add_stream(CODEC, rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, PIXELS, 1
        for image in images_rgb:
            container.mux(stream.encode(_av().VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def read_video(path: Path, from_s: float, num_frames: int, fps: int) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode `num_frames` images from `from_s` seconds on. Raises DatasetError where there are fewer."""
    images = []
    try:
        with _av().open(str(path)) as container:
            stream: Any = container.streams.video[0]
            stream.thread_count = 1
            # Seeking lands on the key frame before; half a period absorbs rounded stamps.
            container.seek(int(max(from_s, 0.0) / stream.time_base), stream=stream, backward=True)
            for image in container.decode(stream):
                if image.time is not None and image.time > from_s - 0.5 / fps:
                    images.append(image.to_ndarray(format="rgb24"))
                if len(images) == num_frames:
                    break
    except (OSError, IndexError, _av().FFmpegError) as error:
        raise DatasetError(f"{path}: cannot be read as a video: {error}") from error
    if len(images) < num_frames:
        raise DatasetError(f"{path}: expected {num_frames} images from {from_s:.3f} s on, found {len(images)}")
    return np.stack(images)


def video_info(height: int, width: int, fps: int) -> dict[str, Any]:
    """Entry of one of our videos in info.json."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def _av() -> Any:
    """PyAV, imported lazily: data sets without videos do not need it."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingPackageError(MISSING) from error
    return av

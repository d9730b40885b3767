"""Encode and decode camera videos of episodes (mp4) with PyAV.

H.264 with a key frame every two images: larger files, but any image takes at most two to decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from handeye.vision.errors import DatasetError, MissingPackageError

CODEC, PIXELS, QUALITY, KEY_EVERY = "libx264", "yuv420p", 20, 2
MOST_PERIODS = 0.501
"""Farthest a frame may be from its row: half a period, and what time bases and float32 stamps round."""
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


def read_video(path: Path, stamps_s: Float[np.ndarray, " T"], period_s: float) -> UInt8[np.ndarray, "T H W 3"]:
    """Decode for each stamp the frame nearest in time.

    Raises DatasetError, naming the stamp, where none is within half a period: a frame that is missing in the video must
    not shift those after it.
    """
    if not np.isfinite(stamps_s).all():
        raise DatasetError(f"{path}: the rows' timestamps hold NaN or infinity, no frame can be found by them")
    away_s = np.full(len(stamps_s), MOST_PERIODS * period_s)
    images: dict[int, np.ndarray] = {}
    try:
        for at_s, frame in _frames_from(path, float(stamps_s.min()) - period_s):
            nearer = np.flatnonzero(np.abs(stamps_s - at_s) < away_s)
            if len(nearer):
                image: np.ndarray = frame.to_ndarray(format="rgb24")
                images.update((row, image) for row in nearer.tolist())
                away_s[nearer] = np.abs(stamps_s[nearer] - at_s)
            if at_s >= stamps_s.max():
                break
    except (OSError, IndexError, _av().FFmpegError) as error:
        raise DatasetError(f"{path}: cannot be read as a video: {error}") from error
    missing = sorted(set(range(len(stamps_s))) - images.keys())
    if missing:
        more = f" nor for {len(missing) - 1} other rows" if len(missing) > 1 else ""
        raise DatasetError(
            f"{path}: no frame within half a period of {stamps_s[missing[0]]:.3f} s (row {missing[0]}){more}"
        )
    return np.stack([images[row] for row in range(len(stamps_s))])


def _frames_from(path: Path, from_s: float) -> Iterator[tuple[float, Any]]:
    """Times and frames from the key frame before `from_s` on."""
    with _av().open(str(path)) as container:
        stream: Any = container.streams.video[0]
        stream.thread_count = 1
        container.seek(int(max(from_s, 0.0) / stream.time_base), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.time is not None:
                yield frame.time, frame


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

"""Write the results of a stream: annotated images or one annotated video, and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import UInt8

from handeye._stream import FrameStream
from handeye.vision.errors import UserError
from handeye.vision.files import replacing
from handeye.vision.images import write_image
from handeye.vision.runtime.detections import Detections
from handeye.vision.runtime.sources import StreamImage
from handeye.vision.runtime.video_writer import VideoWriter
from handeye.vision.tracking.box_tracker import BoxTracks

CAMERA_NAME = "camera"
WRITABLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class StreamFiles:
    """Context that writes a JSON line and an annotated image per frame; files appear whole when it closes.

    A source with a frame rate becomes FOLDER/NAME.mp4, single images become FOLDER/images/NAME.
    """

    def __init__(self, folder: Path, source: str, stream: FrameStream[Any], *, lines_name: str, draw: bool) -> None:
        """The JSON lines go to FOLDER/LINES_NAME; the video shows images of a camera at their times.

        Raises UserError when the output would overwrite the source.
        """
        self.folder = folder
        self.draw = draw
        stem = CAMERA_NAME if source.isdecimal() or "://" in source else Path(source).stem
        self.video = folder / f"{stem}.mp4" if stream.fps is not None else None
        self._lines_name = lines_name
        self._fps = stream.fps
        self._is_live = stream.num_images is None
        self._open = ExitStack()
        self._lines: TextIO | None = None
        self._writer: VideoWriter | None = None
        _refuse_overwriting(source, self.video or folder / "images")

    def __enter__(self) -> StreamFiles:
        beside = self._open.enter_context(replacing(self.folder / self._lines_name))
        self._lines = self._open.enter_context(beside.open("w", encoding="utf-8"))
        if self.video is not None and self.draw and self._fps is not None:
            self._writer = self._open.enter_context(VideoWriter(self.video, self._fps))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # pyright: ignore[reportArgumentType] - the three values of the protocol

    def write(self, image: StreamImage, line: Mapping[str, object], drawn: UInt8[np.ndarray, "h w 3"] | None) -> None:
        """Write the line, with name, time and size of the image, and the annotated image unless it is None."""
        if self._lines is None:
            raise ValueError("StreamFiles is used as a context: with StreamFiles(...) as files")
        height, width = image.image_rgb.shape[:2]
        start = {"name": image.name, "stamp_s": round(image.stamp_s, 6), "width": width, "height": height}
        self._lines.write(json.dumps(start | dict(line)) + "\n")
        if drawn is None:
            return
        if self._writer is not None and self._is_live:
            self._writer.write_at(drawn, image.stamp_s)
        elif self._writer is not None:
            self._writer.write(drawn)
        else:
            _write_image(self.folder / "images" / image.name, drawn)


def box_rows(found: Detections | BoxTracks) -> list[dict[str, object]]:
    """Each box as a JSON object; boxes are x1, y1, x2, y2 in pixels of the image."""
    rows = zip(found.names, found.class_ids, found.scores, found.boxes_xyxy, strict=True)
    return [
        {
            "class_name": name,
            "class_id": int(class_id),
            "score": round(float(score), 5),
            "box_xyxy": [round(float(edge), 2) for edge in box],
        }
        for name, class_id, score, box in rows
    ]


def _write_image(path: Path, image_rgb: np.ndarray) -> None:
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        path = path.with_name(path.name + ".png")
    write_image(path, image_rgb)


def _refuse_overwriting(source: str, target: Path) -> None:
    """An annotated image must never take the place of the original."""
    origin = Path(source).resolve()
    if target.resolve() in (origin, origin.parent):
        raise UserError(f"--output: results would overwrite the source {source}; choose another folder")

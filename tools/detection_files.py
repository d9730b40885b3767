"""What `handeye detect` leaves behind: annotated images or one annotated video, and detections as JSON lines."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

from vision.errors import UserError
from vision.files import replacing
from vision.runtime.camera_stream import StreamImage
from vision.runtime.detections import Detections
from vision.runtime.draw import draw_detections
from vision.runtime.video_writer import VideoWriter

LINES_NAME = "detections.jsonl"
CAMERA_NAME = "camera"
WRITABLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


class DetectionFiles:
    """A context that takes each image with its detections; files appear whole when it closes.

    A source with a frame rate becomes FOLDER/NAME.mp4, single images become FOLDER/images/NAME.
    """

    def __init__(self, folder: Path, source: str, *, fps: float | None, draw: bool) -> None:
        """Raises UserError when the output would overwrite the source."""
        self.folder = folder
        self.draw = draw
        stem = CAMERA_NAME if source.isdecimal() or "://" in source else Path(source).stem
        self.video = folder / f"{stem}.mp4" if fps is not None else None
        self._fps = fps
        self._open = ExitStack()
        self._lines: TextIO | None = None
        self._writer: VideoWriter | None = None
        _refuse_overwriting(source, self.video or folder / "images")

    def __enter__(self) -> DetectionFiles:
        beside = self._open.enter_context(replacing(self.folder / LINES_NAME))
        self._lines = self._open.enter_context(beside.open("w", encoding="utf-8"))
        if self.video is not None and self.draw and self._fps is not None:
            self._writer = self._open.enter_context(VideoWriter(self.video, self._fps))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # pyright: ignore[reportArgumentType] - the three values of the protocol

    def write(self, image: StreamImage, detections: Detections) -> None:
        """Write one image and its line."""
        if self._lines is None:
            raise ValueError("DetectionFiles is used as a context: with DetectionFiles(...) as files")
        self._lines.write(json.dumps(detection_line(image, detections)) + "\n")
        if not self.draw:
            return
        drawn = draw_detections(image.image_rgb, detections)
        if self._writer is not None:
            self._writer.write(drawn)
        else:
            _write_image(self.folder / "images" / image.name, drawn)


def detection_line(image: StreamImage, detections: Detections) -> dict[str, object]:
    """One image as a JSON object; boxes are x1, y1, x2, y2 in pixels of the image."""
    height, width = image.image_rgb.shape[:2]
    rows = zip(detections.names, detections.class_ids, detections.scores, detections.boxes_xyxy, strict=True)
    return {
        "name": image.name,
        "stamp_s": round(image.stamp_s, 6),
        "width": width,
        "height": height,
        "detections": [
            {
                "class_name": name,
                "class_id": int(class_id),
                "score": round(float(score), 5),
                "box_xyxy": [round(float(edge), 2) for edge in box],
            }
            for name, class_id, score, box in rows
        ],
    }


def _write_image(path: Path, image_rgb: np.ndarray) -> None:
    if path.suffix.lower() not in WRITABLE_SUFFIXES:
        path = path.with_name(path.name + ".png")
    image_bgr = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    with replacing(path) as beside:
        if not cv2.imwrite(str(beside), image_bgr):
            raise UserError(f"{path}: cannot be written")


def _refuse_overwriting(source: str, target: Path) -> None:
    """An annotated image must never take the place of the original."""
    origin = Path(source).resolve()
    if target.resolve() in (origin, origin.parent):
        raise UserError(f"--output: results would overwrite the source {source}; choose another folder")

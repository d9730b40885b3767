"""handeye: camera pixels to robot action. Detect, track, train, evaluate, export and pick from Python.

    import handeye

    detector = handeye.load("model.onnx")
    for detection in detector("image.jpg"):
        print(detection.class_name, detection.score, detection.box_xyxy)

The main verbs of the command line are functions here, with the same defaults and the same result keys as their `--json`
(`export` is `export_model`: `handeye.export` is a package).
Mistakes in what you pass raise `UserError`. Importing handeye loads no torch, no OpenCV and no inference engine: each
name is imported when it is first used. The packages `handeye.vision`, `handeye.robot`, `handeye.export` and
`handeye.tools` are the repository's folders of the same names, linked into this one.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING

if not (_Path(__file__).parent / "vision").is_dir():
    raise ImportError(
        f"{_Path(__file__).parent / 'vision'} is not a folder: this checkout was made without symbolic links. "
        "Check it out again with `git config core.symlinks true` (on Windows, switch on Developer Mode first)"
    )

if TYPE_CHECKING:
    from handeye._detect import Detector, evaluate, load
    from handeye._pick import evaluate_policy, load_policy, pick
    from handeye._stream import DetectionStream, TrackStream, draw, stream, track
    from handeye._train import train
    from handeye.export.pipeline import export_model
    from handeye.export.request import ExportRequest
    from handeye.vision.errors import UserError
    from handeye.vision.runtime.detections import Detections
    from handeye.vision.tracking.box_tracker import BoxTracks
    from handeye.vision.tracking.image_tracker import ImageTracker

_MODULE_OF = {
    "BoxTracks": "handeye.vision.tracking.box_tracker",
    "DetectionStream": "handeye._stream",
    "Detections": "handeye.vision.runtime.detections",
    "Detector": "handeye._detect",
    "ExportRequest": "handeye.export.request",
    "ImageTracker": "handeye.vision.tracking.image_tracker",
    "TrackStream": "handeye._stream",
    "UserError": "handeye.vision.errors",
    "draw": "handeye._stream",
    "evaluate": "handeye._detect",
    "evaluate_policy": "handeye._pick",
    "export_model": "handeye.export.pipeline",
    "load": "handeye._detect",
    "load_policy": "handeye._pick",
    "pick": "handeye._pick",
    "stream": "handeye._stream",
    "track": "handeye._stream",
    "train": "handeye._train",
}
"""Where each public name is defined."""

__all__ = [
    "BoxTracks",
    "DetectionStream",
    "Detections",
    "Detector",
    "ExportRequest",
    "ImageTracker",
    "TrackStream",
    "UserError",
    "draw",
    "evaluate",
    "evaluate_policy",
    "export_model",
    "load",
    "load_policy",
    "pick",
    "stream",
    "track",
    "train",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'handeye' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Pack a bundle for an edge device: models, golden images and their detections, requirements, build script.

The golden detections are computed by ONNX Runtime, with one thread, from the packed files themselves.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from handeye.export.bundle.archive import write_bundle
from handeye.export.bundle.index import (
    ENGINES,
    TOLERANCES,
    BundleIndex,
    BundleModel,
    GoldenDetections,
    Precision,
)
from handeye.export.result import program_version
from handeye.export.tensorrt.build_options import BuildOptions, trtexec_command
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.runtime.image_detector import ImageDetector
from handeye.vision.runtime.manifest import Manifest, read_manifest

REQUIREMENTS = Path(__file__).parent / "requirements"
Image = UInt8[np.ndarray, "h w 3"]


def make_bundle(
    path: Path,
    models: Mapping[Precision, Path],
    images_rgb: Sequence[Image],
    *,
    wheel: Path | None = None,
) -> BundleIndex:
    """Write a bundle of these ONNX files and images and return its index.

    The models must be of one detector: same classes, same preprocessing. `wheel` is handeye itself, for a device that
    cannot download it. Raises ModelFileError for a file without a manifest or of another detector, UserError without
    images or where a model detects nothing in any of them, which would verify nothing.
    """
    if not images_rgb:
        raise UserError("a bundle needs golden images, got none")
    manifests: dict[Precision, Manifest] = {precision: read_manifest(file) for precision, file in models.items()}
    _check_same_detector(models, manifests)
    image_files = {f"golden/{number:04d}.png": _png(image) for number, image in enumerate(images_rgb, start=1)}
    packed = [_pack_model(precision, file, images_rgb, list(image_files)) for precision, file in models.items()]
    contents = {model.file: models[model.precision].read_bytes() for model in packed} | image_files
    contents |= {f"requirements/{file.name}": file.read_bytes() for file in sorted(REQUIREMENTS.glob("*.txt"))}
    if wheel is not None:
        contents[f"wheels/{wheel.name}"] = _read_wheel(wheel)
    name = next(iter(manifests.values())).name
    contents["build_engines.sh"] = _build_script(packed).encode()
    contents["README.txt"] = _read_me(name, wheel).encode()
    index = BundleIndex(
        name=name,
        made_by=_maker(),
        class_names=next(iter(manifests.values())).class_names,
        models=tuple(packed),
        images=tuple(image_files),
        engines=ENGINES,
        files=(),
    )
    write_bundle(path, index, contents)
    return index


def _check_same_detector(models: Mapping[Precision, Path], manifests: Mapping[Precision, Manifest]) -> None:
    first = next(iter(manifests))
    kept = ("class_names", "preprocessing", "output", "score_threshold", "iou_threshold")
    for precision, manifest in manifests.items():
        for field in kept:
            ours, theirs = getattr(manifests[first], field), getattr(manifest, field)
            if ours != theirs:
                raise ModelFileError(
                    f"{models[precision]}: is not the detector of {models[first]}: {field} is {theirs}, there {ours}"
                )


def _pack_model(precision: Precision, file: Path, images: Sequence[Image], names: Sequence[str]) -> BundleModel:
    """Compute golden detections with ONNX Runtime; UserError when there are none."""
    with tempfile.TemporaryDirectory() as folder:
        # Copied, so that error messages of the engine show the name in the bundle.
        copy = Path(folder) / f"{precision}.onnx"
        copy.write_bytes(file.read_bytes())
        detector = ImageDetector.load(copy, engine="onnxruntime", num_threads=1)
        found = [detector(image) for image in images]
    if not any(len(detections) for detections in found):
        raise UserError(f"{file}: detects nothing in any of the {len(images)} golden images; choose others: --images")
    golden = {name: GoldenDetections.of(detections) for name, detections in zip(names, found, strict=True)}
    return BundleModel(
        precision=precision, file=f"models/{precision}.onnx", golden=golden, tolerances=TOLERANCES[precision]
    )


def _maker() -> str:
    """Program, engine and processor that computed the golden detections."""
    return f"{program_version()}, onnxruntime {version('onnxruntime')} with 1 thread on {platform.machine()}"


def _png(image_rgb: Image) -> bytes:
    """Encode losslessly, so that every decoder gives the same pixels."""
    done, content = cv2.imencode(".png", image_rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert done
    return content.tobytes()


def _read_wheel(wheel: Path) -> bytes:
    if not wheel.name.startswith("handeye-") or wheel.suffix != ".whl" or not wheel.is_file():
        raise UserError(f"{wheel}: expected handeye's own wheel, made by: pip wheel --no-deps --wheel-dir dist .")
    return wheel.read_bytes()


def _build_script(models: Sequence[BundleModel]) -> str:
    """Shell script that builds plans with trtexec, for programs in other languages; `handeye verify` builds its own."""
    lines = ["#!/bin/sh", "# Builds a TensorRT plan of each model on this device.", "set -eu", 'cd "$(dirname "$0")"']
    lines += ['PATH="$PATH:/usr/src/tensorrt/bin"  # where JetPack keeps trtexec', "mkdir -p plans"]
    for model in models:
        options = BuildOptions(timing_cache=Path("plans/timing.cache"))
        lines.append(trtexec_command(Path(model.file), Path(f"plans/{model.precision}.plan"), options, {}))
    return "\n".join(lines) + "\n"


def _read_me(name: str, wheel: Path | None) -> str:
    """README with the steps on the device."""
    package = f"wheels/{wheel.name}" if wheel is not None else "handeye"
    return f"""{name}: models, golden images, and what they must give.

On a Jetson with JetPack 6 (for JetPack 7: python3.12 and requirements/jetpack7-cp312.txt):

  python3.10 -m venv --system-site-packages .venv      # so that JetPack's TensorRT is seen
  .venv/bin/pip install -r requirements/jetpack6-cp310.txt
  .venv/bin/pip install --no-deps {package}
  .venv/bin/handeye verify BUNDLE.zip --engines engines --json verified.json

It builds the engines, compares them with the golden detections, measures them and prints pass or fail. The engines
stay in the folder engines/ and run with: handeye detect engines/float32.engine CAMERA

Where there is no TensorRT it does the same with ONNX Runtime or OpenVINO. build_engines.sh makes bare plans by trtexec.
"""

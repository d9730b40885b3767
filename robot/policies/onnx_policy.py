"""A trained policy on the robot computer: an ONNX file behind one call, units in and units out, no torch.

Statistics, deltas and the preparation of images are inside the graph; what is left is to refuse what it never learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from robot.errors import PolicyInputError
from robot.policy.policy_manifest import (
    ENVIRONMENT_KEY,
    IMAGE_PREFIX,
    STATE_KEY,
    PolicyManifest,
    read_policy_manifest,
)
from vision.errors import ModelFileError
from vision.runtime.engines import EngineChoice, Precision, Session, open_session

OUTPUT_NAME = "action_chunk"


class OnnxPolicy:
    """`predict` gives the chunk for one observation. Row i is meant for i / fps seconds after row 0."""

    def __init__(self, session: Session, manifest: PolicyManifest) -> None:
        """Raises ModelFileError where the graph's inputs and output are not those that its manifest names."""
        self.session, self.manifest = session, manifest
        self.signature = manifest.signature
        self._shapes = self.signature.input_shapes()
        expected = {key: (1, *shape) for key, shape in self._shapes.items()}
        output = (1, manifest.chunk_size, len(self.signature.action_names))
        if dict(session.inputs) != expected or dict(session.outputs) != {OUTPUT_NAME: output}:
            raise ModelFileError(
                f"{manifest.name}: the graph takes {dict(session.inputs)} and gives {dict(session.outputs)}, its "
                f"manifest says {expected} and {OUTPUT_NAME} {output}"
            )

    @staticmethod
    def load(
        path: Path, *, engine: EngineChoice = "auto", num_threads: int | None = None, precision: Precision = "fp32"
    ) -> OnnxPolicy:
        """Read a policy that handeye exported. bf16 answers several times as fast for images, with three digits.

        Raises ModelFileError when the file is none, and MissingPackageError when the engine is not installed.
        """
        manifest = read_policy_manifest(Path(path))
        return OnnxPolicy(open_session(Path(path), engine, num_threads, precision), manifest)

    @property
    def fps(self) -> int:
        """Rows of a chunk in a second."""
        return self.signature.fps

    @property
    def chunk_size(self) -> int:
        """Rows of a chunk."""
        return self.manifest.chunk_size

    @property
    def state_names(self) -> tuple[str, ...]:
        """Of the numbers of `state`."""
        return self.signature.state_names

    @property
    def environment_names(self) -> tuple[str, ...]:
        """Of the numbers of `environment`."""
        return self.signature.environment_names

    @property
    def action_names(self) -> tuple[str, ...]:
        """Of the numbers of a row."""
        return self.signature.action_names

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Keys that `images` must have."""
        return tuple(IMAGE_PREFIX + camera for camera in self.signature.cameras)

    def predict(
        self,
        state: Float[np.ndarray, " S"],
        images: Mapping[str, np.ndarray],
        environment: Float[np.ndarray, " E"] | None = None,
    ) -> Float[np.ndarray, "T A"]:
        """The chunk of absolute actions in units. Images are (H, W, 3) bytes in RGB, of any size in proportion.

        Raises PolicyInputError where a number is not finite, a camera is missing or a shape is another one.
        """
        if set(images) != set(self.image_keys):
            raise PolicyInputError(f"the policy sees {list(self.image_keys)}, it was given {sorted(images)}")
        inputs = {STATE_KEY: self._numbers(STATE_KEY, state)}
        if (environment is None) != (ENVIRONMENT_KEY not in self._shapes):
            given = "was not given" if environment is None else "knows no"
            raise PolicyInputError(f"the policy {given} {ENVIRONMENT_KEY}")
        if environment is not None:
            inputs[ENVIRONMENT_KEY] = self._numbers(ENVIRONMENT_KEY, environment)
        inputs |= {key: self._image(key, images[key]) for key in self.image_keys}
        chunk = self.session.run(inputs)[OUTPUT_NAME][0].astype(np.float64)
        if not np.isfinite(chunk).all():
            raise PolicyInputError(f"the policy's answer to {inputs[STATE_KEY].tolist()} is not finite")
        return chunk

    def _numbers(self, key: str, values: np.ndarray) -> np.ndarray:
        names = self.state_names if key == STATE_KEY else self.environment_names
        if values.shape != (len(names),):
            raise PolicyInputError(f"{key} has the shape {values.shape}, expected {len(names)} numbers: {names}")
        bad = [name for name, value in zip(names, values.tolist(), strict=True) if not np.isfinite(value)]
        if bad:
            raise PolicyInputError(f"{key}: {', '.join(bad)} not finite")
        return values.astype(np.float32)[None]

    def _image(self, key: str, image_rgb: np.ndarray) -> np.ndarray:
        height, width = self.signature.image_hw
        if image_rgb.dtype != np.uint8 or image_rgb.ndim != 3 or image_rgb.shape[2] != 3:
            raise PolicyInputError(f"{key}: expected (H, W, 3) bytes, got {image_rgb.dtype} {image_rgb.shape}")
        # One pixel of rounding is allowed, as when 480 x 640 becomes 100 x 133.
        if abs(image_rgb.shape[0] * width - image_rgb.shape[1] * height) > max(image_rgb.shape):
            raise PolicyInputError(f"{key}: {image_rgb.shape[:2]} has not the proportions of {height} x {width}")
        return resize_image(image_rgb, (height, width))[None]


def resize_image(image_rgb: UInt8[np.ndarray, "H W 3"], size_hw: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The whole image at another size, in training and at run time alike; pixels are averaged where it shrinks."""
    if image_rgb.shape[:2] == size_hw:
        return image_rgb
    resized = cv2.resize(image_rgb, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_AREA)
    return resized.astype(np.uint8, copy=False)

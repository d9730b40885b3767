"""Load and run an exported policy from an ONNX file, without torch: units in, units out.

Normalization, deltas and image preprocessing are inside the graph; here its inputs are checked. The keys of inputs
and outputs are those of LeRobot's data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from handeye.robot.errors import PolicyInputError
from handeye.robot.types import ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.config import Config
from handeye.vision.errors import ModelFileError
from handeye.vision.runtime.engines import EngineChoice, Precision, Session, open_session
from handeye.vision.runtime.manifest import read_onnx_file

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
        """The chunk of absolute actions in units. Images are (H, W, 3) bytes in RGB, of any size with the same aspect.

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


METADATA_KEY = "handeye-policy"
"""Where an ONNX file holds its manifest; detectors use another key, so that neither is taken for the other."""

Names = tuple[str, ...]
PositiveInt = Annotated[int, Field(gt=0)]


class PolicySignature(Config):
    """Inputs and outputs of a policy, each number with a name, as in its demonstrations."""

    state_names: Annotated[Names, Field(min_length=1)]
    """Proprioception: joint angles in rad, gripper opening in m."""
    environment_names: Names = ()
    """Environment state from perception, positions in m in the base frame; may be empty."""
    cameras: Names = ()
    image_hw: tuple[PositiveInt, PositiveInt] = (120, 160)
    """Height and width to which every camera's image is brought."""
    action_names: Annotated[Names, Field(min_length=1)]
    fps: PositiveInt
    """Rows of a chunk in a second: the rate of the demonstrations."""

    @model_validator(mode="after")
    def _names_differ(self) -> PolicySignature:
        for names in (self.state_names, self.environment_names, self.cameras, self.action_names):
            if len(set(names)) < len(names):
                raise ValueError(f"two of {', '.join(names)} share a name")
        return self

    @property
    def dt_s(self) -> float:
        """Time between two rows of a chunk."""
        return 1 / self.fps

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Key -> shape of each input, without a batch: float numbers, and images as (H, W, 3) in RGB bytes."""
        shapes: dict[str, tuple[int, ...]] = {STATE_KEY: (len(self.state_names),)}
        if self.environment_names:
            shapes[ENVIRONMENT_KEY] = (len(self.environment_names),)
        return shapes | {IMAGE_PREFIX + camera: (*self.image_hw, 3) for camera in self.cameras}


class StateStatistics(Config):
    """Mean and deviation of each number of the state in the demonstrations, in units."""

    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]


class PolicyManifest(Config):
    """The manifest of an exported policy: all that is needed to run it besides its graph."""

    format_version: Literal[1] = 1
    name: str = "policy"
    signature: PolicySignature
    chunk_size: PositiveInt
    state_statistics: StateStatistics | None = None
    """Statistics of the training states, to check that a policy fits a cell; older files lack them."""
    graph_sha256: str
    """SHA-256 of the serialised graph with its weights."""
    made_by: str = ""
    """Program, version and source that wrote the file."""

    @model_validator(mode="after")
    def _statistics_fit(self) -> PolicyManifest:
        found, expected = self.state_statistics, len(self.signature.state_names)
        if found is not None and not len(found.mean) == len(found.std) == expected:
            raise ValueError(f"state_statistics: expected {expected} means and deviations")
        return self


def read_policy_manifest(path: Path) -> PolicyManifest:
    """The manifest inside a policy's ONNX file.

    Raises ModelFileError when there is none, when it is damaged or when the graph was changed after it was written.
    """
    file = read_onnx_file(path)
    text = file.metadata.get(METADATA_KEY)
    if text is None:
        raise ModelFileError(f"{path}: is no policy of handeye: it carries no manifest under {METADATA_KEY!r}")
    try:
        manifest = PolicyManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ModelFileError(f"{path}: its policy manifest cannot be used: {key}: {first['msg']}") from error
    if manifest.graph_sha256 != file.graph_sha256:
        raise ModelFileError(f"{path}: the graph is not the one its manifest was written for; export the policy again")
    return manifest

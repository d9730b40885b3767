"""What a learned policy sees and says: the names and sizes of its numbers, and the contract inside its exported file.

The keys are those of LeRobot's data sets, so that a policy and the demonstrations it learnt from speak one language.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from vision.config import Config
from vision.errors import ModelFileError
from vision.runtime.onnx_file import read_onnx_file

STATE_KEY = "observation.state"
ENVIRONMENT_KEY = "observation.environment_state"
IMAGE_PREFIX = "observation.images."
ACTION_KEY = "action"

METADATA_KEY = "handeye-policy"
"""Where an ONNX file holds its manifest; detectors use another key, so that neither is taken for the other."""

Names = tuple[str, ...]
PositiveInt = Annotated[int, Field(gt=0)]


class PolicySignature(Config):
    """Inputs and outputs of a policy, each number with a name; they follow from the demonstrations."""

    state_names: Annotated[Names, Field(min_length=1)]
    """What the robot knows of itself: joint angles in rad, gripper opening in m."""
    environment_names: Names = ()
    """What perception says of the task, positions in m in the base frame; may be empty."""
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
    """Everything that the run time must know of an exported policy besides its graph."""

    format_version: Literal[1] = 1
    name: str = "policy"
    signature: PolicySignature
    chunk_size: PositiveInt
    state_statistics: StateStatistics | None = None
    """What the policy has seen, so that a cell can tell whether it was taught there; files of before lack it."""
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

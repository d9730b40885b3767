"""What LeRobot's ACT policies say of themselves in JSON, and which network of ours that is.

Source: github.com/huggingface/lerobot (Apache-2.0), as its versions 0.2 to 0.4 write it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from robot.learning.act import ActConfig
from vision.config import Config, validate_config
from vision.errors import ConfigError, ModelFileError

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "policy_preprocessor.json"
RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
Mode = Literal["MEAN_STD", "MIN_MAX", "IDENTITY"]
PositiveInt = Annotated[int, Field(gt=0)]
C = TypeVar("C", bound=Config)


class LerobotFeature(Config):
    """One input or output; images are (3, H, W)."""

    type: Literal["STATE", "ENV", "VISUAL", "ACTION"]
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class LerobotActConfig(Config):
    """What of LeRobot's configuration decides the network; the literals are the variants that ours has."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["act"]
    input_features: dict[str, LerobotFeature]
    output_features: dict[str, LerobotFeature]
    normalization_mapping: dict[str, Mode]
    chunk_size: int
    vision_backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"]
    replace_final_stride_with_dilation: Literal[False, 0] = False
    pre_norm: Literal[False]
    feedforward_activation: Literal["relu"]
    dim_model: int
    n_heads: int
    dim_feedforward: int
    n_encoder_layers: int
    n_decoder_layers: int
    use_vae: bool
    latent_dim: int
    n_vae_encoder_layers: int
    dropout: float = Field(ge=0, lt=1)

    def network(self) -> ActConfig:
        """Ours of the same size. LeRobot uses all the decoder layers it has, and does not tell cameras apart."""
        sizes: dict[str, Any] = {
            "chunk_size": self.chunk_size,
            "hidden_dim": self.dim_model,
            "num_heads": self.n_heads,
            "feed_forward_dim": self.dim_feedforward,
            "num_encoder_layers": self.n_encoder_layers,
            "num_decoder_layers": self.n_decoder_layers,
            "has_latent": self.use_vae,
            "latent_dim": self.latent_dim,
            "num_latent_layers": self.n_vae_encoder_layers,
            "dropout": self.dropout,
            "tells_cameras_apart": False,
            "backbone": {"depth": RESNET_DEPTHS[self.vision_backbone], "batch_norm": "frozen", "strides": (32,)},
        }
        return validate_config(ActConfig, sizes, origin=CONFIG_FILE)

    def images(self) -> dict[str, LerobotFeature]:
        """The cameras' features by key, in the order in which the network takes them."""
        return {key: feature for key, feature in self.input_features.items() if feature.type == "VISUAL"}


class LerobotStep(Config):
    """One step before the network."""

    model_config = ConfigDict(extra="ignore")

    registry_name: str = ""
    state_file: str | None = None


class LerobotPreprocessor(Config):
    """The steps from an observation to the network's inputs; only the normaliser has a state."""

    model_config = ConfigDict(extra="ignore")

    steps: tuple[LerobotStep, ...]


def read_lerobot_json(config_type: type[C], path: Path) -> C:
    """Read one of the files. Raises ModelFileError where it is missing, damaged, or says what ours has not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read as a JSON file: {error}") from error
    try:
        return validate_config(config_type, content, origin=str(path))
    except ConfigError as error:
        raise ModelFileError(str(error)) from error

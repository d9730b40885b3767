"""Import an ACT policy of LeRobot: a folder with config.json, model.safetensors and statistics.

From version 0.4 on the statistics are in a separate file, which policy_preprocessor.json names; before, they were among
the weights. Formats as github.com/huggingface/lerobot (Apache-2.0), versions 0.2 to 0.4, writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from torch import Tensor

from handeye.robot.learning.act import ActConfig
from handeye.robot.learning.act_policy import ActPolicy, ActPolicyConfig
from handeye.robot.learning.checkpoint import LEROBOT_KEYS, require_finite
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.robot.types import ACTION_KEY, ENVIRONMENT_KEY, IMAGE_PREFIX, STATE_KEY
from handeye.vision.checkpoints.published import read_published_file
from handeye.vision.config import Config, validate_config
from handeye.vision.errors import ConfigError, ModelFileError

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "policy_preprocessor.json"
RESNET_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}
Mode = Literal["MEAN_STD", "MIN_MAX", "IDENTITY"]
PositiveInt = Annotated[int, Field(gt=0)]
C = TypeVar("C", bound=Config)
WORDS = {STATE_KEY: "state", ENVIRONMENT_KEY: "environment", ACTION_KEY: "action"}
EPSILON = 1e-8
"""What LeRobot adds to a deviation before it divides."""
UNMOVED = 1e-6
"""A number with a smaller deviation never moved in training; LeRobot would magnify whatever it does a million times."""
Statistics = Mapping[str, Mapping[str, Tensor]]
"""By the key of the feature, with `_` for `.`, and by the name of the statistic."""


def load_lerobot_policy(
    folder: Path, *, fps: int, named: PolicySignature | None = None, on_note: Callable[[str], None] = lambda _: None
) -> ActPolicy:
    """The policy in a folder, in eval mode; units in, units out.

    LeRobot stores neither the rate of the actions, `fps`, nor the names of the numbers: they are those that `named`
    has, the signature of its demonstrations, of state and environment in a row; without it state_0, state_1, ...
    A number of the state or environment that never moved in training gets the deviation 1: at its place that changes
    nothing, beside it the network sees no more than it can know. `on_note` is told of such numbers.
    Raises ModelFileError where a file is missing or damaged, where the configuration names an unsupported variant of
    ACT, where there are more or fewer numbers than names, and with the list of keys where the weights do not fit.
    """
    folder = Path(folder)
    config = read_lerobot_json(LerobotActConfig, folder / CONFIG_FILE)
    weights = read_published_file(folder / WEIGHTS_FILE)
    statistics = _statistics_in(weights) or _read_statistics(folder)
    network = {key: value for key, value in weights.items() if key.startswith("model.")}
    try:
        policy = ActPolicy(ActPolicyConfig(network=config.network()), _signature_of(config, fps, named, folder))
    except ConfigError as error:
        raise ModelFileError(f"{folder}: {error}") from error
    own = policy.act.state_dict()
    policy.act.load_state_dict(LEROBOT_KEYS.to_ours(network, own, origin=str(folder)), strict=False)
    for note in _take_statistics(policy, config, statistics, folder):
        on_note(note)
    require_finite(policy, origin=str(folder))
    return policy.eval()


def _signature_of(config: LerobotActConfig, fps: int, named: PolicySignature | None, folder: Path) -> PolicySignature:
    _require_features(config, folder)
    images, num_seen = config.images(), config.input_features[STATE_KEY].shape[0]
    seen, actions = _names_of(config, named, folder)
    signature = PolicySignature(
        state_names=seen[:num_seen],
        environment_names=seen[num_seen:],
        cameras=tuple(_camera_name(key) for key in images),
        action_names=actions,
        fps=fps,
    )
    return signature.model_copy(update={"image_hw": _image_hw(images, folder)}) if images else signature


def _require_features(config: LerobotActConfig, folder: Path) -> None:
    known = {STATE_KEY, ENVIRONMENT_KEY, *config.images()}
    if STATE_KEY not in config.input_features or not config.input_features.keys() <= known:
        keys = ", ".join(config.input_features)
        raise ModelFileError(
            f"{folder}: the policy takes {keys}; expected {STATE_KEY} and, if any, {ENVIRONMENT_KEY} and images"
        )
    if ACTION_KEY not in config.output_features:
        raise ModelFileError(f"{folder}: the policy gives {', '.join(config.output_features)}; expected {ACTION_KEY}")


def _names_of(
    config: LerobotActConfig, named: PolicySignature | None, folder: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the numbers seen, those of the environment behind those of the state, and of the actions."""
    features = config.input_features | config.output_features
    widths = {key: features[key].shape[0] for key in (STATE_KEY, ENVIRONMENT_KEY, ACTION_KEY) if key in features}
    if named is None:
        numbered = {key: tuple(f"{WORDS[key]}_{index}" for index in range(width)) for key, width in widths.items()}
        return numbered[STATE_KEY] + numbered.get(ENVIRONMENT_KEY, ()), numbered[ACTION_KEY]
    seen = named.state_names + (named.environment_names if ENVIRONMENT_KEY in widths else ())
    found, expected = sum(widths.values()) - widths[ACTION_KEY], (len(seen), len(named.action_names))
    if (found, widths[ACTION_KEY]) != expected:
        raise ModelFileError(
            f"{folder}: the policy sees {found} numbers and gives {widths[ACTION_KEY]}; these demonstrations have "
            f"{expected[0]} ({', '.join(seen)}) and {expected[1]} ({', '.join(named.action_names)})"
        )
    return seen, named.action_names


def _image_hw(images: Mapping[str, LerobotFeature], folder: Path) -> tuple[int, int]:
    sizes = {feature.shape for feature in images.values()}
    size = next(iter(sizes))
    if len(sizes) > 1 or len(size) != 3 or size[0] != 3:
        raise ModelFileError(f"{folder}: images of the shapes {sorted(sizes)}; expected one shape (3, height, width)")
    return size[1], size[2]


def _camera_name(key: str) -> str:
    """`top` of observation.images.top; data sets with one camera call it observation.image."""
    return key.removeprefix(IMAGE_PREFIX) if key.startswith(IMAGE_PREFIX) else key.rpartition(".")[2]


def _statistics_in(weights: Mapping[str, Tensor]) -> Statistics:
    """Those among the weights of older versions, where `observation.state` is spelt buffer_observation_state."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        owner, _, rest = name.partition(".buffer_")
        if owner in {"normalize_inputs", "normalize_targets"} and rest:
            feature, _, statistic = rest.rpartition(".")
            found.setdefault(feature, {})[statistic] = value
    return found


def _read_statistics(folder: Path) -> Statistics:
    path = folder / PREPROCESSOR_FILE
    steps = read_lerobot_json(LerobotPreprocessor, path).steps
    files = [step.state_file for step in steps if step.registry_name == "normalizer_processor"]
    if len(files) != 1 or files[0] is None or Path(files[0]).name != files[0]:
        raise ModelFileError(f"{path}: expected one normalizer_processor, with a state_file beside it")
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in read_published_file(folder / files[0]).items():
        feature, _, statistic = name.rpartition(".")
        found.setdefault(feature.replace(".", "_"), {})[statistic] = value
    return found


def _take_statistics(policy: ActPolicy, config: LerobotActConfig, statistics: Statistics, folder: Path) -> list[str]:
    """Put them into the policy; what is to be told of them."""
    features, notes = config.input_features | config.output_features, []
    for normalizer in policy.normalizers():
        feature = features[normalizer.key]
        mean, std = _scale_of(normalizer.key, feature, config, statistics, folder)
        is_unmoved = std <= UNMOVED
        if config.normalization_mapping.get(feature.type) == "MEAN_STD" and is_unmoved.any():
            names = ", ".join(name for name, one in zip(normalizer.names, is_unmoved.tolist(), strict=True) if one)
            is_action = normalizer.key == ACTION_KEY
            done = "kept still" if is_action else "ignored"
            notes.append(f"{normalizer.key}: {names} never moved in training: {done}")
            std = std if is_action else torch.where(is_unmoved, torch.ones_like(std), std)
        normalizer.mean.copy_(mean)
        normalizer.std.copy_(std)
    for index, (key, feature) in enumerate(config.images().items()):
        channels = feature.model_copy(update={"shape": feature.shape[:1]})
        policy.image_mean[index], policy.image_std[index] = _scale_of(key, channels, config, statistics, folder)
    return notes


def _scale_of(
    key: str, feature: LerobotFeature, config: LerobotActConfig, statistics: Statistics, folder: Path
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and deviation that do to a feature what LeRobot's mode does: (x - mean) / std."""
    mode = config.normalization_mapping.get(feature.type, "IDENTITY")
    if mode == "IDENTITY":
        return torch.zeros(feature.shape), torch.ones(feature.shape)
    names = ("mean", "std") if mode == "MEAN_STD" else ("min", "max")
    given = statistics.get(key.replace(".", "_"), {})
    values = [given[name].flatten().float() for name in names if name in given]
    if len(values) != 2 or any(value.shape != feature.shape for value in values):
        raise ModelFileError(
            f"{folder}: {key} is normalised by {mode}: expected {' and '.join(names)} of {feature.shape[0]} numbers"
        )
    first, second = values
    if mode == "MEAN_STD":
        return first, second + EPSILON
    # LeRobot brings the smallest to -1 and the largest to 1.
    return (first + second) / 2, (second - first) / 2


class LerobotFeature(Config):
    """One input or output; images are (3, H, W)."""

    type: Literal["STATE", "ENV", "VISUAL", "ACTION"]
    shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class LerobotActConfig(Config):
    """The part of LeRobot's configuration that determines the network; the literals are the variants supported here."""

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
        """The configuration of the same network. LeRobot uses all its decoder layers and has no camera embeddings."""
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
    """Read one of the files. Raises ModelFileError where it is missing, damaged or unsupported."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read as a JSON file: {error}") from error
    try:
        return validate_config(config_type, content, origin=str(path))
    except ConfigError as error:
        raise ModelFileError(str(error)) from error

"""Save and load policies: one safetensors file, configuration and signature in its metadata; read published ACT."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from handeye.robot.learning.act import Act, ActConfig
from handeye.robot.learning.act_policy import ActPolicy, ActPolicyConfig
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.vision.checkpoints.detr import LAYER_RENAMES
from handeye.vision.checkpoints.key_map import KeyMap
from handeye.vision.checkpoints.native import require_fit
from handeye.vision.checkpoints.torchvision_backbones import plain_renames
from handeye.vision.errors import ConfigError, DatasetError, ModelFileError, UserError
from handeye.vision.files import replacing

FORMAT = "handeye-policy-1"
PUBLISHED_HEADS = 8
PUBLISHED_FPS = 50
POLICIES = ("act",)


def save_policy(path: Path, policy: ActPolicy, extra: Mapping[str, str] | None = None) -> None:
    """Write the policy atomically, `extra` as further metadata. Raises OSError when it cannot be written."""
    metadata = {
        **(extra or {}),
        "format": FORMAT,
        "config": policy.config.model_dump_json(),
        "signature": policy.signature.model_dump_json(),
    }
    weights = {
        key: value.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        for key, value in policy.state_dict().items()
    }
    with replacing(Path(path)) as beside:
        try:
            save_file(weights, beside, metadata)
        except SafetensorError as error:  # of a full disk too
            raise OSError(f"{path}: {error}") from error


def load_policy(path: Path) -> ActPolicy:
    """Read a policy in eval mode on the CPU.

    Raises ModelFileError when the file is missing, damaged, not a policy of handeye, does not fit its configuration or
    holds numbers that are not finite.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: is not a policy of handeye (format {metadata.get('format')!r}, expected {FORMAT!r})"
        )
    try:
        config = ActPolicyConfig.model_validate_json(metadata["config"])
        policy = ActPolicy(config, PolicySignature.model_validate_json(metadata["signature"]))
    except (KeyError, ValidationError, ConfigError) as error:
        raise ModelFileError(f"{path}: the configuration inside cannot be used: {error}") from error
    with safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    require_fit(policy.state_dict(), weights, origin=str(path))
    policy.load_state_dict(weights, strict=False)
    require_finite(policy, origin=str(path))
    return policy.eval()


def require_finite(policy: ActPolicy, origin: str) -> None:
    """Raise ModelFileError, naming the tensor, where weights or statistics cannot be used."""
    for key, value in policy.state_dict().items():
        if not torch.isfinite(value).all():
            raise ModelFileError(f"{origin}: {key} holds numbers that are not finite")
    try:
        for normalizer in policy.normalizers():
            normalizer.check()
    except DatasetError as error:
        raise ModelFileError(f"{origin}: {error}") from error


def is_policy_file(path: Path) -> bool:
    """Whether a file is a policy's checkpoint; false for whatever else it is, an unreadable file included."""
    try:
        return read_metadata(path).get("format") == FORMAT
    except ModelFileError:
        return False


def read_metadata(path: Path) -> dict[str, str]:
    """The text inside a safetensors file. Raises ModelFileError when it is missing or damaged."""
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: is not a readable safetensors file: {error}") from error


def load_official_policy(
    name: str,
    state_dict: Mapping[str, Tensor],
    *,
    cameras: Sequence[str] = ("top",),
    image_hw: tuple[int, int] = (480, 640),
    fps: int = PUBLISHED_FPS,
    num_heads: int = PUBLISHED_HEADS,
) -> Act:
    """The published policy of that name with these weights, in eval mode; it takes and gives normalised numbers.

    `state_dict` is that of the authors' checkpoint, keys with or without a leading `model.`. The size of the network
    follows from the shapes of its tensors; what they do not tell (cameras, rate of actions, attention heads) is given.
    Raises UserError for an unknown name and ModelFileError with the keys that are missing, unexpected or misshapen.
    """
    if name not in POLICIES:
        raise UserError(f"{name!r} is not a known published policy; expected one of {', '.join(POLICIES)}")
    weights = ACT_KEYS.respell(state_dict)
    config = _config_of(weights, num_heads)
    signature = PolicySignature(
        state_names=_numbered("state", _shape(weights, "input_proj_robot_state.weight")[1]),
        cameras=tuple(cameras),
        image_hw=image_hw,
        action_names=_numbered("action", _shape(weights, "action_head.weight")[0]),
        fps=fps,
    )
    act = Act(config, signature)
    act.load_state_dict(ACT_KEYS.to_ours(state_dict, act.state_dict(), origin=name), strict=False)
    return act.eval()


def _config_of(weights: Mapping[str, Tensor], num_heads: int) -> ActConfig:
    chunk_size, hidden_dim = _shape(weights, "query_embed.weight")
    sizes: dict[str, Any] = {
        "chunk_size": chunk_size,
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "feed_forward_dim": _shape(weights, "transformer.encoder.layers.0.linear1.weight")[0],
        "num_encoder_layers": _num_layers(weights, "transformer.encoder"),
        "num_decoder_layers": _num_layers(weights, "transformer.decoder"),
        "num_latent_layers": _num_layers(weights, "encoder"),
        "latent_dim": _shape(weights, "latent_out_proj.weight")[1],
    }
    return ActConfig(**sizes, decoder_output="first", tells_cameras_apart=False, predicts_padding=True)


def _shape(weights: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    """Rows and columns of a matrix. Raises ModelFileError where there is no such matrix."""
    if key not in weights or weights[key].ndim != 2:
        raise ModelFileError(f"act: the weights are not those of ACT: no matrix {key!r} among {len(weights)} tensors")
    rows, columns = weights[key].shape
    return rows, columns


def _num_layers(weights: Mapping[str, Tensor], part: str) -> int:
    """How many layers of a part there are, counted by their indices; at least 1, so that a missing one is reported."""
    pattern = re.compile(re.escape(part) + r"\.layers\.(\d+)\.")
    return 1 + max((int(found[1]) for key in weights if (found := pattern.match(key))), default=0)


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}_{index}" for index in range(count))


ACT_KEYS = KeyMap(
    renames=(
        *plain_renames("backbones.0.0.body."),
        *LAYER_RENAMES,
        (r"^project_image\.", "input_proj."),
        (r"^embed_state\.", "input_proj_robot_state."),
        (r"^embed_latent\.", "latent_out_proj."),
        (r"^token_positions\.", "additional_pos_embed."),
        (r"^queries\.", "query_embed."),
        (r"^predict_action\.", "action_head."),
        (r"^predict_padding\.", "is_pad_head."),
        (r"^(encoder|decoder)\.(\d+)\.", r"transformer.\1.layers.\2."),
        (r"^decoder_norm\.", "transformer.decoder.norm."),
        (r"^latent_encoder\.summary\.", "cls_embed."),
        (r"^latent_encoder\.embed_state\.", "encoder_joint_proj."),
        (r"^latent_encoder\.embed_action\.", "encoder_action_proj."),
        (r"^latent_encoder\.predict_posterior\.", "latent_proj."),
        (r"^latent_encoder\.layers\.", "encoder.layers."),
    ),
    ignored=("pos_table",),
    respelt=((r"^model\.", ""),),
)
"""Keys of the authors' weights (github.com/tonyzhaozh/act), which start with `model.`."""

LEROBOT_KEYS = KeyMap(
    renames=(
        *plain_renames("model.backbone."),
        *LAYER_RENAMES,
        (r"^project_image\.", "model.encoder_img_feat_input_proj."),
        (r"^embed_state\.", "model.encoder_robot_state_input_proj."),
        (r"^embed_environment\.", "model.encoder_env_state_input_proj."),
        (r"^embed_latent\.", "model.encoder_latent_input_proj."),
        (r"^token_positions\.", "model.encoder_1d_feature_pos_embed."),
        (r"^queries\.", "model.decoder_pos_embed."),
        (r"^predict_action\.", "model.action_head."),
        (r"^(encoder|decoder)\.(\d+)\.", r"model.\1.layers.\2."),
        (r"^decoder_norm\.", "model.decoder.norm."),
        (r"^latent_encoder\.summary\.", "model.vae_encoder_cls_embed."),
        (r"^latent_encoder\.embed_state\.", "model.vae_encoder_robot_state_input_proj."),
        (r"^latent_encoder\.embed_action\.", "model.vae_encoder_action_input_proj."),
        (r"^latent_encoder\.predict_posterior\.", "model.vae_encoder_latent_output_proj."),
        (r"^latent_encoder\.layers\.", "model.vae_encoder.layers."),
    ),
    ignored=(r"model\.vae_encoder_pos_enc",),
)
"""Keys of LeRobot's weights (github.com/huggingface/lerobot); before its version 0.4 the files also hold the
normalisation, which is read separately."""

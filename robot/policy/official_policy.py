"""Published ACT weights read into our network: its size follows from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from robot.learning.act import Act, ActConfig
from robot.policy.act_names import ACT_KEYS
from robot.policy.policy_manifest import PolicySignature
from vision.errors import ModelFileError, UserError

PUBLISHED_HEADS = 8
PUBLISHED_FPS = 50
POLICIES = ("act",)


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

    `state_dict` is that of the authors' checkpoint, keys with or without `model.` in front. What its tensors do not
    tell (the cameras, the rate of the actions, the attention heads) is given. Raises UserError for an unknown name
    and ModelFileError with the list of keys that are missing, unexpected or misshapen.
    """
    if name not in POLICIES:
        raise UserError(f"{name!r} is not a published policy known here; expected one of {', '.join(POLICIES)}")
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
    """How many layers of a part there are, counted by their numbers; 1 at least, so that the lack of it is told."""
    pattern = re.compile(re.escape(part) + r"\.layers\.(\d+)\.")
    return 1 + max((int(found[1]) for key in weights if (found := pattern.match(key))), default=0)


def _numbered(word: str, count: int) -> tuple[str, ...]:
    return tuple(f"{word}_{index}" for index in range(count))

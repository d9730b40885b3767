"""A policy in one safetensors file: weights, statistics and, in the metadata, configuration and signature as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from robot.learning.act_policy import ActPolicy, ActPolicyConfig
from robot.policy.policy_manifest import PolicySignature
from vision.checkpoints.native import require_fit
from vision.errors import ConfigError, DatasetError, ModelFileError
from vision.files import replacing

FORMAT = "handeye-policy-1"


def save_policy(path: Path, policy: ActPolicy, extra: Mapping[str, str] | None = None) -> None:
    """Write the policy, whole or not at all; `extra` joins the metadata. Raises OSError when it cannot be written."""
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

    Raises ModelFileError when the file is missing, damaged, no policy of ours, does not fit its own configuration or
    holds numbers that no training leaves behind.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: is no policy of handeye (format {metadata.get('format')!r}, expected {FORMAT!r})"
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

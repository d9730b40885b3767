"""Our own checkpoints: one safetensors file that holds the weights and, in its metadata, the DetectorConfig as JSON.

A checkpoint needs nothing beside it: the configuration has the class names and the preprocessing. safetensors
holds numbers and text only, so reading an untrusted file cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError, ModelFileError
from handeye.vision.files import replacing

FORMAT = "handeye-detector-1"
"""Value of the metadata key `format`, which identifies our files."""
RESERVED_KEYS = ("format", "config")
RANGES_KEY = "activation_ranges"
"""Metadata key of the activation ranges that quantization-aware training learnt for the inputs of convolutions."""
KEYS_SHOWN = 8
"""How many keys of each kind an error message lists."""


def save_detector(path: Path, detector: Detector, extra: Mapping[str, str] | None = None) -> None:
    """Write weights and configuration, whole or not at all; `extra` joins the metadata (where it came from, scores).

    Raises ValueError when `extra` has a key that the file needs itself, OSError when the file cannot be written.
    """
    extra = dict(extra or {})
    if taken := [key for key in RESERVED_KEYS if key in extra]:
        raise ValueError(f"the metadata keys {', '.join(taken)} are taken by the checkpoint itself")
    metadata = {**extra, "format": FORMAT, "config": detector.config.model_dump_json()}
    # Contiguous copies on the CPU: safetensors rejects strided tensors, such as channels_last weights.
    weights = {
        key: value.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        for key, value in detector.state_dict().items()
    }
    with replacing(Path(path)) as beside:
        try:
            save_file(weights, beside, metadata)
        except SafetensorError as error:  # of a full disk too
            raise OSError(f"{path}: {error}") from error


def load_detector(path: Path) -> Detector:
    """Read a checkpoint into a detector in eval mode on the CPU.

    Raises ModelFileError when the file is missing, damaged, no checkpoint of ours, or its weights do not fit its
    configuration.
    """
    weights, metadata = _read(Path(path))
    detector = Detector(_config_in(metadata, path))
    require_fit(detector.state_dict(), weights, origin=str(path))
    detector.load_state_dict(weights, strict=False)  # strict where it matters, see require_fit
    return detector.eval()


def start_from(detector: nn.Module, path: Path) -> list[str]:
    """Copy every weight of a checkpoint that has the same name and shape in `detector`; return the keys left fresh.

    This begins fine-tuning: a head for other classes starts anew, everything below it does not. Raises ModelFileError
    as `load_detector`, and when nothing at all fits.
    """
    weights, _ = _read(Path(path))
    own = detector.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise ModelFileError(f"{path}: none of its weights fits the detector to be initialized")
    detector.load_state_dict(fitting, strict=False)
    return [key for key in own if key not in fitting and not is_batch_counter(key)]


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a checkpoint, `extra` of its saving included. Raises ModelFileError as `load_detector`."""
    return _read(Path(path), with_weights=False)[1]


def load_config_of(path: Path) -> DetectorConfig:
    """The configuration inside a checkpoint. Raises ModelFileError as `load_detector`."""
    return _config_in(load_metadata(path), path)


def load_activation_ranges(path: Path) -> dict[str, float]:
    """By the name of a convolution, the largest absolute input that training with int8 let pass (amax).

    The input was rounded to scale = amax / 127, symmetric, the kernel to max |w| / 127 for each output channel. Empty
    for a checkpoint that was not trained so. Raises ModelFileError as `load_detector`.
    """
    text = load_metadata(path).get(RANGES_KEY)
    if text is None:
        return {}
    try:
        return {str(name): float(amax) for name, amax in json.loads(text).items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: {RANGES_KEY} in its metadata is not a mapping of names to numbers: {error}"
        ) from error


def require_fit(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], origin: str) -> None:
    """Raise ModelFileError, listing the keys, unless `weights` has every key of `expected` in its shape and no other.

    Batch counters (`num_batches_tracked`) may be present or absent: no result depends on them.
    """
    faults = {
        "missing": [key for key in expected if key not in weights and not is_batch_counter(key)],
        "unexpected": [key for key in weights if key not in expected and not is_batch_counter(key)],
        "misshapen": [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in weights and weights[key].shape != value.shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_shorten(keys)}" for kind, keys in faults.items() if keys)
        raise ModelFileError(f"{origin}: the weights do not fit the network; {listed}")


def is_batch_counter(key: str) -> bool:
    """Whether a key names torch's count of batches seen, which no result depends on."""
    return key.endswith("num_batches_tracked")


def _read(path: Path, *, with_weights: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            weights = {key: file.get_tensor(key) for key in file.keys()} if with_weights else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ModelFileError(
            f"{path}: not a detector checkpoint of handeye (format {metadata.get('format')!r}, expected {FORMAT!r}); "
            "convert published weights with `handeye import`"
        )
    return weights, metadata


def _config_in(metadata: Mapping[str, str], path: Path) -> DetectorConfig:
    try:
        content = json.loads(metadata.get("config", "null"))
        if not isinstance(content, dict):
            raise ConfigError(f"expected a mapping, got {content!r}")
        return validate_config(DetectorConfig, content, origin="config")
    except (json.JSONDecodeError, ConfigError) as error:
        raise ModelFileError(f"{path}: invalid configuration in its metadata: {error}") from error


def _shorten(keys: Sequence[str]) -> str:
    rest = len(keys) - KEYS_SHOWN
    return ", ".join(keys[:KEYS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")

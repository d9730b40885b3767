"""Load published weights in their authors' naming into our networks, and convert them back.

The naming of each family is in its key maps, see `key_map.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from handeye.vision.backbones.build import Classifier, build_classifier
from handeye.vision.checkpoints.detr import DETR_KEY_MAPS
from handeye.vision.checkpoints.dfine import DFINE_KEY_MAPS
from handeye.vision.checkpoints.key_map import KeyMap, best_key_map
from handeye.vision.checkpoints.rtdetr import RTDETR_KEYS, RTDETRV2_KEYS, TRANSFORMERS_RTDETR_KEYS
from handeye.vision.checkpoints.torchvision_backbones import published_backbones
from handeye.vision.checkpoints.yolox import YOLOX_KEYS
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.heads.detr import DetrHeadConfig
from handeye.vision.heads.dfine import DfineHeadConfig
from handeye.vision.heads.rtdetr import RtdetrHeadConfig
from handeye.vision.heads.yolox import YoloxHeadConfig


def official_names() -> list[str]:
    """The names of the published detectors that can be loaded."""
    return list(published_models())


def load_official(name: str, state_dict: Mapping[str, Tensor], class_names: tuple[str, ...] | None = None) -> Detector:
    """The published detector of that name with these weights, in eval mode.

    The keys may be those of any naming of its family: of its authors, and where there is one of transformers.
    class_names replace COCO's for weights that the published code trained on other data. Raises UserError for an
    unknown name and ModelFileError with the list of keys that are missing, unexpected or misshapen.
    """
    detector = Detector(_config_of(name, class_names))
    own = detector.state_dict()
    key_map = best_key_map(key_maps_of(detector.config), state_dict, own)
    detector.load_state_dict(key_map.to_ours(state_dict, own, origin=name), strict=False)
    return detector.eval()


def load_official_backbone(name: str, state_dict: Mapping[str, Tensor]) -> Classifier:
    """The classifier of that name with torchvision's weights, in eval mode; detectors start from its `backbone`.

    Raises UserError for an unknown name and ModelFileError as `load_official`.
    """
    known = published_backbones()
    if name not in known:
        raise UserError(f"{name!r} is not a known published backbone; expected one of {', '.join(known)}")
    classifier = build_classifier(known[name].config)
    ours = known[name].key_map.to_ours(state_dict, classifier.state_dict(), origin=name)
    classifier.load_state_dict(ours, strict=False)
    return classifier.eval()


def official_state_dict(detector: Detector) -> dict[str, Tensor]:
    """The weights of a detector under their published names: what the published code loads."""
    return key_maps_of(detector.config)[0].to_published(detector.state_dict())


def key_maps_of(config: DetectorConfig) -> tuple[KeyMap, ...]:
    """The namings that published weights for such a detector come in; the first is that of its authors.

    Raises UserError for a head whose authors published no weights that fit here.
    """
    match config.head:
        case YoloxHeadConfig():
            return (YOLOX_KEYS,)
        case DetrHeadConfig():
            return DETR_KEY_MAPS
        case RtdetrHeadConfig(version=1):
            return RTDETR_KEYS, TRANSFORMERS_RTDETR_KEYS
        case RtdetrHeadConfig():
            return RTDETRV2_KEYS, TRANSFORMERS_RTDETR_KEYS
        case DfineHeadConfig():
            return DFINE_KEY_MAPS
        case _:
            raise UserError(f"no published naming is known for a detector with the head {config.head.kind!r}")


def read_published_file(path: Path) -> dict[str, Tensor]:
    """The weights inside a published checkpoint file (.pth, .pt or .safetensors).

    Published training files wrap them: the EMA where there is one, else `model`. Only tensors and plain
    containers are read (weights_only), so an untrusted file cannot run code. Raises ModelFileError.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to read the file unsafely; that is not our advice.
        raise ModelFileError(
            f"{path}: not a checkpoint, or it contains objects other than tensors; not read"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelFileError(f"{path}: cannot be read as a checkpoint of tensors: {reason}") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    for keys in (("ema", "module"), ("model",), ("state_dict",), ()):
        inner = content
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and inner and all(isinstance(value, Tensor) for value in inner.values()):
            return dict(inner)
    raise ModelFileError(f"{path}: contains no weights: expected a mapping of names to tensors, bare or under 'model'")


def _config_of(name: str, class_names: tuple[str, ...] | None) -> DetectorConfig:
    models = published_models()
    if name not in models:
        raise UserError(f"{name!r} is not a known published detector; expected one of {', '.join(models)}")
    config = models[name].config
    if class_names is None:
        return config
    content = {**config.model_dump(), "num_classes": len(class_names), "class_names": class_names}
    return validate_config(DetectorConfig, content, origin=f"{name} with other classes")

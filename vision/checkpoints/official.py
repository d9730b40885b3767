"""Published weights in the names of their authors: an exact map to our names, both ways.

YOLOX: github.com/Megvii-BaseDetection/YOLOX, which keeps the neck inside `backbone` and the backbone inside that.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vision.checkpoints.native import is_batch_counter, require_fit
from vision.checkpoints.zoo import published_models
from vision.detector import Detector, DetectorConfig
from vision.errors import ModelFileError, UserError


def official_names() -> list[str]:
    """The names of the published detectors that can be loaded."""
    return list(published_models())


def load_official(name: str, state_dict: Mapping[str, Tensor], class_names: tuple[str, ...] | None = None) -> Detector:
    """The published detector of that name with these weights, in eval mode.

    class_names replace COCO's for weights that the published code trained on other data. Raises UserError for an
    unknown name and ModelFileError with the list of keys that are missing, unexpected or misshapen.
    """
    detector = Detector(_config_of(name, class_names))
    own = detector.state_dict()
    ours = {official_key(key): key for key in own}
    weights = {key: value for key, value in state_dict.items() if not is_batch_counter(key)}
    require_fit({official: own[key] for official, key in ours.items()}, weights, origin=name)
    detector.load_state_dict({ours[official]: value for official, value in weights.items()}, strict=False)
    return detector.eval()


def official_state_dict(detector: Detector) -> dict[str, Tensor]:
    """The weights of a YOLOX detector under their published names: what the published code loads."""
    return {official_key(key): value for key, value in detector.state_dict().items()}


def official_key(key: str) -> str:
    """The published name of one of our keys."""
    for pattern, replacement in YOLOX_NAMES:
        key = re.sub(pattern, replacement, key)
    return key


YOLOX_NAMES = (
    (r"\.norm\.", ".bn."),
    (r"\.depthwise\.", ".dconv."),
    (r"\.pointwise\.", ".pconv."),
    (r"\.blocks\.(\d+)\.mix\.", r".m.\1.conv1."),
    (r"\.blocks\.(\d+)\.spatial\.", r".m.\1.conv2."),
    (r"^backbone\.stages\.3\.pooling\.reduce\.", "backbone.backbone.dark5.1.conv1."),
    (r"^backbone\.stages\.3\.pooling\.join\.", "backbone.backbone.dark5.1.conv2."),
    (r"\.main\.", ".conv1."),
    (r"\.bypass\.", ".conv2."),
    (r"\.join\.", ".conv3."),
    (r"^backbone\.stem\.", "backbone.backbone.stem."),
    (r"^backbone\.stages\.3\.block\.", "backbone.backbone.dark5.2."),
    (r"^backbone\.stages\.0\.", "backbone.backbone.dark2."),
    (r"^backbone\.stages\.1\.", "backbone.backbone.dark3."),
    (r"^backbone\.stages\.2\.", "backbone.backbone.dark4."),
    (r"^backbone\.stages\.3\.", "backbone.backbone.dark5."),
    (r"\.down\.", ".0."),
    (r"\.block\.", ".1."),
    (r"^neck\.reduce\.1\.", "backbone.lateral_conv0."),
    (r"^neck\.merge_down\.1\.", "backbone.C3_p4."),
    (r"^neck\.reduce\.0\.", "backbone.reduce_conv1."),
    (r"^neck\.merge_down\.0\.", "backbone.C3_p3."),
    (r"^neck\.shrink\.0\.", "backbone.bu_conv2."),
    (r"^neck\.merge_up\.0\.", "backbone.C3_n3."),
    (r"^neck\.shrink\.1\.", "backbone.bu_conv1."),
    (r"^neck\.merge_up\.1\.", "backbone.C3_n4."),
    (r"^head\.levels\.(\d+)\.stem\.", r"head.stems.\1."),
    (r"^head\.levels\.(\d+)\.class_branch\.", r"head.cls_convs.\1."),
    (r"^head\.levels\.(\d+)\.box_branch\.", r"head.reg_convs.\1."),
    (r"^head\.levels\.(\d+)\.predict_class\.", r"head.cls_preds.\1."),
    (r"^head\.levels\.(\d+)\.predict_box\.", r"head.reg_preds.\1."),
    (r"^head\.levels\.(\d+)\.predict_objectness\.", r"head.obj_preds.\1."),
)
"""Our names as patterns, and theirs; applied from top to bottom."""


def read_published_file(path: Path) -> dict[str, Tensor]:
    """The weights inside a published checkpoint file (.pth, .pt or .safetensors).

    Published training files wrap them: the moving average where there is one, else `model`. Only tensors and plain
    containers are read (weights_only), so a stranger's file cannot run code. Raises ModelFileError.
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
        raise ModelFileError(f"{path}: is no checkpoint, or holds objects other than tensors; not read") from error
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
    raise ModelFileError(f"{path}: holds no weights: expected a mapping of names to tensors, bare or under 'model'")


def _config_of(name: str, class_names: tuple[str, ...] | None) -> DetectorConfig:
    models = published_models()
    if name not in models:
        raise UserError(f"{name!r} is not a published detector known here; expected one of {', '.join(models)}")
    config = models[name].config
    if class_names is None:
        return config
    return DetectorConfig.model_validate(
        {**config.model_dump(), "num_classes": len(class_names), "class_names": class_names}
    )

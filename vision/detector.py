"""The object detector: backbone, neck and head in a row, from one configuration.

The type of the output is the same in training and inference; it does not depend on train or eval mode.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.vision.backbones.build import BackboneConfig, build_backbone
from handeye.vision.backbones.cspdarknet import CSPDarknetConfig
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.build import HeadConfig, build_head
from handeye.vision.heads.outputs import GridOutput, QueryOutput
from handeye.vision.heads.yolox import YoloxHeadConfig
from handeye.vision.images import Preprocessing
from handeye.vision.layers.widths import Widths, narrow
from handeye.vision.necks.build import NeckConfig, build_neck
from handeye.vision.necks.path_aggregation import PathAggregationConfig

DetectorOutput = GridOutput | QueryOutput
"""What a detector gives: heads over cells the first, heads of queries the second; both have `rows`."""

USUAL_MULTIPLE = 32
"""Sizes that it divides fit every detector whose coarsest stride is at most 32: nothing needs to be built to know."""


class DetectorConfig(Config):
    """Everything that makes a detector but its weights; stored in every checkpoint."""

    backbone: BackboneConfig = CSPDarknetConfig()
    neck: NeckConfig = PathAggregationConfig()
    head: HeadConfig = YoloxHeadConfig()
    num_classes: Annotated[int, Field(gt=0)]
    """Object classes, counted from 0; background is not one of them. May be left out when class_names are given."""
    class_names: tuple[str, ...]
    """One for each class, in order. May be left out: class_0, class_1, ..."""
    preprocessing: Preprocessing = Preprocessing()
    """How an image becomes the input; its size is the default, other multiples of the stride work too."""
    widths: Widths = {}
    """Of the layers that structured pruning made narrower than backbone, neck and head are by configuration."""

    @model_validator(mode="before")
    @classmethod
    def _complete_classes(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        names, num_classes = content.get("class_names"), content.get("num_classes")
        if names is None and isinstance(num_classes, int):
            return {**content, "class_names": tuple(f"class_{index}" for index in range(num_classes))}
        if num_classes is None and isinstance(names, list | tuple):
            return {**content, "num_classes": len(names)}
        return content

    @model_validator(mode="after")
    def _check_classes(self) -> DetectorConfig:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes} but class_names holds {len(self.class_names)} names")
        if len(set(self.class_names)) != self.num_classes:
            twice = [name for name, number in Counter(self.class_names).items() if number > 1]
            raise ValueError(f"class_names holds a name twice: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _check_size(self) -> DetectorConfig:
        has_fixed_size = self.preprocessing.resize != "shorter_side"
        if has_fixed_size and any(side % USUAL_MULTIPLE for side in self.preprocessing.size_hw):
            with torch.device("meta"):  # the shapes of all parts, without their numbers
                Detector(self)
        return self


class Detector(nn.Module):
    """images (B, 3, H, W), preprocessed by config.preprocessing -> DetectorOutput.

    H and W are multiples of `size_multiple`: of the coarsest stride unless all parts take any size, as DETR's do.
    With targets, the output of DETR-like heads also has what auxiliary losses need (`layers`, `encoder`, `denoising`).
    is_pad marks padding, for batches of images of different sizes.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.neck = build_neck(config.neck, self.backbone.channels, self.backbone.strides)
        self.head = build_head(config.head, self.neck.channels, self.neck.strides, config.num_classes)
        narrow(self, config.widths)
        self.size_multiple = _size_multiple((self.backbone, self.neck, self.head), self.backbone.strides[-1])
        require_multiple(config.preprocessing.size_hw, self.size_multiple, "preprocessing.size_hw")

    def forward(
        self,
        images: Float[Tensor, "B 3 H W"],
        targets: Sequence[BoxTargets] | None = None,
        is_pad: Bool[Tensor, "B H W"] | None = None,
    ) -> DetectorOutput:
        """Raises ConfigError for a height or width that `size_multiple` does not divide."""
        height, width = images.shape[-2:]
        require_multiple((height, width), self.size_multiple, "input")
        if is_pad is None and (height % self.backbone.strides[-1] or width % self.backbone.strides[-1]):
            # The features cover more than the input: only a mask tells the head how large the input is.
            is_pad = torch.zeros_like(images[:, 0], dtype=torch.bool)
        features = self.backbone(images)  # one (B, C, H/s, W/s) for each stride s
        pyramid = self.neck(features)  # one for each stride of the neck
        return self.head(pyramid, targets, is_pad)


def require_multiple(size_hw: tuple[Any, Any], multiple: int, what: str) -> None:
    """Raise ConfigError, with the next larger size that fits, unless `multiple` divides height and width.

    These are ints, or scalar tensors while a graph is traced.
    """
    if any(side % multiple for side in size_hw):
        height, width = (-(-side // multiple) * multiple for side in size_hw)
        raise ConfigError(
            f"{what}: expected a height and width that are multiples of {multiple}, got {size_hw[0]} x {size_hw[1]}; "
            f"{height} x {width} would do"
        )


def _size_multiple(parts: Sequence[nn.Module], coarsest: int) -> int:
    """What a height and width must be multiples of; a part that does not state its own needs the coarsest stride."""
    return math.lcm(*(getattr(part, "size_multiple", coarsest) for part in parts))

"""The whole detector on one screen: backbone, neck and head in a row.

One kind of output in training and in use; what a call gives never depends on the mode.
"""

from __future__ import annotations

from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vision.backbones.build import BackboneConfig, build_backbone
from vision.backbones.cspdarknet import CSPDarknetConfig
from vision.config import Config
from vision.heads.build import HeadConfig, build_head
from vision.heads.yolox import GridOutput, YoloxHeadConfig
from vision.images import Preprocessing
from vision.necks.build import NeckConfig, build_neck
from vision.necks.path_aggregation import PathAggregationConfig

DetectorOutput = GridOutput
"""What a detector gives; with heads that work by queries this becomes a union."""


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
    """How an image becomes the input; its size is what the detector is meant for, not the only one it takes."""

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
            raise ValueError("class_names holds a name twice")
        return self


class Detector(nn.Module):
    """images (B, 3, H, W), prepared as config.preprocessing says -> DetectorOutput; H and W multiples of 32."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.neck = build_neck(config.neck, self.backbone.channels)
        self.head = build_head(config.head, self.neck.channels, self.backbone.strides, config.num_classes)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> DetectorOutput:
        """Raises ValueError for a height or width that the coarsest stride does not divide."""
        coarsest = self.backbone.strides[-1]
        height, width = images.shape[-2:]
        if height % coarsest or width % coarsest:
            raise ValueError(f"expected a height and width that are multiples of {coarsest}, got {height} x {width}")
        features = self.backbone(images)  # one (B, C, H/s, W/s) for each stride s
        pyramid = self.neck(features)  # the same strides
        return self.head(pyramid)

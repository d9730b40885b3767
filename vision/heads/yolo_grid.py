"""The heads of YOLO v1 to v5: one dense head whose box parameterization depends on the version.

v1 arXiv:1506.02640, v2 arXiv:1612.08242, v3 arXiv:1804.02767, v4 arXiv:2004.10934; v5 has no paper, only its project.
A raw prediction t means, with the cell's corner c in cells and a prior size p:

version  centre in cells             size        objectness  classes
v1       c + t                       t^2 image   t           softmax, once for all boxes of a cell
v2       c + sigma(t)                e^t p       sigma(t)    softmax, for each anchor
v3       c + sigma(t)                e^t p       sigma(t)    sigma each: an object may be of several classes
v4       c + a sigma(t) - (a-1)/2    e^t p       sigma(t)    as v3; the border of a cell is reached by a finite t
v5       c + 2 sigma(t) - 1/2        (2 sigma(t))^2 p        as v3; sizes are bounded, neighbouring cells help
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import assert_never

from handeye.vision.boxes.anchors import grid_anchors
from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import Config
from handeye.vision.errors import ConfigError
from handeye.vision.heads.outputs import GridOutput
from handeye.vision.heads.yolox import PRIOR_PROBABILITY
from handeye.vision.layers.convolution import ConvNormAct

Version = Literal["v1", "v2", "v3", "v4", "v5"]
Size = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
AnchorLevels = tuple[Annotated[tuple[Size, ...], Field(min_length=1)], ...]

BOXES_PER_CELL = 2
"""Of the published v1."""
V3_ANCHORS: AnchorLevels = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
PUBLISHED_ANCHORS: dict[Version, AnchorLevels] = {
    "v1": (),
    # Published in cells of 32 pixels.
    "v2": (((18.327, 21.676), (59.983, 66.001), (106.83, 175.179), (252.25, 112.889), (312.657, 293.385)),),
    "v3": V3_ANCHORS,
    "v4": (
        ((12, 16), (19, 36), (40, 28)),
        ((36, 75), (76, 55), (72, 146)),
        ((142, 110), (192, 243), (459, 401)),
    ),
    "v5": V3_ANCHORS,
}
"""Clustered on COCO, in pixels of the network input: 416 for v2 and v3, 512 for v4, 640 for v5."""


class YoloGridHeadConfig(Config):
    """Which YOLO, and its boxes."""

    kind: Literal["yolo_grid"] = "yolo_grid"
    version: Version = "v3"
    """Which parameterisation of the boxes."""
    anchors: AnchorLevels = V3_ANCHORS
    """(width, height) in pixels of the network input, for each level of the pyramid, fine to coarse. May be left out:
    those that the version was published with. v1 has none."""
    boxes_per_cell: Annotated[int, Field(gt=0)] = BOXES_PER_CELL
    """v1 only: boxes of a cell. The other versions have one for each anchor."""
    hidden_dim: Annotated[int, Field(gt=0)] | None = None
    """Channels of a 3 x 3 convolution before the prediction, as v1 to v4 have one; null: none, as in v5."""

    @model_validator(mode="before")
    @classmethod
    def _publish_anchors(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("anchors") is not None:
            return content
        version = content.get("version", "v3")
        return {**content, "anchors": PUBLISHED_ANCHORS[version] if version in get_args(Version) else ()}

    @model_validator(mode="after")
    def _check_boxes(self) -> YoloGridHeadConfig:
        if self.version == "v1" and self.anchors:
            raise ValueError("v1 has no anchors; they came with v2")
        if self.version != "v1" and not self.anchors:
            raise ValueError(f"{self.version} needs anchors for each level")
        if self.version != "v1" and self.boxes_per_cell != BOXES_PER_CELL:
            raise ValueError(f"boxes_per_cell belongs to v1; {self.version} has one box for each anchor")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class YoloGridOutput(GridOutput):
    """A GridOutput with one row for each box: by level, then cell by cell, then box by box within a cell.

    prior_wh is the anchor, or the whole image in v1; centre_scales is the stretch `a` of the centre's sigmoid.
    """

    version: Version
    prior_wh: Float[Tensor, "cells 2"]
    centre_scales: Float[Tensor, "cells 1"]

    @property
    def boxes_cxcywh(self) -> Float[Tensor, "B cells 4"]:
        """Decoded boxes in pixels of the network input."""
        predictions = self.box_predictions.to(self.cell_xy.dtype)
        offsets = decode_centres(self.version, predictions[..., :2], self.centre_scales)
        sizes = decode_sizes(self.version, predictions[..., 2:]) * self.prior_wh
        return torch.cat(((offsets + self.cell_xy) * self.strides, sizes), dim=-1)

    @property
    def objectness(self) -> Float[Tensor, "B cells 1"]:
        """Probability of an object; v1 predicts it as it is and may leave [0, 1], where it is cut."""
        return self.objectness_logits.clamp(0, 1) if self.version == "v1" else self.objectness_logits.sigmoid()

    @property
    def class_probabilities(self) -> Float[Tensor, "B cells num_classes"]:
        """Of each class, given an object. v1's paper leaves them linear; a softmax makes probabilities of them."""
        return self.class_logits.softmax(dim=-1) if self.version in ("v1", "v2") else self.class_logits.sigmoid()

    def relative_to_rows(
        self, boxes_cxcywh: Float[Tensor, "P 4"], rows: Int64[Tensor, " P"]
    ) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P 2"]]:
        """Offset of each box from the corner of its row's cell, in cells, and its size over that of the row's prior."""
        return (
            boxes_cxcywh[:, :2] / self.strides[rows] - self.cell_xy[rows],
            boxes_cxcywh[:, 2:] / self.prior_wh[rows],
        )


def decode_centres(
    version: Version, raw: Float[Tensor, "*N 2"], scales: Float[Tensor, "... 1"]
) -> Float[Tensor, "*N 2"]:
    """Raw prediction -> offset of a centre from the corner of its cell, in cells."""
    if version == "v1":
        return raw
    return raw.sigmoid() * scales - (scales - 1) / 2


def encode_centres(
    version: Version, offsets: Float[Tensor, "*N 2"], scales: Float[Tensor, "... 1"]
) -> Float[Tensor, "*N 2"]:
    """Inverse of decode_centres; infinite or NaN for what no prediction reaches."""
    if version == "v1":
        return offsets
    return ((offsets + (scales - 1) / 2) / scales).logit()


def decode_sizes(version: Version, raw: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
    """Raw prediction -> factors on the prior's width and height."""
    match version:
        case "v1":
            return raw**2
        case "v2" | "v3" | "v4":
            return raw.exp()
        case "v5":
            return (2 * raw.sigmoid()) ** 2
        case _:
            assert_never(version)


def encode_sizes(version: Version, factors: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
    """Inverse of decode_sizes: of the two that v1 has, the positive one; v5 reaches factors below 4."""
    match version:
        case "v1":
            return factors.sqrt()
        case "v2" | "v3" | "v4":
            return factors.log()
        case "v5":
            return (factors.sqrt() / 2).logit()
        case _:
            assert_never(version)


def centre_scale(version: Version, stride: int) -> float:
    """Stretch of the centre's sigmoid at a stride: 1 does not stretch."""
    match version:
        case "v1" | "v2" | "v3":
            return 1.0
        case "v4":
            # The published 1.2, 1.1 and 1.05 at strides 8, 16 and 32: 0.8 pixels beyond each border of the cell.
            return 1 + 1.6 / stride
        case "v5":
            return 2.0
        case _:
            assert_never(version)


class YoloGridHead(nn.Module):
    """Pyramid -> YoloGridOutput. The published v1 ends in fully connected layers for one size of input and v2 adds a
    finer map to its coarse one; here all levels are convolutional and as the neck gives them."""

    def __init__(
        self, config: YoloGridHeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__()
        if config.version == "v1" and len(channels) != 1:
            raise ConfigError(f"head: v1 has one level, the neck gives {len(channels)}; take neck {{kind: levels}}")
        if config.version != "v1" and len(config.anchors) != len(channels):
            raise ConfigError(
                f"head.anchors: expected sizes for the {len(channels)} levels of the neck (strides {tuple(strides)}), "
                f"got them for {len(config.anchors)}"
            )
        self.version: Version = config.version
        self.strides = tuple(strides)
        self.boxes_per_cell = config.boxes_per_cell
        boxes = [config.boxes_per_cell] * len(channels) if config.version == "v1" else map(len, config.anchors)
        self.levels = nn.ModuleList(
            YoloGridLevel(config, width, num_boxes, num_classes)
            for width, num_boxes in zip(channels, boxes, strict=True)
        )
        for level, sizes in enumerate(config.anchors):
            # In the configuration already, so not in the checkpoint.
            self.register_buffer(f"anchors_{level}", torch.tensor(sizes), persistent=False)

    def forward(
        self,
        pyramid: Sequence[Tensor],
        targets: Sequence[BoxTargets] | None = None,  # noqa: ARG002 - not needed for dense predictions
        is_pad: Bool[Tensor, "B H W"] | None = None,  # noqa: ARG002 - padding is grey, as in the published networks
    ) -> YoloGridOutput:
        """One (B, channels[i], H / strides[i], W / strides[i]) for each level."""
        predictions = [level(features) for level, features in zip(self.levels, pyramid, strict=True)]
        boxes, objectness, classes = (torch.cat(parts, dim=1) for parts in zip(*predictions, strict=True))
        priors, strides, scales = zip(
            *(self._places(level, features) for level, features in enumerate(pyramid)), strict=True
        )
        prior_cxcywh, stride_of_row = torch.cat(priors), torch.cat(strides)
        return YoloGridOutput(
            box_predictions=boxes,
            objectness_logits=objectness,
            class_logits=classes,
            cell_xy=prior_cxcywh[:, :2] / stride_of_row - 0.5,
            strides=stride_of_row,
            version=self.version,
            prior_wh=prior_cxcywh[:, 2:],
            centre_scales=torch.cat(scales),
        )

    def _places(self, level: int, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Prior box, stride and stretch of every row of a level; at least single precision, for they count pixels."""
        height, width = (int(side) for side in features.shape[-2:])  # while tracing they are tensors otherwise
        stride = self.strides[level]
        dtype = torch.promote_types(features.dtype, torch.float32)
        if self.version == "v1":
            side = torch.full((self.boxes_per_cell, 1), stride, dtype=dtype, device=features.device)
            sizes = torch.cat((side * width, side * height), dim=1)
        else:
            sizes = self.get_buffer(f"anchors_{level}").to(dtype)
        priors = grid_anchors((height, width), stride, sizes)
        column = torch.ones_like(priors[:, :1])
        return priors, column * stride, column * centre_scale(self.version, stride)


class YoloGridLevel(nn.Module):
    """The predictions of one level: for each box four numbers, objectness and classes; in v1 classes for each cell."""

    def __init__(self, config: YoloGridHeadConfig, in_channels: int, num_boxes: int, num_classes: int) -> None:
        super().__init__()
        self.version, self.num_boxes, self.num_classes = config.version, num_boxes, num_classes
        hidden = config.hidden_dim
        self.refine = nn.Identity() if hidden is None else ConvNormAct(in_channels, hidden, 3, activation="leaky_relu")
        width = in_channels if hidden is None else hidden
        sets_of_classes = 1 if config.version == "v1" else num_boxes
        self.predict_box = nn.Conv2d(width, num_boxes * 4, 1)
        self.predict_objectness = nn.Conv2d(width, num_boxes, 1)
        self.predict_class = nn.Conv2d(width, sets_of_classes * num_classes, 1)
        self._start()

    def _start(self) -> None:
        """A fresh head has low objectness, and its boxes are the priors in the middle of their cells.

        v1 has no prior: half the image, since a size of zero overlaps nothing and gives objectness no gradient.
        """
        assert self.predict_box.bias is not None
        assert self.predict_objectness.bias is not None
        assert self.predict_class.bias is not None
        if self.version == "v1":
            nn.init.constant_(self.predict_box.bias, 0.5)
            return
        prior_logit = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        nn.init.zeros_(self.predict_box.bias)
        nn.init.constant_(self.predict_objectness.bias, prior_logit)
        if self.version != "v2":
            nn.init.constant_(self.predict_class.bias, prior_logit)

    def forward(
        self, features: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B rows 4"], Float[Tensor, "B rows 1"], Float[Tensor, "B rows num_classes"]]:
        """Box predictions, objectness and class logits of the H * W * boxes rows."""
        refined = self.refine(features)
        classes = _to_rows(self.predict_class(refined), self.num_classes)
        if self.version == "v1":
            classes = classes[:, :, None].expand(-1, -1, self.num_boxes, -1).flatten(1, 2)
        return _to_rows(self.predict_box(refined), 4), _to_rows(self.predict_objectness(refined), 1), classes


def _to_rows(map_: Float[Tensor, "B K_times_values H W"], num_values: int) -> Float[Tensor, "B rows values"]:
    """Cell by cell, row by row, and within a cell box by box."""
    return map_.permute(0, 2, 3, 1).reshape(map_.shape[0], -1, num_values)

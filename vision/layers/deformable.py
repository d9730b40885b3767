"""Multi-scale deformable attention (Zhu et al. 2020, arXiv:2010.04159, equation 3): sampled points, not all cells.

A query samples a few points around its box in every level. The default reads them by plain indexing, which every
engine computes alike; TensorRT 10.14 and 11.1 give wrong numbers for the same thing written with GridSample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import assert_never

Sampling = Literal["gather", "grid_sample"]
"""How values between cells are read; both give the same numbers."""
REACH = 0.5
"""An offset of as many points as a level has reaches this share of the box: from its centre to its edge."""


class SamplingPoints(NamedTuple):
    """Sampling locations as fractions of the input (x, y), and attention weights that sum to 1 in each head."""

    locations: Float[Tensor, "B Q heads points 2"]
    weights: Float[Tensor, "B Q heads points"]


class DeformableAttention(nn.Module):
    """Each head of each query samples points_per_level[l] points of level l around the query's box and weighs them.

    RT-DETR (Zhao et al. 2023, arXiv:2304.08069) has four points everywhere; RT-DETRv2 (Lv et al. 2024,
    arXiv:2407.17140) allows a number for each level. Without projections (D-FINE) the memory is read as it is.
    Raises ValueError when num_heads does not divide dim.
    """

    offset_scale: Float[Tensor, "points 1"]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        points_per_level: Sequence[int],
        *,
        with_projections: bool = True,
        sampling: Sampling = "gather",
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"expected a width that {num_heads} heads divide, got {dim}")
        self.num_heads, self.points_per_level = num_heads, tuple(points_per_level)
        self.sampling: Sampling = sampling
        num_points = sum(points_per_level)
        self.predict_offsets = nn.Linear(dim, num_heads * num_points * 2)
        self.predict_weights = nn.Linear(dim, num_heads * num_points)
        self.project_value = nn.Linear(dim, dim) if with_projections else nn.Identity()
        self.project_out = nn.Linear(dim, dim) if with_projections else nn.Identity()
        scale = torch.cat([torch.full((num, 1), REACH / num) for num in points_per_level])
        self.register_buffer("offset_scale", scale, persistent=False)
        self._start_weights()

    def forward(
        self,
        queries: Float[Tensor, "B Q dim"],
        boxes_cxcywh_norm: Float[Tensor, "B Q 4"],
        memory: Float[Tensor, "B N dim"],
        sizes_hw: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "B Q dim"]:
        """What each query finds. memory: the cells of all levels, each row by row; sizes_hw: rows and columns of each.

        queries carry their positions already. Raises ValueError when the levels are not those it was made for.
        """
        if len(sizes_hw) != len(self.points_per_level):
            raise ValueError(f"expected {len(self.points_per_level)} levels, got {len(sizes_hw)}")
        values = self.project_value(memory).unflatten(-1, (self.num_heads, -1))
        points = self.sampling_points(queries, boxes_cxcywh_norm)
        return self.project_out(read_points(values, sizes_hw, points, self.points_per_level, self.sampling))

    def sampling_points(
        self, queries: Float[Tensor, "B Q dim"], boxes_cxcywh_norm: Float[Tensor, "B Q 4"]
    ) -> SamplingPoints:
        """Locations and attention weights of each query, the points of the finest level first."""
        boxes = boxes_cxcywh_norm.to(torch.promote_types(boxes_cxcywh_norm.dtype, torch.float32))[:, :, None, None]
        offsets = self.predict_offsets(queries).unflatten(-1, (self.num_heads, -1, 2))
        weights = self.predict_weights(queries).unflatten(-1, (self.num_heads, -1)).softmax(dim=-1)
        return SamplingPoints(boxes[..., :2] + offsets * self.offset_scale * boxes[..., 2:], weights)

    def _start_weights(self) -> None:
        """As published: every head has its own direction, its points go outwards, all with the same weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack((angles.cos(), angles.sin()), dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.cat([torch.arange(1, num + 1) for num in self.points_per_level])
        for linear in (self.predict_offsets, self.predict_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.predict_offsets.bias.copy_((directions[:, None] * steps[:, None]).flatten())
        for projection in (self.project_value, self.project_out):
            if isinstance(projection, nn.Linear):
                nn.init.xavier_uniform_(projection.weight)
                nn.init.zeros_(projection.bias)


def read_points(
    values: Float[Tensor, "B N heads head_dim"],
    sizes_hw: Sequence[tuple[int, int]],
    points: SamplingPoints,
    points_per_level: Sequence[int],
    sampling: Sampling = "gather",
) -> Float[Tensor, "B Q dim"]:
    """The weighted sum of what each head reads at its points, bilinear between cells, zero outside of the image."""
    match sampling:
        case "gather":
            return _read_by_index(values, sizes_hw, points, points_per_level)
        case "grid_sample":
            return _read_by_grid(values, sizes_hw, points, points_per_level)
        case _:
            assert_never(sampling)


def attention_maps(points: SamplingPoints, size_hw: tuple[int, int]) -> Float[Tensor, "B Q h w"]:
    """Attention of each query on a map of that size: the weights of all its points, spread over the cells around them.

    A map sums to 1, less what lies outside of the image.
    """
    height, width = size_hw
    batch, num_queries, num_heads, num_points, _ = points.locations.shape
    cells, shares = _corners(points.locations, [size_hw], [num_points])
    maps = shares.new_zeros(batch, num_queries, height * width)
    spread = shares * points.weights[..., None].to(shares.dtype) / num_heads
    return maps.scatter_add_(2, cells.flatten(2), spread.flatten(2)).unflatten(2, (height, width))


def _read_by_index(
    values: Tensor, sizes_hw: Sequence[tuple[int, int]], points: SamplingPoints, points_per_level: Sequence[int]
) -> Tensor:
    """Every head of every cell is a row of one table: rows are looked up, weighted and added up."""
    batch, num_cells, num_heads, head_dim = values.shape
    cells, shares = _corners(points.locations, sizes_hw, points_per_level)
    device = values.device
    first_cell = torch.arange(batch, device=device).view(-1, 1, 1, 1, 1) * num_cells
    rows = (cells + first_cell) * num_heads + torch.arange(num_heads, device=device).view(1, 1, -1, 1, 1)
    weights = (shares * points.weights[..., None]).to(values.dtype).flatten(3)
    # embedding rather than indexing: the same lookup, with a gradient that is quick on every device.
    read = functional.embedding(rows.flatten(3), values.reshape(-1, head_dim))
    return (weights[..., None, :] @ read).flatten(2)


def _corners(
    locations: Float[Tensor, "B Q heads points 2"], sizes_hw: Sequence[tuple[int, int]], points_per_level: Sequence[int]
) -> tuple[Int64[Tensor, "B Q heads points 4"], Float[Tensor, "B Q heads points 4"]]:
    """The four cells around each point, and their shares in it: zero for cells outside of the image.

    Cells count through all levels. The centre of cell i is at (i + 0.5) / width, as with align_corners=False.
    """
    starts = [0, *accumulate(height * width for height, width in sizes_hw)]
    plan = [
        (width, height, start)
        for (height, width), start, num in zip(sizes_hw, starts, points_per_level, strict=False)
        for _ in range(num)
    ]
    sizes_wh = locations.new_tensor([(width, height) for width, height, _ in plan])
    # Beyond one cell outside nothing is read; the bound keeps wild points within the range of integers.
    places = (locations * sizes_wh - 0.5).clamp(min=-1).minimum(sizes_wh)
    low = places.floor()
    beyond = places - low
    cells = torch.stack((low, low + 1), dim=-1)  # (..., x or y, lower or upper)
    is_inside = (cells >= 0) & (cells < sizes_wh[..., None])
    shares = torch.stack((1 - beyond, beyond), dim=-1) * is_inside
    cells = cells.clamp(min=0).minimum(sizes_wh[..., None] - 1).long()
    widths, firsts = cells.new_tensor([(width, start) for width, _, start in plan]).unbind(dim=1)
    x, y = cells.unbind(dim=-2)
    index = (firsts[:, None] + y * widths[:, None])[..., :, None] + x[..., None, :]
    share_x, share_y = shares.unbind(dim=-2)
    return index.flatten(-2), (share_y[..., :, None] * share_x[..., None, :]).flatten(-2)


def _read_by_grid(
    values: Tensor, sizes_hw: Sequence[tuple[int, int]], points: SamplingPoints, points_per_level: Sequence[int]
) -> Tensor:
    """The same with torch's grid_sample, level by level."""
    batch, _, num_heads, head_dim = values.shape
    maps = values.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in sizes_hw], dim=-1)
    grids = (2 * points.locations - 1).transpose(1, 2).flatten(0, 1).to(values.dtype)
    read = torch.cat(
        [
            functional.grid_sample(map_.unflatten(-1, size_hw), grid, align_corners=False)
            for map_, size_hw, grid in zip(maps, sizes_hw, grids.split(list(points_per_level), dim=2), strict=True)
        ],
        dim=-1,
    )  # (B * heads, head_dim, Q, points)
    weights = points.weights.transpose(1, 2).flatten(0, 1)[:, None].to(values.dtype)
    return (read * weights).sum(dim=-1).view(batch, num_heads * head_dim, -1).transpose(1, 2)

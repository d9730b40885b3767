"""Boxes as distributions over their edges: fine-grained distribution refinement of D-FINE (Peng et al. 2024).

arXiv:2410.13842, section 4.1. Each edge has a probability for every bin of distances from the same edge of a reference
box. Bins are narrow around zero, for small corrections, and wide far out; the edge lies at the expected distance.
Distances come in the order left, top, right, bottom and in units of the reference box's width or height over `scale`.
The uniform bins of generalized focal loss (Li et al. 2020, arXiv:2006.04388), from which DFL takes its name, are the
ancestor; the loss for these bins is `localisation_loss` in `losses/dfine_loss.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from handeye.vision.boxes.formats import cxcywh_to_xyxy

TOP_PROBABILITIES = 4
"""How many of an edge's largest probabilities measure how sharp its distribution is."""
QUALITY_DIM = 64
"""Hidden width of the predictor of the localization quality."""


@dataclass(frozen=True, slots=True, eq=False)
class EdgeBins:
    """The distances that the bins stand for, ascending, and how many of their units make the size of a box."""

    values: Float[Tensor, " bins"]
    scale: Float[Tensor, ""]

    def expected_distances(self, edge_logits: Float[Tensor, "*N edges_bins"]) -> Float[Tensor, "*N 4"]:
        """The mean of the four distributions, whose logits stand edge after edge."""
        # Not a product of matrices: mixed precision would take it in half.
        return (split_edges(edge_logits).to(self.values.dtype).softmax(dim=-1) * self.values).sum(dim=-1)

    def decode(
        self, distances: Float[Tensor, "*N 4"], reference_cxcywh: Float[Tensor, "*N 4"]
    ) -> Float[Tensor, "*N 4"]:
        """The boxes (cx, cy, w, h) whose edges lie at these distances outside of the reference boxes' edges."""
        centre, size = reference_cxcywh[..., :2], reference_cxcywh[..., 2:]
        from_centre = (self.scale / 2 + distances) * torch.cat((size, size), dim=-1) / self.scale
        near, far = centre - from_centre[..., :2], centre + from_centre[..., 2:]
        return torch.cat(((near + far) / 2, far - near), dim=-1)

    def encode(
        self, boxes_cxcywh: Float[Tensor, "*N 4"], reference_cxcywh: Float[Tensor, "*N 4"]
    ) -> Float[Tensor, "*N 4"]:
        """The distances that decode to these boxes; finite also for a reference box without area."""
        size = reference_cxcywh[..., 2:].clamp(min=torch.finfo(reference_cxcywh.dtype).tiny ** 0.5)
        outwards = cxcywh_to_xyxy(boxes_cxcywh) - cxcywh_to_xyxy(reference_cxcywh)
        signs = outwards.new_tensor((-1, -1, 1, 1))
        return outwards * signs * self.scale / torch.cat((size, size), dim=-1)

    def soft_labels(self, distances: Float[Tensor, "*N"]) -> tuple[Int64[Tensor, "*N"], Float[Tensor, "*N"]]:
        """The bin below each distance, and the weight of the bin above it that makes their mean that distance.

        Distances outside of all bins are clamped to the outermost one.
        """
        above = torch.searchsorted(self.values, distances.contiguous(), right=True)
        below = (above - 1).clamp(0, len(self.values) - 2)
        low, high = self.values[below], self.values[below + 1]
        return below, ((distances - low) / (high - low)).clamp(0, 1)


class WeightingFunction(nn.Module):
    """The paper's W(n): the bins for the two numbers that shape them, which are kept with the weights.

    bound: how far the last but one bin reaches, as a fraction of the box (the paper's a); the last reaches twice as
    far. scale: the inverse of the curvature (the paper's 1 / c); the larger, the narrower are the bins around zero.
    """

    def __init__(self, num_bins: int, bound: float, scale: float) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.bound = nn.Parameter(torch.tensor([bound]), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor([scale]), requires_grad=False)

    def forward(self) -> EdgeBins:
        """The bins: 0 in the middle, to both sides W(n) / c = (a / c + 1)^(i / i_max) - 1 and one more at the ends."""
        reach, half = self.bound * self.scale, self.num_bins // 2 - 1
        steps = torch.arange(1, half + 1, device=reach.device, dtype=reach.dtype)
        # One side and its mirror image: of two sides a power computed in vectors may round each otherwise.
        outwards = torch.cat(((reach + 1) ** (steps / half) - 1, 2 * reach))
        return EdgeBins(torch.cat((-outwards.flip(0), torch.zeros_like(reach), outwards)), self.scale.squeeze(0))


class EdgePredictor(nn.Sequential):
    """Queries -> what is added to the logits of the four edges' bins; nothing at first."""

    def __init__(self, dim: int, num_bins: int) -> None:
        last = nn.Linear(dim, 4 * num_bins)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)


class LocalisationQuality(nn.Module):
    """Distributions of the edges -> what is added to all class logits: sharp edges make a box trustworthy.

    The idea is that of generalized focal loss v2 (Li et al. 2020, arXiv:2011.12885). Adds nothing at first.
    """

    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(QUALITY_DIM, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.judge = nn.Sequential(nn.Linear(4 * (TOP_PROBABILITIES + 1), QUALITY_DIM), nn.ReLU(), last)

    def forward(self, edge_logits: Float[Tensor, "B Q edges_bins"]) -> Float[Tensor, "B Q 1"]:
        """From the largest probabilities of each edge and their mean."""
        largest = split_edges(edge_logits).softmax(dim=-1).topk(TOP_PROBABILITIES, dim=-1).values
        return self.judge(torch.cat((largest, largest.mean(dim=-1, keepdim=True)), dim=-1).flatten(-2))


def split_edges(edge_logits: Float[Tensor, "*N edges_bins"]) -> Float[Tensor, "*N 4 bins"]:
    """One row of bins for each of the four edges."""
    return edge_logits.unflatten(-1, (4, -1))

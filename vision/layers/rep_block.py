"""RepVGG blocks (Ding et al. 2021, arXiv:2101.03697) as RT-DETR has them: two convolutions to train, one to run.

A 3 x 3 and a 1 x 1 convolution, each with a batch norm, are added; both being linear, one 3 x 3 convolution is their
sum. The paper's third branch, the input itself, is left out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vision.layers.convolution import TORCH_NORM, Activation, ConvNormAct, build_activation


class RepBlock(nn.Module):
    """activation(3 x 3 convolution + 1 x 1 convolution), each with its batch norm; keeps the size.

    Where the norms' statistics stand still (eval mode) the one convolution that is their sum is computed instead.
    """

    def __init__(self, in_channels: int, out_channels: int, *, activation: Activation = "silu") -> None:
        super().__init__()
        self.spatial = ConvNormAct(in_channels, out_channels, 3, activation="none", norm=TORCH_NORM)
        self.mix = ConvNormAct(in_channels, out_channels, 1, activation="none", norm=TORCH_NORM)
        self.activation = build_activation(activation)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        if self.training:
            return self.activation(self.spatial(features) + self.mix(features))
        kernel, bias = self.fused_kernel()  # costs next to nothing beside a convolution, and follows every weight
        return self.activation(functional.conv2d(features, kernel, bias, padding=1))

    def fused_kernel(self) -> tuple[Float[Tensor, "D C 3 3"], Float[Tensor, " D"]]:
        """Kernel and bias of the one 3 x 3 convolution that computes the same once the statistics stand still."""
        kernel, bias = _without_norm(self.spatial)
        small_kernel, small_bias = _without_norm(self.mix)
        return kernel + functional.pad(small_kernel, (1, 1, 1, 1)), bias + small_bias


class RepCrossStage(nn.Module):
    """RepVGG blocks beside a 1 x 1 convolution, both added up: the cross-stage block of RT-DETR's neck.

    expansion: width inside as a share of out_channels; where it is 1 no convolution follows the sum.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        *,
        expansion: float = 1.0,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)

        def mix(in_channels: int, out_channels: int) -> ConvNormAct:
            return ConvNormAct(in_channels, out_channels, 1, activation=activation, norm=TORCH_NORM)

        self.main = mix(in_channels, hidden)
        self.bypass = mix(in_channels, hidden)
        self.blocks = nn.Sequential(*(RepBlock(hidden, hidden, activation=activation) for _ in range(num_blocks)))
        self.join = nn.Identity() if hidden == out_channels else mix(hidden, out_channels)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.join(self.blocks(self.main(features)) + self.bypass(features))


def _without_norm(block: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with its batch norm moved into them; gradients flow through both."""
    conv, norm = block.conv, block.norm
    if isinstance(norm, nn.Identity):  # has been moved already
        return conv.weight, torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
    weight, bias, mean, variance = (getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var"))
    scale = weight * (variance + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], bias - mean * scale

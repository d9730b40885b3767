"""CSP blocks and their relatives: focus, SPP, RepVGG blocks, ELAN.

CSPDarknet as in YOLOX (Ge et al. 2021, arXiv:2107.08430): CSP by Wang et al. 2019 (arXiv:1911.11929), SPP by He et al.
2014 (arXiv:1406.4729). RT-DETR's neck: RepVGG blocks (Ding et al. 2021, arXiv:2101.03697), two branches in training,
one 3 x 3 convolution in use. D-FINE's neck: ELAN of YOLOv9 (Wang et al. 2024, arXiv:2402.13616) with RepVGG blocks,
and the decoupled downsampling of YOLOv10 (Wang et al. 2024, arXiv:2405.14458).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from handeye.vision.layers.convolution import TORCH_NORM, Activation, ConvNormAct, build_activation, spatial_convolution


class Focus(nn.Module):
    """Every 2 x 2 pixels become one with four times the channels, then a 3 x 3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(4 * in_channels, out_channels, 3)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """(B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        top_left, top_right = images[..., ::2, ::2], images[..., ::2, 1::2]
        bottom_left, bottom_right = images[..., 1::2, ::2], images[..., 1::2, 1::2]
        # Columns before rows: the order of the published weights.
        return self.conv(torch.cat((top_left, bottom_left, top_right, bottom_right), dim=1))


class Bottleneck(nn.Module):
    """A 1 x 1 and a 3 x 3 convolution of the same width, added to their input when there is a shortcut."""

    def __init__(self, channels: int, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, 1)
        self.spatial = spatial_convolution(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Keeps the shape; only pruning can make input and output of a block without shortcut differ in width."""
        refined = self.spatial(self.mix(features))
        return features + refined if self.shortcut else refined


class CrossStagePartial(nn.Module):
    """Half of the channels pass through bottlenecks, half go past them, a 1 x 1 convolution joins both."""

    def __init__(
        self, in_channels: int, out_channels: int, num_blocks: int, *, shortcut: bool, depthwise: bool
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.main = ConvNormAct(in_channels, hidden, 1)
        self.bypass = ConvNormAct(in_channels, hidden, 1)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, shortcut=shortcut, depthwise=depthwise) for _ in range(num_blocks))
        )
        self.join = ConvNormAct(2 * hidden, out_channels, 1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        refined = self.blocks(self.main(features))
        return self.join(torch.cat((refined, self.bypass(features)), dim=1))


class SpatialPyramidPooling(nn.Module):
    """Max-pooling at several sizes beside the input, joined by a 1 x 1 convolution: a wide view for few operations."""

    def __init__(self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvNormAct(in_channels, hidden, 1)
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in kernel_sizes)
        self.join = ConvNormAct(hidden * (1 + len(kernel_sizes)), out_channels, 1)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        reduced = self.reduce(features)
        return self.join(torch.cat((reduced, *(pool(reduced) for pool in self.pools)), dim=1))


class RepBlock(nn.Module):
    """activation(3 x 3 convolution + 1 x 1 convolution), each with its batch norm; keeps the size.

    In eval mode the one 3 x 3 convolution that equals their sum is computed instead. The paper's third branch, the
    identity, is left out.
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
        """Kernel and bias of the one 3 x 3 convolution that is equivalent in eval mode."""
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


class RepElan(nn.Module):
    """One half of the channels goes through two stages in a row; both halves and both stages are joined."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.split = ConvNormAct(in_channels, in_channels, 1, norm=TORCH_NORM)
        self.stages = nn.ModuleList(
            ElanStage(width, hidden_channels, num_blocks) for width in (in_channels // 2, hidden_channels)
        )
        self.join = ConvNormAct(in_channels + 2 * hidden_channels, out_channels, 1, norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W); in_channels must be even."""
        paths = list(self.split(features).chunk(2, dim=1))
        for stage in self.stages:
            paths.append(stage(paths[-1]))
        return self.join(torch.cat(paths, dim=1))


class ElanStage(nn.Module):
    """A cross-stage block of RepVGG blocks, then a 3 x 3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.block = RepCrossStage(in_channels, out_channels, num_blocks)
        self.spatial = ConvNormAct(out_channels, out_channels, 3, norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.spatial(self.block(features))


class DecoupledShrink(nn.Module):
    """Across channels first, then half the resolution of each channel by itself; no activation in between or after."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = ConvNormAct(channels, channels, 1, activation="none", norm=TORCH_NORM)
        self.spatial = ConvNormAct(channels, channels, 3, stride=2, groups=channels, activation="none", norm=TORCH_NORM)

    def forward(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """(B, channels, H, W) -> (B, channels, ceil(H / 2), ceil(W / 2))."""
        return self.spatial(self.mix(features))


def scaled_depth(num_blocks: int, depth: float) -> int:
    """The number of blocks at a depth factor: rounded, at least one."""
    return max(round(num_blocks * depth), 1)


def _without_norm(block: ConvNormAct) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with its batch norm moved into them; gradients flow through both."""
    conv, norm = block.conv, block.norm
    if isinstance(norm, nn.Identity):  # has been moved already
        return conv.weight, torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
    weight, bias, mean, variance = (getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var"))
    scale = weight * (variance + norm.eps).rsqrt()
    return conv.weight * scale[:, None, None, None], bias - mean * scale

"""Rebuild a pruned network: narrow its convolutions and batch norms to the channels that pruning left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from handeye.vision.errors import ConfigError

Width = Annotated[int, Field(gt=0)]
Widths = dict[str, tuple[Width, ...]]
"""By the module's name: (in, out) channels of a convolution, (channels,) of a batch norm."""


def narrow(network: nn.Module, widths: Mapping[str, tuple[int, ...]]) -> None:
    """Give the named modules their widths; they keep the first of their channels, until weights are loaded.

    A depthwise convolution stays one. Raises ConfigError for a name that is no convolution or batch norm of the
    network, and for a width larger than it has.
    """
    modules = dict(network.named_modules())
    for name, width in widths.items():
        match modules.get(name):
            case nn.Conv2d() as conv if len(width) == 2:
                _narrow_convolution(name, conv, *width)
            case nn.BatchNorm2d() as norm if len(width) == 1:
                _narrow_norm(name, norm, width[0])
            case _:
                raise ConfigError(
                    f"widths.{name}: got {list(width)}, expected the name of a convolution with [in, out] channels "
                    "or of a batch norm with [channels]"
                )


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether every channel is convolved by itself."""
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1


def _narrow_convolution(name: str, conv: nn.Conv2d, in_channels: int, out_channels: int) -> None:
    if is_depthwise(conv):
        _require(name, in_channels == out_channels <= conv.out_channels, f"at most {conv.out_channels}, in = out")
        conv.groups, rows_in = out_channels, 1
    else:
        fits = in_channels <= conv.in_channels and out_channels <= conv.out_channels
        unchanged = (in_channels, out_channels) == (conv.in_channels, conv.out_channels)
        _require(
            name,
            fits and (conv.groups == 1 or unchanged),
            f"at most {[conv.in_channels, conv.out_channels]}, ungrouped",
        )
        rows_in = in_channels if conv.groups == 1 else conv.weight.shape[1]
    conv.in_channels, conv.out_channels = in_channels, out_channels
    conv.weight = _first(conv.weight, (out_channels, rows_in))
    if conv.bias is not None:
        conv.bias = _first(conv.bias, (out_channels,))


def _narrow_norm(name: str, norm: nn.BatchNorm2d, channels: int) -> None:
    _require(name, channels <= norm.num_features, f"at most {norm.num_features}")
    norm.num_features = channels
    norm.weight, norm.bias = _first(norm.weight, (channels,)), _first(norm.bias, (channels,))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean, norm.running_var = norm.running_mean[:channels].clone(), norm.running_var[:channels].clone()


def _first(parameter: Tensor, sizes: tuple[int, ...]) -> nn.Parameter:
    chosen = parameter.detach()[tuple(slice(size) for size in sizes)]
    return nn.Parameter(chosen.clone(memory_format=torch.preserve_format), requires_grad=parameter.requires_grad)


def _require(name: str, holds: bool, expected: str) -> None:  # noqa: FBT001 - the condition itself
    if not holds:
        raise ConfigError(f"widths.{name}: expected {expected}")

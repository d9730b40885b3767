"""Quantization-aware training (QAT): convolutions with inputs and kernels rounded to int8, straight-through gradients.

Jacob et al. 2018 (arXiv:1712.05877), in the symmetric form that edge engines use: int8 in [-127, 127], one scale for
an input, one for each output channel of a kernel. Bengio et al. 2013 (arXiv:1308.3432): straight-through gradients.
"""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from handeye.vision.config import Config
from handeye.vision.detector import Detector
from handeye.vision.errors import ConfigError
from handeye.vision.layers.csp_blocks import RepBlock
from handeye.vision.training.channel_graph import channel_graph
from handeye.vision.training.optimizer import is_below

LEVELS = 127
"""Integers on either side of 0; -128 stays unused, so that a scale serves both signs."""
RANGE_KEY = "input_amax"
"""Buffer in which a quantized convolution keeps its range."""


class QuantizationAwareConfig(Config):
    """Which convolutions are quantized. Start from trained weights (start_from), at a tenth of their learning rate."""

    float_parts: tuple[str, ...] | None = None
    """Names of modules that stay in floating point, with all below them. null: the first and last convolutions, which
    lose most and which export keeps in float too: those that read the image and those that none reads."""
    range_momentum: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Weight of a batch's largest input in the running average that becomes the range."""


class QuantizedConv2d(nn.Conv2d):
    """A convolution with rounded inputs and kernel. Its weights have the names of the one that it replaces.

    A batch norm behind it multiplies each output channel by one number, so the kernel rounds to the same integers
    before it is folded as after.
    """

    input_amax: Tensor
    """Largest absolute input that does not clip: a running average over batches in train mode; 0 before the first."""
    range_momentum: float

    @classmethod
    def of(cls, conv: nn.Conv2d, momentum: float) -> QuantizedConv2d:
        """The same convolution, its parameters shared."""
        quantized = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # pyright: ignore[reportArgumentType] - torch declares its own field as any tuple
            conv.stride,  # pyright: ignore[reportArgumentType]
            conv.padding,  # pyright: ignore[reportArgumentType]
            conv.dilation,  # pyright: ignore[reportArgumentType]
            conv.groups,
            bias=conv.bias is not None,
            device="meta",
        )
        quantized.weight, quantized.bias = conv.weight, conv.bias
        quantized.register_buffer(RANGE_KEY, torch.zeros((), device=conv.weight.device))
        quantized.range_momentum = momentum
        return quantized.train(conv.training)

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:  # noqa: A002 - torch's name
        """(B, in_channels, H, W) -> (B, out_channels, h, w), in floating point."""
        if self.training:
            self._observe(input)
        rounded = round_symmetric(input, self.input_amax)
        kernel = round_symmetric(self.weight, self.weight.detach().abs().amax(dim=(1, 2, 3), keepdim=True))
        return self._conv_forward(rounded, kernel, self.bias)

    @torch.no_grad()
    def _observe(self, values: Tensor) -> None:
        largest = values.abs().amax().float()
        step = torch.where(self.input_amax > 0, self.range_momentum, 1.0)
        self.input_amax += step * (largest - self.input_amax)


def round_symmetric(values: Float[Tensor, "*shape"], amax: Float[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """The nearest of the 255 values k amax / 127, |k| <= 127; its gradient is 1 within [-amax, amax] and 0 outside.

    An amax of 0 gives 0. Computed in single precision, returned in the precision of `values`.
    """
    scale = amax.float() / LEVELS
    steps = (values.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).clamp(-LEVELS, LEVELS)
    return ((steps + (steps.round() - steps).detach()) * scale).to(values.dtype)


def quantize(detector: Detector, config: QuantizationAwareConfig) -> None:
    """Replace every convolution of `detector` that does not stay float.

    The two branches of a RepVGG block stay float: inference uses their sum, which is neither of them rounded. Raises
    ConfigError for a part that does not exist and when nothing is left to quantize.
    """
    float_parts = first_and_last(detector) if config.float_parts is None else config.float_parts
    for part in float_parts:
        if not any(is_below(name, part) for name, _ in detector.named_modules()):
            raise ConfigError(f"quantization_aware.float_parts: the detector has nothing named {part!r}")
    spared = [*float_parts, *(name for name, part in detector.named_modules() if isinstance(part, RepBlock))]
    chosen = [
        name
        for name, part in detector.named_modules()
        if type(part) is nn.Conv2d and not any(is_below(name, spare) for spare in spared)
    ]
    if not chosen:
        raise ConfigError("quantization_aware: float_parts leave no convolution to quantize")
    for name in chosen:
        replace_module(detector, name, QuantizedConv2d.of(_convolution(detector, name), config.range_momentum))


def first_and_last(detector: Detector) -> tuple[str, ...]:
    """The convolutions that read no other convolution's channels, such as the image, or are read by none."""
    convolutions = channel_graph(detector).convolutions
    # A depthwise convolution passes its channels on; what mixes them reads them.
    readers = (conv for conv in convolutions.values() if not conv.is_depthwise)
    read = {int(channel) for conv in readers if conv.in_channels is not None for channel in conv.in_channels}
    return tuple(
        name
        for name, conv in convolutions.items()
        if conv.in_channels is None or read.isdisjoint(conv.out_channels.tolist())
    )


def activation_ranges(detector: Detector) -> dict[str, float]:
    """amax of the input of every quantized convolution, by the convolution's name; empty without any."""
    return {
        name: float(part.input_amax) for name, part in detector.named_modules() if isinstance(part, QuantizedConv2d)
    }


def without_quantization(detector: Detector) -> Detector:
    """The float detector with the same weights: what is saved. The detector itself where nothing is quantized."""
    if not activation_ranges(detector):
        return detector
    plain = Detector(detector.config)
    weights = {key: value for key, value in detector.state_dict().items() if not key.endswith(f".{RANGE_KEY}")}
    plain.load_state_dict(weights)
    return plain.train(detector.training)


def replace_module(parent: nn.Module, name: str, replacement: nn.Module) -> None:
    """Replace the module of that name."""
    path, _, last = name.rpartition(".")
    setattr(parent.get_submodule(path), last, replacement)


def _convolution(detector: Detector, name: str) -> nn.Conv2d:
    part = detector.get_submodule(name)
    assert isinstance(part, nn.Conv2d)
    return part

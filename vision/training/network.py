"""From a configuration to the network that is trained: fresh or given weights, pruned, rounded; and back to what is
shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from rich.console import Console
from typing_extensions import assert_never

from handeye.vision.checkpoints.native import RANGES_KEY, load_config_of, save_detector, start_from
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.pruning import (
    ChannelPruningConfig,
    MagnitudePruningConfig,
    WeightMasks,
    magnitude_masks,
    prune_channels,
)
from handeye.vision.training.quantization_aware import (
    QuantizationAwareConfig,
    activation_ranges,
    quantize,
    without_quantization,
)

PruningConfig = Annotated[ChannelPruningConfig | MagnitudePruningConfig, Field(discriminator="kind")]
"""Which weights leave before the training begins, told apart by `kind`."""
ENOUGH_TRAINED = 0.75
"""Part of a detector's weights that must come from the file it starts from where they are judged: a head for other
classes may be new."""


def begin_network(
    config: DetectorConfig,
    start: Path | None,
    pruning: PruningConfig | None,
    quantization_aware: QuantizationAwareConfig | None,
    console: Console,
) -> tuple[Detector, WeightMasks | None]:
    """The detector to train and the masks that keep its pruned weights at zero, if it has such.

    A pure function of the configuration and the file it starts from, so a resumed run prunes the same. Raises
    ModelFileError and ConfigError as the parts do.
    """
    judging = {"pruning": pruning is not None, "quantization_aware": quantization_aware is not None}
    detector, masks = _started(config, start, console, [key for key, is_set in judging.items() if is_set]), None
    match pruning:
        case ChannelPruningConfig():
            detector, report = prune_channels(detector, pruning)
            _say(console, f"pruned to {report.macs_after / report.macs_before:.2f} of the multiply-adds")
        case MagnitudePruningConfig():
            masks = magnitude_masks(detector, pruning)
            masks.apply(detector)
        case None:
            pass
        case _:
            assert_never(pruning)
    if quantization_aware is not None:
        quantize(detector, quantization_aware)
    return detector.train(), masks


def ship(path: Path, detector: Detector, extra: Mapping[str, str] | None = None) -> None:
    """Save a detector as an ordinary float checkpoint; what quantisation learnt of ranges joins its metadata."""
    ranges = activation_ranges(detector)
    told = {RANGES_KEY: json.dumps(ranges)} if ranges else {}
    save_detector(path, without_quantization(detector), {**(extra or {}), **told})


def on_device(detector: Detector, device: torch.device, *, channels_last: bool) -> Detector:
    """The detector on the device that trains it, in the memory layout that it is to have there."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return detector.to(device).to(memory_format=layout)


def _started(config: DetectorConfig, start: Path | None, console: Console, judging: Sequence[str]) -> Detector:
    """Fresh weights, or those of `start` where they fit; a pruned checkpoint brings its widths along.

    judging: the keys of the configuration that judge weights, which fresh ones do not bear.
    """
    if start is None:
        return Detector(config)
    widths = load_config_of(start).widths
    if widths and not config.widths:
        config = config.model_copy(update={"widths": widths})
    detector = Detector(config)
    fresh = start_from(detector, start)
    _say(console, f"{start}: all weights taken but {len(fresh)}")
    sizes = {name: parameter.numel() for name, parameter in detector.named_parameters()}
    taken = 1 - sum(sizes[name] for name in fresh if name in sizes) / sum(sizes.values())
    if judging and taken < ENOUGH_TRAINED:
        raise ConfigError(
            f"{judging[0]} judges trained weights, but {start} has only {taken:.0%} of those of this detector; "
            "detector must describe the network of that file (show-config prints it)"
        )
    return detector


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

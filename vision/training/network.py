"""Build the network that is trained, from fresh or given weights, and save what it has learnt as a float checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from rich.console import Console

from handeye.vision.checkpoints.native import RANGES_KEY, load_config_of, save_detector, start_from
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.console import say
from handeye.vision.training.pruning import ChannelPruningConfig, MagnitudePruningConfig
from handeye.vision.training.quantization_aware import activation_ranges, without_quantization

PruningConfig = Annotated[ChannelPruningConfig | MagnitudePruningConfig, Field(discriminator="kind")]
"""Pruning before the training, by `kind`."""
ENOUGH_TRAINED = 0.75
"""Fraction of the weights that must come from `start_from` where trained ones are needed: a head for other classes may
be fresh."""


def build_network(
    config: DetectorConfig, start: Path | None, console: Console, *, judged_by: Sequence[str] = ()
) -> Detector:
    """A detector with fresh weights, or those of `start` where they fit; a pruned checkpoint brings its widths along.

    judged_by: the configuration keys that need trained weights. Raises ModelFileError, and ConfigError where `start`
    has too few of them.
    """
    if start is None:
        return Detector(config)
    widths = load_config_of(start).widths
    if widths and not config.widths:
        config = config.model_copy(update={"widths": widths})
    detector = Detector(config)
    fresh = start_from(detector, start)
    say(console, f"{start}: all weights taken but {len(fresh)}")
    sizes = {name: parameter.numel() for name, parameter in detector.named_parameters()}
    taken = 1 - sum(sizes[name] for name in fresh if name in sizes) / sum(sizes.values())
    if judged_by and taken < ENOUGH_TRAINED:
        raise ConfigError(
            f"{judged_by[0]} judges trained weights, but {start} has only {taken:.0%} of those of this detector; "
            "detector must describe the network of that file (show-config prints it)"
        )
    return detector


def save_weights(path: Path, detector: Detector, extra: Mapping[str, str] | None = None) -> None:
    """Save a detector as an ordinary float checkpoint; the activation ranges of QAT go into its metadata."""
    ranges = activation_ranges(detector)
    metadata = {RANGES_KEY: json.dumps(ranges)} if ranges else {}
    save_detector(path, without_quantization(detector), {**(extra or {}), **metadata})


def on_device(detector: Detector, device: torch.device, *, channels_last: bool) -> Detector:
    """The detector on the device that trains it, in its memory layout there."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return detector.to(device).to(memory_format=layout)

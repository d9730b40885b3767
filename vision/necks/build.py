"""Every neck there is, and the one place where a configuration becomes one.

A neck takes the features of a backbone and has `channels`, the widths of the pyramid it gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_never

from vision.necks.path_aggregation import PathAggregation, PathAggregationConfig

NeckConfig = PathAggregationConfig
"""With a second neck this becomes a union, told apart by `kind`."""
Neck = PathAggregation


def build_neck(config: NeckConfig, channels: Sequence[int]) -> Neck:
    """The neck of that configuration for features of these widths, with fresh weights."""
    match config:
        case PathAggregationConfig():
            return PathAggregation(config, channels)
        case _:
            assert_never(config)

"""Every head there is, and the one place where a configuration becomes one."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_never

from vision.heads.yolox import YoloxHead, YoloxHeadConfig

HeadConfig = YoloxHeadConfig
"""With a second head this becomes a union, told apart by `kind`."""
Head = YoloxHead


def build_head(config: HeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> Head:
    """The head of that configuration for a pyramid of these widths and strides, with fresh weights."""
    match config:
        case YoloxHeadConfig():
            return YoloxHead(config, channels, strides, num_classes)
        case _:
            assert_never(config)

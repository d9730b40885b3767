"""Every backbone there is, and the one place where a configuration becomes one.

A backbone has `channels` and `strides` (fine to coarse) and gives one feature map for each stride.
"""

from __future__ import annotations

from typing_extensions import assert_never

from vision.backbones.cspdarknet import CSPDarknet, CSPDarknetConfig

BackboneConfig = CSPDarknetConfig
"""With a second backbone this becomes a union, told apart by `kind`."""
Backbone = CSPDarknet


def build_backbone(config: BackboneConfig) -> Backbone:
    """The backbone of that configuration, with fresh weights."""
    match config:
        case CSPDarknetConfig():
            return CSPDarknet(config)
        case _:
            assert_never(config)

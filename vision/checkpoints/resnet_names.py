"""The names of published ResNets: torchvision's, which DETR keeps, and those of RT-DETR's `vd` form.

torchvision: github.com/pytorch/vision; RT-DETR: github.com/lyuwenyu/RT-DETR, and the library transformers.
"""

from __future__ import annotations

from vision.checkpoints.key_map import KeyMap, Rename


def plain_renames(prefix: str = "") -> tuple[Rename, ...]:
    """From `backbone.` of ours to torchvision's names, which stand behind `prefix` in larger networks."""
    blocks = (
        _in_block(r"\.shortcut\.0\.conv\.", ".downsample.0."),
        _in_block(r"\.shortcut\.0\.norm\.", ".downsample.1."),
        *(
            _in_block(rf"\.layers\.{index}\.{part}\.", f".{short}{index + 1}.")
            for index in range(3)
            for part, short in (("conv", "conv"), ("norm", "bn"))
        ),
    )
    stages = tuple((rf"^backbone\.stages\.{index}\.", f"{prefix}layer{index + 1}.") for index in range(4))
    stem = ((r"^backbone\.stem\.0\.conv\.", f"{prefix}conv1."), (r"^backbone\.stem\.0\.norm\.", f"{prefix}bn1."))
    return (*stem, *blocks, *stages)


def _in_block(pattern: str, replacement: str) -> Rename:
    """A rename that leaves alone what is not in a block of the backbone."""
    return (rf"^(backbone\.stages\.\d+\.\d+){pattern}", rf"\1{replacement}")


TORCHVISION_RESNET_KEYS = KeyMap(renames=(*plain_renames(), (r"^head\.", "fc.")))
"""A classifier with a plain ResNet."""

VD_RENAMES: tuple[Rename, ...] = (
    *((rf"^backbone\.stem\.{index}\.", f"backbone.conv1.conv1_{index + 1}.") for index in range(3)),
    _in_block(r"\.shortcut\.0\.", ".short."),
    _in_block(r"\.shortcut\.1\.", ".short.conv."),
    *(_in_block(rf"\.layers\.{index}\.", f".branch2{letter}.") for index, letter in enumerate("abc")),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"backbone.res_layers.\1.blocks.\2."),
)
"""RT-DETR's own names; a shortcut has one level more where it averages first."""

VD_TRANSFORMERS_RENAMES: tuple[Rename, ...] = (
    (r"^(backbone\..*)\.conv\.", r"\1.convolution."),
    (r"^(backbone\..*)\.norm\.", r"\1.normalization."),
    (r"^backbone\.stem\.", "model.backbone.model.embedder.embedder."),
    _in_block(r"\.shortcut\.0\.", ".shortcut."),
    _in_block(r"\.layers\.", ".layer."),
    (r"^backbone\.stages\.(\d+)\.(\d+)\.", r"model.backbone.model.encoder.stages.\1.layers.\2."),
)
"""The same network in transformers' names."""

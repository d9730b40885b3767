"""Our names of HGNetv2's weights and those of D-FINE (github.com/Peterande/D-FINE), which are below `backbone.`."""

from __future__ import annotations

HGNETV2_NAMES = (
    (r"^backbone\.stem\.shrink\.", "backbone.stem.stem1."),
    (r"^backbone\.stem\.narrow\.", "backbone.stem.stem2a."),
    (r"^backbone\.stem\.widen\.", "backbone.stem.stem2b."),
    (r"^backbone\.stem\.shrink_again\.", "backbone.stem.stem3."),
    (r"^backbone\.stem\.mix\.", "backbone.stem.stem4."),
    (r"^(backbone\.stages\.\d+)\.down\.", r"\1.downsample."),
    (r"^(backbone\.stages\..*)\.pointwise\.", r"\1.conv1."),
    (r"^(backbone\.stages\..*)\.depthwise\.", r"\1.conv2."),
    (r"^(backbone\.stages\..*)\.squeeze\.", r"\1.aggregation.0."),
    (r"^(backbone\.stages\..*)\.expand\.", r"\1.aggregation.1."),
    (r"^(backbone\..*)\.norm\.", r"\1.bn."),
    (r"^(backbone\..*)\.affine\.", r"\1.lab."),
)
"""Our names as patterns, and theirs; applied from top to bottom to the keys of a detector."""

"""Narrowing leaves layers that compute with the first of their channels; what does not fit is refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from handeye.vision.errors import ConfigError
from handeye.vision.layers.widths import is_depthwise, narrow


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1, groups=2),
        nn.Flatten(),
    )


def test_layers_keep_the_first_of_their_channels():
    whole, narrowed = network(), network()
    narrow(narrowed, {"0": (2, 5), "1": (5,), "2": (5, 5)})
    images = torch.rand(2, 3, 9, 9)
    images[:, 2] = 0  # the whole one's third input is silent
    with torch.no_grad():
        expected, computed = whole[:3].eval()(images), narrowed[:3].eval()(images[:, :2])
    torch.testing.assert_close(computed, expected[:, :5])
    assert is_depthwise(narrowed[2])
    assert narrowed[0].out_channels == narrowed[1].num_features == narrowed[2].groups == 5
    assert all(parameter.requires_grad for parameter in narrowed.parameters())


def test_the_same_width_changes_nothing():
    layers = network()
    before = layers.state_dict()
    narrow(layers, {"0": (3, 8), "1": (8,), "2": (8, 8), "3": (8, 4)})
    assert all(torch.equal(before[name], value) for name, value in layers.state_dict().items())


@pytest.mark.parametrize(
    ("name", "width", "said"),
    [
        ("7", (1,), r"widths.7: got \[1\], expected the name of a convolution"),
        ("4", (1, 1), r"widths.4: got \[1, 1\], expected the name of a convolution"),
        ("0", (3,), r"widths.0: got \[3\], expected the name of a convolution"),
        ("1", (3, 3), r"widths.1: got \[3, 3\], expected the name of a convolution"),
        ("0", (4, 8), r"widths.0: expected at most \[3, 8\]"),
        ("0", (3, 9), r"widths.0: expected at most \[3, 8\]"),
        ("1", (9,), r"widths.1: expected at most 8"),
        ("2", (4, 5), r"widths.2: expected at most 8, in = out"),
        ("3", (4, 4), r"widths.3: expected .*ungrouped"),
    ],
)
def test_what_does_not_fit_is_refused(name, width, said):
    with pytest.raises(ConfigError, match=said):
        narrow(network(), {name: width})

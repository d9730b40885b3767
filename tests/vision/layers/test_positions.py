"""Positions: by the formula, number by number, and the transformers library's on maps that are not square."""

from __future__ import annotations

import math

import pytest
import torch

from handeye.vision.layers.attention import sin_cos_table, sine_positions


def test_sine_positions_by_hand():
    is_pad = torch.zeros(2, 3, 5, dtype=torch.bool)
    is_pad[1, 2:], is_pad[1, :, 3:] = True, True
    positions = sine_positions(is_pad, 8)
    for image, (height, width) in enumerate(((3, 5), (2, 3))):
        y, x = 1, 2
        angles = ((y + 1) / (height + 1e-6) * 2 * math.pi, (x + 1) / (width + 1e-6) * 2 * math.pi)
        expected = [
            wave(angle / 10_000 ** (index / 2)) for angle in angles for index in (0, 1) for wave in (math.sin, math.cos)
        ]
        torch.testing.assert_close(positions[image, :, y, x], torch.tensor(expected))


def test_an_image_that_is_all_padding_has_finite_positions():
    assert sine_positions(torch.ones(1, 2, 2, dtype=torch.bool), 8).isfinite().all()


def test_the_places_of_an_image_do_not_depend_on_its_padding():
    alone = sine_positions(torch.zeros(1, 4, 6, dtype=torch.bool), 16)
    is_pad = torch.ones(1, 7, 8, dtype=torch.bool)
    is_pad[:, :4, :6] = False
    torch.testing.assert_close(sine_positions(is_pad, 16)[:, :, :4, :6], alone)


def test_the_table_runs_row_by_row():
    table = sin_cos_table(2, 3, 8)
    assert table.shape == (6, 8)
    row, column = 1, 2
    expected = [wave(place * rate) for place in (row, column) for wave in (math.sin, math.cos) for rate in (1, 0.01)]
    torch.testing.assert_close(table[row * 3 + column], torch.tensor(expected))


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 7), (8, 3)])
def test_the_table_is_that_of_the_transformers_library(height, width):
    peer = pytest.importorskip("transformers.models.rt_detr.modeling_rt_detr").RTDetrSinePositionEmbedding
    theirs = peer(embed_dim=32)(width=width, height=height, device=torch.device("cpu"), dtype=torch.float32)
    torch.testing.assert_close(sin_cos_table(height, width, 32)[None], theirs.reshape(1, height * width, 32))


@pytest.mark.parametrize(
    "positions", [lambda: sin_cos_table(2, 2, 6), lambda: sine_positions(torch.ones(1, 2, 2) < 0, 6)]
)
def test_other_widths_are_refused(positions):
    with pytest.raises(ValueError, match="4 divides .* got 6"):
        positions()


def test_places_by_token_number_are_not_places_in_the_image():
    """Numbering all 300 tokens would not do: its waves cannot tell a step down from twenty steps right."""
    i, num_columns, j = 45, 20, 3
    printed = math.sin(i / 10_000 ** (2 * j / 256))
    row, column = divmod(i, num_columns)
    right = sin_cos_table(15, num_columns, 256)[i]
    assert right[64 * 0 + j].item() == pytest.approx(math.sin(row / 10_000 ** (j / 64)), abs=1e-6)
    assert right[64 * 2 + j].item() == pytest.approx(math.sin(column / 10_000 ** (j / 64)), abs=1e-6)
    assert printed == pytest.approx(math.sin(45 / 10_000 ** (6 / 256)))

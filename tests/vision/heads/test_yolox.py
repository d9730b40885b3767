"""The YOLOX head: order of the cells, decoding by hand, and the prior of a fresh head."""

from __future__ import annotations

import math

import pytest
import torch

from handeye.vision.heads.build import build_head
from handeye.vision.heads.outputs import GridOutput
from handeye.vision.heads.yolox import YoloxHead, YoloxHeadConfig


def head_output(size_hw=(2, 3), num_classes=4, num_images=2) -> GridOutput:
    head = build_head(YoloxHeadConfig(hidden_dim=8), (6, 10), (8, 16), num_classes).eval()
    height, width = size_hw
    return head([torch.randn(num_images, 6, 2 * height, 2 * width), torch.randn(num_images, 10, height, width)])


def grid_output(predictions: list[float], cell_xy: list[float], stride: float) -> GridOutput:
    return GridOutput(
        box_predictions=torch.tensor([[predictions]]),
        objectness_logits=torch.tensor([[[0.0]]]),
        class_logits=torch.tensor([[[0.0, math.log(3)]]]),
        cell_xy=torch.tensor([cell_xy], dtype=torch.float32),
        strides=torch.tensor([[stride]], dtype=torch.float32),
    )


def test_cells_of_all_levels_in_one_row_fine_to_coarse():
    output = head_output()
    assert output.box_predictions.shape == (2, 30, 4)
    assert output.objectness_logits.shape == (2, 30, 1)
    assert output.class_logits.shape == (2, 30, 4)
    assert output.strides[:24].eq(8).all()
    assert output.strides[24:].eq(16).all()


def test_cells_run_row_by_row_with_x_first():
    columns_and_rows = [[x, y] for y in range(4) for x in range(6)] + [[x, y] for y in range(2) for x in range(3)]
    torch.testing.assert_close(head_output().cell_xy, torch.tensor(columns_and_rows, dtype=torch.float32))


def test_predictions_stay_in_their_cell():
    torch.manual_seed(0)
    # In double precision: fast convolutions of single precision let the last bits of neighbours leak into a cell.
    head = YoloxHead(YoloxHeadConfig(hidden_dim=8), (6,), (8,), 3).double().eval()
    features = torch.zeros(1, 6, 9, 11, dtype=torch.float64)
    quiet = head([features]).class_logits
    features[0, :, 4, 7] = 100.0
    moved = (head([features]).class_logits - quiet).abs().sum(dim=-1)[0].view(9, 11)
    rows, columns = moved.gt(1e-12).nonzero().unbind(dim=1)
    # Two 3 x 3 convolutions reach two cells to each side.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 6, 5, 9)


def test_decoding_by_hand():
    output = grid_output([0.25, -0.5, 0.0, math.log(2)], cell_xy=[3, 5], stride=16)
    torch.testing.assert_close(output.boxes_cxcywh[0, 0], torch.tensor([52.0, 72.0, 16.0, 32.0]))


def test_raw_is_the_decoded_box_then_objectness_then_classes():
    output = grid_output([0.25, -0.5, 0.0, math.log(2)], cell_xy=[3, 5], stride=16)
    torch.testing.assert_close(output.raw[0, 0], torch.tensor([52.0, 72.0, 16.0, 32.0, 0.5, 0.5, 0.75]))
    torch.testing.assert_close(output.undecoded[0, 0, :4], output.box_predictions[0, 0])
    torch.testing.assert_close(output.undecoded[..., 4:], output.raw[..., 4:])


def test_boxes_are_decoded_in_single_precision_even_from_half():
    half = torch.tensor([[[0.3, 0.3, 4.0, 4.0]]]).to(torch.bfloat16)
    output = grid_output([0.0, 0.0, 0.0, 0.0], cell_xy=[79, 79], stride=8)
    decoded = GridOutput(half, output.objectness_logits, output.class_logits, output.cell_xy, output.strides)
    assert decoded.boxes_cxcywh.dtype == torch.float32
    torch.testing.assert_close(decoded.boxes_cxcywh[0, 0, 0], (half[0, 0, 0].float() + 79) * 8)


@pytest.mark.parametrize("num_classes", [1, 80])
def test_a_fresh_head_believes_in_one_percent(num_classes):
    head = YoloxHead(YoloxHeadConfig(hidden_dim=8), (6,), (8,), num_classes)
    for prediction in (head.levels[0].predict_class, head.levels[0].predict_objectness):
        torch.testing.assert_close(prediction.bias.sigmoid(), torch.full_like(prediction.bias, 0.01))

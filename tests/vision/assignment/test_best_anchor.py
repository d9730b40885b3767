"""Which row answers for which object in YOLO v1 to v5: by hand, against plain loops, and in the corners."""

from __future__ import annotations

import math

import pytest
import torch

from handeye.vision.assignment.best_anchor import (
    Pairs,
    assign_best_anchor,
    assign_by_ratio,
    assign_responsible,
    overlaps_an_object,
)
from handeye.vision.boxes.formats import cxcywh_to_xyxy
from handeye.vision.boxes.iou import pairwise_iou

SIZE_HW = (64, 96)
ANCHORS = {8: ((8, 8), (12, 20)), 16: ((24, 16), (20, 40)), 32: ((40, 60), (70, 50))}


def rows_of(anchors=ANCHORS):
    """(cell_xy, strides, prior_wh) of every anchor: by level, then cell by cell, then anchor by anchor."""
    rows = [
        (column, row, stride, *size)
        for stride, sizes in anchors.items()
        for row in range(SIZE_HW[0] // stride)
        for column in range(SIZE_HW[1] // stride)
        for size in sizes
    ]
    table = torch.tensor(rows, dtype=torch.float32)
    return table[:, :2], table[:, 2:3], table[:, 3:]


def random_boxes(num: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(num, 2, generator=generator) * torch.tensor([SIZE_HW[1], SIZE_HW[0]])
    sizes = torch.exp(torch.rand(num, 2, generator=generator) * 2.5 + 1.5)
    return cxcywh_to_xyxy(torch.cat((centres, sizes), dim=1))


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.row_index.tolist(), pairs.box_index.tolist(), strict=True))


def shape_overlap(box, size) -> float:
    width, height = box[2] - box[0], box[3] - box[1]
    shared = min(width, size[0]) * min(height, size[1])
    return shared / (width * height + size[0] * size[1] - shared)


def holding_rows(box, anchors=ANCHORS) -> dict[int, tuple[float, float]]:
    """Rows whose cell holds the centre of a box, and their anchors, found by arithmetic on the order of the rows."""
    rows, first = {}, 0
    for stride, sizes in anchors.items():
        height, width = SIZE_HW[0] // stride, SIZE_HW[1] // stride
        column = min(max(int((box[0] + box[2]) / 2 // stride), 0), width - 1)
        row = min(max(int((box[1] + box[3]) / 2 // stride), 0), height - 1)
        for anchor, size in enumerate(sizes):
            rows[first + (row * width + column) * len(sizes) + anchor] = size
        first += height * width * len(sizes)
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("also_above", [1.0, 0.213])
def test_best_anchor_agrees_with_plain_loops(seed, also_above):
    boxes = random_boxes(9, seed)
    best_of_row: dict[int, tuple[float, int]] = {}
    for index, box in enumerate(boxes.tolist()):
        overlap = {row: shape_overlap(box, size) for row, size in holding_rows(box).items()}
        best = max(overlap, key=lambda row: overlap[row])
        for row, value in overlap.items():
            if (row == best or value > also_above) and value > best_of_row.get(row, (-1.0, 0))[0]:
                best_of_row[row] = value, index
    expected = {(row, index) for row, (_, index) in best_of_row.items()}
    assert as_set(assign_best_anchor(*rows_of(), boxes, also_above=also_above)) == expected


def test_the_level_follows_from_the_shape():
    cell_xy, strides, prior_wh = rows_of()
    pairs = assign_best_anchor(cell_xy, strides, prior_wh, torch.tensor([[30.0, 12, 50, 52], [40, 0, 49, 9]]))
    rows = dict(zip(pairs.box_index.tolist(), pairs.row_index.tolist(), strict=True))
    assert (strides[rows[0], 0], *prior_wh[rows[0]], *cell_xy[rows[0]]) == (16, 20, 40, 2, 2)
    assert (strides[rows[1], 0], *prior_wh[rows[1]], *cell_xy[rows[1]]) == (8, 8, 8, 5, 0)


def test_of_two_objects_one_anchor_takes_the_one_it_is_like_whatever_their_order():
    twins = torch.tensor([[1.0, 1, 8, 8], [0, 0, 8, 8]])
    rows = rows_of({8: ((8, 8),)})
    assert as_set(assign_best_anchor(*rows, twins)) == {(0, 1)}
    assert as_set(assign_best_anchor(*rows, twins.flip(0))) == {(0, 0)}


def test_a_centre_on_or_beyond_the_border_belongs_to_the_last_cell():
    cell_xy, strides, prior_wh = rows_of()
    outside = torch.tensor([[92.0, 60, 100, 68], [-30, -30, 4, 6]])
    for assign in (assign_best_anchor, assign_by_ratio):
        pairs = assign(cell_xy, strides, prior_wh, outside)
        for box, corner in ((0, [11, 7]), (1, [0, 0])):
            cells = cell_xy[pairs.row_index[pairs.box_index == box]] * strides[pairs.row_index[pairs.box_index == box]]
            assert cells.tolist(), "every object finds a cell"
            assert (cells - torch.tensor(corner) * 8).abs().max() <= 32


@pytest.mark.parametrize("seed", range(5))
def test_by_ratio_agrees_with_plain_loops(seed):
    boxes = random_boxes(7, seed)
    expected, first = set(), 0
    for stride, sizes in ANCHORS.items():
        height, width = SIZE_HW[0] // stride, SIZE_HW[1] // stride
        for index, box in enumerate(boxes.tolist()):
            x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
            cells = {(int(x), int(y))}
            cells.add((int(x) + (1 if x % 1 > 0.5 else -1), int(y)))
            cells.add((int(x), int(y) + (1 if y % 1 > 0.5 else -1)))
            for column, row in cells:
                for anchor, size in enumerate(sizes):
                    sides = ((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1])
                    if 0 <= column < width and 0 <= row < height and max(max(s, 1 / s) for s in sides) < 4:
                        expected.add((first + (row * width + column) * len(sizes) + anchor, index))
        first += height * width * len(sizes)
    assert as_set(assign_by_ratio(*rows_of(), boxes)) == expected


def test_inside_the_image_an_object_of_v5_has_three_cells_for_each_anchor_that_fits():
    rows = rows_of({8: ((16, 16), (100, 100))})
    pairs = assign_by_ratio(*rows, torch.tensor([[33.0, 25, 49, 39]]))
    cells = rows[0][pairs.row_index].tolist()
    assert sorted(cells) == [[4, 4], [5, 3], [5, 4]]
    assert (pairs.row_index % 2 == 0).all()


def test_an_object_unlike_every_anchor_has_no_row_in_v5():
    assert len(assign_by_ratio(*rows_of({8: ((8, 8),)}), torch.tensor([[0.0, 0, 32, 32]])).row_index) == 0


def grid_of_two_boxes():
    """A 2 x 3 grid of stride 32 with two predicted boxes a cell: a small one and a large one."""
    cell_xy, strides, prior_wh = rows_of({32: ((10, 10), (40, 40))})
    return cell_xy, strides, cxcywh_to_xyxy(torch.cat(((cell_xy + 0.5) * strides, prior_wh), dim=1))


def test_in_v1_the_box_that_overlaps_best_answers():
    cell_xy, strides, predicted = grid_of_two_boxes()
    boxes = torch.tensor([[38.0, 6, 54, 26], [64, 32, 96, 64]])
    assert as_set(assign_responsible(cell_xy, strides, predicted, boxes)) == {(2, 0), (11, 1)}
    overlaps = pairwise_iou(boxes, predicted)
    assert overlaps.argmax(dim=1).tolist() == [2, 11]


def test_a_v1_cell_takes_one_object_the_one_overlapped_most():
    cell_xy, strides, predicted = grid_of_two_boxes()
    boxes = torch.tensor([[8.0, 8, 24, 24], [0, 0, 30, 30], [70, 40, 90, 60]])
    best = pairwise_iou(boxes[:2], predicted[:2]).amax(dim=1)
    assert best[1] > best[0]
    assert as_set(assign_responsible(cell_xy, strides, predicted, boxes)) == {(1, 1), (10, 2)}
    assert as_set(assign_responsible(cell_xy, strides, predicted, boxes.flip(0))) == {(1, 1), (10, 0)}
    same = boxes[:1].repeat(3, 1)
    assert as_set(assign_responsible(cell_xy, strides, predicted, same)) == {(0, 0)}


def test_without_objects_nothing_is_assigned_and_nothing_overlapped():
    rows, nothing = rows_of(), torch.zeros(0, 4)
    predicted = torch.zeros(len(rows[0]), 4)
    for pairs in (
        assign_best_anchor(*rows, nothing),
        assign_by_ratio(*rows, nothing),
        assign_responsible(rows[0], rows[1], predicted, nothing),
    ):
        assert pairs.row_index.shape == pairs.box_index.shape == (0,)
        assert pairs.row_index.dtype == torch.int64
    assert not overlaps_an_object(predicted, nothing, 0.5).any()


def test_overlapping_rows_are_those_above_the_threshold():
    predicted = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    assert overlaps_an_object(predicted, objects, 0.5).tolist() == [True, True, False]
    assert overlaps_an_object(predicted, objects[:1], 0.5).tolist() == [True, False, False]
    assert math.isclose(pairwise_iou(predicted[1:2], objects[:1]).item(), 0.5)

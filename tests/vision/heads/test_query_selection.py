"""Query selection: anchors by hand, the best cells in order, cells at the border, and the limits of numbers."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.heads.query_selection import (
    OUTSIDE,
    QuerySelection,
    SizedAnchors,
    anchor_logits,
    inverse_sigmoid,
)

SIZES_HW = [(4, 6), (2, 3)]
CPU = torch.device("cpu")


def selection(num_queries=5, num_classes=3) -> QuerySelection:
    torch.manual_seed(0)
    module = QuerySelection(8, num_classes, num_queries).eval()
    torch.nn.init.normal_(module.predict_box[-1].weight)
    torch.nn.init.normal_(module.predict_class.weight)
    return module


def test_anchors_by_hand():
    logits, counts = anchor_logits(SIZES_HW, CPU)
    assert counts.all()
    anchors = logits.sigmoid()[0]
    assert anchors.shape == (30, 4)
    torch.testing.assert_close(anchors[7], torch.tensor([1.5 / 6, 1.5 / 4, 0.05, 0.05]))  # second row, second column
    torch.testing.assert_close(anchors[24 + 5], torch.tensor([2.5 / 3, 1.5 / 2, 0.1, 0.1]))


@pytest.mark.parametrize(("side", "num_outside"), [(320, 0), (640, 316)])
def test_at_640_pixels_the_outermost_ring_of_the_finest_level_does_not_count(side, num_outside):
    sizes_hw = [(side // stride, side // stride) for stride in (8, 16, 32)]
    logits, counts = anchor_logits(sizes_hw, CPU)
    assert int((~counts).sum()) == num_outside
    assert (logits[~counts.expand_as(logits)] == OUTSIDE).all()
    finest = counts[0, : (side // 8) ** 2, 0].view(side // 8, side // 8)
    assert finest[1:-1, 1:-1].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("correction", [-100.0, 0.0, 100.0])
def test_an_anchor_that_does_not_count_is_one_and_finite_whatever_is_added(dtype, correction):
    logit = torch.tensor(OUTSIDE, dtype=dtype) + correction
    assert logit.isfinite()
    assert logit.sigmoid() == 1


def test_many_levels_grow_out_of_the_image():
    _, counts = anchor_logits([(2, 2)] * 6, CPU)
    # 0.05 * 2^5 is larger than the image.
    assert counts.view(6, 4).all(dim=1).tolist() == [True] * 5 + [False]


def test_anchors_are_kept_for_one_size_and_made_anew_for_another():
    anchors = SizedAnchors()
    with torch.inference_mode():
        first, _ = anchors(SIZES_HW, CPU)
    assert anchors(SIZES_HW, CPU)[0] is first
    assert not first.is_inference()  # or it could not be used in training
    other, _ = anchors([(6, 4), (3, 2)], CPU)
    torch.testing.assert_close(other, anchor_logits([(6, 4), (3, 2)], CPU)[0])
    torch.testing.assert_close(anchors(SIZES_HW, CPU)[0], first)


def test_the_best_cells_are_chosen_in_order():
    module = selection()
    memory = torch.randn(2, 30, 8)
    chosen = module(memory, SIZES_HW)
    cells = module.norm(module.project(memory))
    scores = module.predict_class(cells).max(dim=-1).values
    for image in range(2):
        order = sorted(range(30), key=lambda cell: -scores[image, cell].item())
        assert chosen.cell_index[image].tolist() == order[:5]
        torch.testing.assert_close(chosen.content[image], cells[image, order[:5]])
        torch.testing.assert_close(chosen.class_logits[image], module.predict_class(cells)[image, order[:5]])
        boxes = module.predict_box(cells)[image] + anchor_logits(SIZES_HW, CPU)[0][0]
        torch.testing.assert_close(chosen.box_logits[image], boxes[order[:5]])
        torch.testing.assert_close(chosen.predictions.boxes_cxcywh_norm[image], boxes[order[:5]].sigmoid())


def test_fewer_cells_than_queries_are_all_chosen():
    chosen = selection(num_queries=100)(torch.randn(1, 30, 8), SIZES_HW)
    assert sorted(chosen.cell_index[0].tolist()) == list(range(30))


def test_cells_whose_anchor_does_not_count_all_say_the_same():
    module = selection(num_queries=400)
    chosen = module(torch.randn(1, 80 * 5, 8), [(5, 80)])
    column = chosen.cell_index[0] % 80
    outside = (column == 0) | (column == 79)
    assert int(outside.sum()) == 10
    logits = chosen.class_logits[0, outside]
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))
    assert (chosen.predictions.boxes_cxcywh_norm[0, outside] == 1).all()
    assert (chosen.predictions.boxes_cxcywh_norm[0, ~outside] < 1).all()


def test_a_fresh_selection_proposes_its_anchors():
    module = QuerySelection(8, 3, 30).eval()
    chosen = module(torch.randn(1, 30, 8), SIZES_HW)
    torch.testing.assert_close(chosen.box_logits[0], anchor_logits(SIZES_HW, CPU)[0][0, chosen.cell_index[0]])
    torch.testing.assert_close(module.predict_class.bias.sigmoid(), torch.full((3,), 0.01))


def test_nothing_of_the_anchors_is_in_the_state_dict():
    module = selection()
    module(torch.randn(1, 30, 8), SIZES_HW)
    assert {key.split(".")[0] for key in module.state_dict()} == {"project", "norm", "predict_class", "predict_box"}


def test_inverse_sigmoid_undoes_the_sigmoid_and_is_bounded():
    logits = torch.linspace(-11, 11, 50, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(logits.sigmoid()), logits)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([-11.5129, 11.5129]), rtol=0, atol=1e-3)


def test_a_worked_example_of_the_selection():
    """Equations 26.7 to 26.9: the cells with the highest class probability become the content of the queries."""
    logits = torch.tensor([[0.2, -1.0], [3.0, 0.0], [-2.0, 1.0], [0.5, 0.4]])
    module = QuerySelection(2, 2, 2).eval()
    module.norm, module.project = torch.nn.Identity(), torch.nn.Identity()
    torch.nn.init.eye_(module.predict_class.weight)
    torch.nn.init.zeros_(module.predict_class.bias)
    chosen = module(logits[None], [(2, 2)])
    assert chosen.cell_index.tolist() == [[1, 2]]
    torch.testing.assert_close(chosen.content[0], logits[[1, 2]])
    torch.testing.assert_close(chosen.class_logits.sigmoid().amax(dim=-1), torch.tensor([[0.952574, 0.731059]]))

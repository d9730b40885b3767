"""Divergences are 0 for the same answer and positive for any other; features are compared whatever their size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Categorical, kl_divergence

from handeye.vision.heads.outputs import GridOutput, QueryOutput
from handeye.vision.training.distillation import (
    binary_kl,
    imitate_cells,
    imitate_features,
    imitate_queries,
    softmax_kl,
)

seeds = st.integers(0, 2**31)
temperatures = st.floats(1, 20)


def two(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = (2 * torch.randn(shape, generator=generator) for _ in range(2))
    return first, second


@given(seeds, temperatures)
def test_divergences_are_those_of_torchs_distributions(seed, temperature):
    student, teacher = two(seed, 4, 6)
    squared = temperature**2
    of_yes = kl_divergence(Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature))
    torch.testing.assert_close(binary_kl(student, teacher, temperature), squared * of_yes, rtol=1e-3, atol=1e-4)
    of_one = kl_divergence(Categorical(logits=teacher / temperature), Categorical(logits=student / temperature))
    torch.testing.assert_close(softmax_kl(student, teacher, temperature), squared * of_one, rtol=1e-3, atol=1e-4)


@given(seeds, temperatures)
def test_only_the_same_answer_is_no_divergence(seed, temperature):
    student, teacher = two(seed, 5, 3)
    assert binary_kl(teacher, teacher, temperature).abs().max() < 1e-4
    assert softmax_kl(teacher, teacher + 7, temperature).abs().max() < 1e-3
    assert (binary_kl(student, teacher, temperature) > -1e-4).all()
    assert (softmax_kl(student, teacher, temperature) > -1e-4).all()


def test_a_high_temperature_compares_the_logits_themselves():
    """Hinton et al., section 2.1: T^2 KL tends to half the squared difference of logits times the variance of p."""
    student, teacher = two(3, 8)
    limit = (student - teacher) ** 2 / 8  # sigmoid'(0) = 1/4
    torch.testing.assert_close(binary_kl(student.double(), teacher.double(), 50.0), limit, rtol=2e-2, atol=1e-3)


def cells(seed: int, num_images: int = 2, num_cells: int = 12) -> GridOutput:
    generator = torch.Generator().manual_seed(seed)

    def random(channels: int) -> torch.Tensor:
        return torch.randn(num_images, num_cells, channels, generator=generator)

    places = torch.stack((torch.arange(num_cells) % 4, torch.arange(num_cells) // 4), dim=1).float()
    return GridOutput(random(4), random(1), random(3), places, torch.full((num_cells, 1), 8.0))


def test_cells_that_say_the_same_lose_nothing_and_others_learn():
    teacher = cells(1)
    assert all(
        float(part) == pytest.approx(0, abs=1e-5)
        for part in imitate_cells(teacher, teacher, 2.0, is_choice=False).values()
    )
    student = cells(2)
    logits = student.class_logits.clone().requires_grad_()
    boxes = student.box_predictions.clone().requires_grad_()
    output = GridOutput(boxes, student.objectness_logits, logits, student.cell_xy, student.strides)
    parts = imitate_cells(output, teacher, 2.0, is_choice=False)
    assert all(float(part.detach()) > 0.01 for part in parts.values())
    torch.stack(list(parts.values())).sum().backward()
    # Against the gradient lies the teacher: a small step brings every class nearer to it.
    nearer = logits.detach() - 0.01 * logits.grad
    assert ((nearer - teacher.class_logits).abs() <= (logits.detach() - teacher.class_logits).abs() + 1e-6).all()
    assert float(boxes.grad.abs().sum()) > 0


def test_cells_without_an_object_for_the_teacher_teach_no_class():
    teacher, student = cells(1), cells(2)
    empty = GridOutput(
        teacher.box_predictions,
        torch.full_like(teacher.objectness_logits, -60.0),
        teacher.class_logits,
        teacher.cell_xy,
        teacher.strides,
    )
    parts = imitate_cells(student, empty, 2.0, is_choice=True)
    assert float(parts["imitated_class"]) == pytest.approx(0, abs=1e-6)
    assert float(parts["imitated_box"]) == pytest.approx(0, abs=1e-6)
    assert float(parts["imitated_objectness"]) > 1


def queries(seed: int, num_queries: int) -> QueryOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, num_queries, 3, generator=generator)
    boxes = 0.2 + 0.5 * torch.rand(2, num_queries, 4, generator=generator)
    return QueryOutput(logits, boxes, "sigmoid", (64, 64))


def test_queries_are_matched_whatever_their_order_and_number():
    teacher = queries(1, 7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = QueryOutput(teacher.logits[:, order], teacher.boxes_cxcywh_norm[:, order], "sigmoid", (64, 64))
    assert all(float(part) == pytest.approx(0, abs=1e-5) for part in imitate_queries(shuffled, teacher, 2.0).values())
    other = imitate_queries(queries(2, 20), teacher, 2.0)
    assert all(float(part) > 0.01 for part in other.values())


def test_a_teacher_that_sees_nothing_says_nothing():
    teacher, student = queries(1, 7), queries(2, 7)
    silent = QueryOutput(torch.full_like(teacher.logits, -9.0), teacher.boxes_cxcywh_norm, "sigmoid", (64, 64))
    assert all(float(part) == 0 for part in imitate_queries(student, silent, 2.0).values())


def test_features_are_compared_by_their_course_not_their_size():
    first, second = two(5, 2, 4, 6, 6)
    scale, shift = torch.rand(1, 4, 1, 1) + 0.5, torch.randn(1, 4, 1, 1)
    assert float(imitate_features([first], [scale * first + shift])) == pytest.approx(0, abs=1e-4)
    assert float(imitate_features([first], [-first])) == pytest.approx(2, abs=1e-3)
    flat = torch.stack(
        [
            torch.corrcoef(torch.stack([a, b]))[0, 1]
            for a, b in zip(*(x.transpose(0, 1).flatten(1) for x in (first, second)), strict=True)
        ]
    )
    assert float(imitate_features([first], [second])) == pytest.approx(float((1 - flat).mean()), abs=1e-4)

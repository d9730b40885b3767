"""The zoo: costs as published, names as in COCO."""

from __future__ import annotations

import json

import pytest

from vision.checkpoints.coco_names import COCO_NAMES
from vision.checkpoints.zoo import count_cost, published_models, yolox_config

PUBLISHED_GFLOPS = {"nano": 1.08, "tiny": 6.45, "s": 26.8, "m": 73.8, "l": 155.6, "x": 281.9}


@pytest.mark.parametrize("variant", PUBLISHED_GFLOPS)
def test_operations_are_those_of_the_published_table(variant):
    # The published counts include norms, activations and pooling, ours the convolutions.
    cost = count_cost(yolox_config(variant))
    assert PUBLISHED_GFLOPS[variant] * 0.96 < cost.gflops < PUBLISHED_GFLOPS[variant]


def test_operations_of_other_sizes_grow_with_the_pixels():
    config = yolox_config("nano", ("a",))
    larger = config.model_copy(
        update={"preprocessing": config.preprocessing.model_copy(update={"size_hw": (832, 416)})}
    )
    cost, larger_cost = count_cost(config), count_cost(larger)
    assert larger_cost.gflops == pytest.approx(2 * cost.gflops)
    assert larger_cost.parameters == cost.parameters


def test_every_model_says_what_may_be_done_with_its_weights():
    for name, model in published_models().items():
        assert model.name == name
        assert model.weights_licence
        assert model.weights_address.startswith("https://")
        assert 0 < model.coco_ap < 1
        assert model.config.class_names == COCO_NAMES


def test_the_names_are_cocos_in_the_order_of_their_category_ids(shared):
    content = json.loads(shared("data/coco_mini/annotations/instances_val2017.json").read_text())
    categories = sorted(content["categories"], key=lambda category: category["id"])
    assert tuple(category["name"] for category in categories) == COCO_NAMES

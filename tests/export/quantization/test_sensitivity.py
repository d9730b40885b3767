"""The search for what stays in float: the fewest blocks that suffice, dominant ones in any case."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.quantization.quantize import quantize_for_tensorrt
from handeye.export.quantization.sensitivity import (
    DOMINANT,
    Block,
    blocks_of,
    damage_of_blocks,
    outputs_of,
    search_float_blocks,
)
from tests.export.graphs import chain, model_of, noise
from tests.export.quantization.test_quantize import ranges_of, run

EMPTY = onnx.ModelProto()


def search(damage: dict[str, float], allowed: float, *, pinned: Collection[str] = ()):
    """Blocks of one layer each, of which AP loses the sum of the damages that are not kept in float."""
    seen: list[frozenset[str]] = []

    def quantize(keep_float: Collection[str]) -> onnx.ModelProto:
        seen.append(frozenset(keep_float))
        return EMPTY

    def score(candidate: onnx.ModelProto) -> float:
        return 0.5 - sum(value for name, value in damage.items() if name not in seen[-1])

    blocks = [Block(name, (name,)) for name in damage]
    return search_float_blocks(quantize, score, 0.5, allowed, blocks, pinned, damage)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=30), st.integers(0, 50))
def test_the_fewest_of_the_worst_that_suffice(steps: list[int], allowed_steps: int):
    values, allowed = [step / 1024 for step in steps], allowed_steps / 1024  # sums of which are exact
    damage = {f"b{place}": value for place, value in enumerate(values)}
    found = search(damage, allowed)
    worst_first = sorted(values, reverse=True)
    fewest = next(count for count in range(len(values) + 1) if sum(worst_first[count:]) <= allowed)
    dominant = sum(value**2 >= DOMINANT * sum(other**2 for other in values) for value in values)
    assert len(found.float_blocks) == max(fewest, dominant)
    assert found.keep_float == set(found.float_blocks)


def test_a_dominant_block_stays_in_float_though_any_loss_is_allowed():
    found = search({"a": 0.01, "b": 0.3, "c": 0.01}, float("inf"), pinned=["stem"])
    assert found.float_blocks == ("b",)
    assert found.keep_float == {"b", "stem"}
    assert len(found.trials) == 1
    assert found.trials[0].loss == pytest.approx(0.02)


def test_where_nothing_is_lost_all_is_quantised():
    assert search({"a": 0.0, "b": 0.0}, 0.0).float_blocks == ()


def test_blocks_are_scopes_where_names_have_them_and_runs_elsewhere():
    names = ["/d/b/s.0/down/conv/Conv", "/d/b/s.0/block/m/c1/Conv", "/d/b/s.0/block/m/c2/Conv", "/d/n/x/y/z/Conv"]
    weights = {"w": np.zeros((3, 3, 1, 1), np.float32)}
    tensors = ["images", *(f"t{place}" for place in range(4))]
    for given_names in (names, [f"Conv_{place}" for place in range(4)]):
        nodes = [
            helper.make_node("Conv", [tensors[place], "w"], [tensors[place + 1]], name)
            for place, name in enumerate(given_names)
        ]
        blocks = blocks_of(GraphIndex(model_of(nodes, weights, (1, 3, 4, 4)).graph), pinned=given_names[3:])
        assert [layer for block in blocks for layer in block.layers] == given_names[:3]
        assert len(blocks) == (2 if given_names is names else 3)


def test_the_block_that_rounding_hurts_most_has_the_most_damage():
    model, images = chain(), noise((1, 3, 8, 8))
    ranges = ranges_of(model, images)
    ranges["up"] = type(ranges["up"])(-1000.0, 1000.0)
    blocks = blocks_of(GraphIndex(model.graph), ())
    damage = damage_of_blocks(lambda keep: quantize_for_tensorrt(model, ranges, keep), blocks, (), model, images)
    assert max(damage, key=lambda name: damage[name]) == "out to out", "it reads `up`, whose range is far too wide"
    assert min(damage.values()) > 0


def test_outputs_are_those_of_each_input():
    images = noise((1, 3, 8, 8), 2)
    model = chain()
    np.testing.assert_allclose(
        outputs_of(model, images), np.concatenate([run(model, image) for image in images]), rtol=1e-4, atol=1e-4
    )

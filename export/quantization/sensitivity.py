"""Sensitivity analysis for mixed precision: quantise one block at a time, keep the most sensitive ones in float.

Blocks are ordered by the damage each does; a binary search then finds the fewest that must stay in float, scored by AP,
not by the damage itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float32

from handeye.export.graph.graph_index import GraphIndex

NUM_RUNS = 60
"""Number of runs of layers, for a graph without block names."""
DOMINANT = 0.2
"""A block with this share of all squared damage stays in float whatever the AP: the calibration images may not show its
cost."""
SCOPE_DEPTH = 4
"""Parts of a node's name that name its block: /detector/backbone/stages.1/block, for example."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that are quantised, or kept in float, together."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of the search: its blocks in float, score and loss."""

    float_blocks: tuple[str, ...]
    score: float
    loss: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Blocks to keep in float (without pinned layers), the damage of each block alone, all trials in order."""

    float_blocks: tuple[str, ...]
    keep_float: frozenset[str]
    damage: Mapping[str, float]
    trials: tuple[Trial, ...]


def blocks_of(index: GraphIndex, pinned: Collection[str]) -> list[Block]:
    """Layers that may be quantised, grouped by the scope in their names, or into equal runs without scopes."""
    free = [node.name for node in index.layers() if node.name not in pinned]
    if all(name.count("/") > SCOPE_DEPTH for name in free):
        groups: dict[str, list[str]] = {}
        for name in free:
            groups.setdefault("/".join(name.split("/")[: SCOPE_DEPTH + 1]), []).append(name)
        return [Block(name, tuple(layers)) for name, layers in groups.items()]
    runs = np.array_split(np.array(free, dtype=object), min(NUM_RUNS, max(len(free), 1)))
    return [Block(f"{run[0]} to {run[-1]}", tuple(run)) for run in runs if len(run)]


def damage_of_blocks(
    quantize: Callable[[Collection[str]], onnx.ModelProto],
    blocks: Sequence[Block],
    pinned: Collection[str],
    reference: onnx.ModelProto,
    inputs: Sequence[Float32[np.ndarray, "1 3 H W"]],
) -> dict[str, float]:
    """Mean absolute change of the outputs, relative to their spread, when only one block is quantised.

    Each output column counts alike, so that boxes in pixels do not outweigh scores.
    """
    expected = outputs_of(reference, inputs)
    spread = expected.std(axis=tuple(range(expected.ndim - 1))) + 1e-6
    everything = {name for block in blocks for name in block.layers} | set(pinned)
    damage = {}
    for block in blocks:
        got = outputs_of(quantize(everything - set(block.layers)), inputs)
        damage[block.name] = float((np.abs(got - expected) / spread).mean())
    return damage


def search_float_blocks(
    quantize: Callable[[Collection[str]], onnx.ModelProto],
    score: Callable[[onnx.ModelProto], float],
    float_score: float,
    allowed_loss: float,
    blocks: Sequence[Block],
    pinned: Collection[str],
    damage: Mapping[str, float],
) -> SearchResult:
    """Keep the fewest of the most damaged blocks in float with which at most `allowed_loss` is lost, and dominant ones.

    quantize(keep_float) makes a candidate and score(candidate) evaluates it. The binary search assumes that the loss
    falls with every block kept, which is true up to noise of the score; the loss of the result itself is measured.
    """
    worst_first = sorted(blocks, key=lambda block: -damage[block.name])
    total = sum(value**2 for value in damage.values())
    fewest = sum(damage[block.name] ** 2 >= DOMINANT * total > 0 for block in blocks)
    trials: list[Trial] = []

    def loss_with(num_float: int) -> float:
        kept = worst_first[:num_float]
        reached = score(quantize({*pinned, *(name for block in kept for name in block.layers)}))
        trials.append(Trial(tuple(block.name for block in kept), reached, float_score - reached))
        return trials[-1].loss

    enough = fewest
    if loss_with(fewest) > allowed_loss:
        too_few, enough = fewest, len(worst_first)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if loss_with(middle) <= allowed_loss else (middle, enough)
    kept = worst_first[:enough]
    layers = frozenset(pinned) | {name for block in kept for name in block.layers}
    return SearchResult(tuple(block.name for block in kept), layers, dict(damage), tuple(trials))


def outputs_of(
    model: onnx.ModelProto, inputs: Sequence[Float32[np.ndarray, "1 3 H W"]]
) -> Float32[np.ndarray, "images *rows channels"]:
    """First output of a graph for each input, in ONNX Runtime without fusions, which follows Q/DQ pairs exactly."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: batch})[0]) for batch in inputs])

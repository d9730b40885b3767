"""Which blocks do not bear eight bits: found by quantising one at a time, kept in float until little enough is lost.

The damage of each block orders them; the smallest number of the worst ones that must stay in float is then searched by
halving, judged on what counts (AP), not on the damage itself.
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
"""Into how many runs the layers are divided where the graph has no names of blocks."""
DOMINANT = 0.2
"""A block that does this share of all squared damage by itself stays in float whatever AP says: the calibration images
may not show what it costs, and the others gain most by it."""
SCOPE_DEPTH = 4
"""How many parts of a node's name make a block: /detector/backbone/stages.1/block, say."""


@dataclass(frozen=True, slots=True)
class Block:
    """Layers that stay in float or are quantised together."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of the search: the blocks in float and what it is worth."""

    float_blocks: tuple[str, ...]
    score: float
    loss: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The blocks to keep in float (pinned layers not counted), the damage of each block alone, all trials in order."""

    float_blocks: tuple[str, ...]
    keep_float: frozenset[str]
    damage: Mapping[str, float]
    trials: tuple[Trial, ...]


def blocks_of(index: GraphIndex, pinned: Collection[str]) -> list[Block]:
    """The layers that may be quantised, by the scope in their names, or in runs of equal length without scopes."""
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
    """How far the outputs move when only one block is quantised: mean absolute difference, as a share of their spread.

    Each column of the rows counts alike, so that boxes in pixels do not drown scores.
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
    judge: Callable[[onnx.ModelProto], float],
    float_score: float,
    allowed_loss: float,
    blocks: Sequence[Block],
    pinned: Collection[str],
    damage: Mapping[str, float],
) -> SearchResult:
    """Keep the fewest of the most damaged blocks in float with which at most `allowed_loss` is lost, and dominant ones.

    quantize(keep_float) makes a candidate and judge(candidate) says what it is worth. Halving takes loss to fall with
    every block kept, which holds but for the noise of the judge; whether the result keeps to it was measured.
    """
    worst_first = sorted(blocks, key=lambda block: -damage[block.name])
    total = sum(value**2 for value in damage.values())
    fewest = sum(damage[block.name] ** 2 >= DOMINANT * total > 0 for block in blocks)
    trials: list[Trial] = []

    def loss_with(num_float: int) -> float:
        kept = worst_first[:num_float]
        score = judge(quantize({*pinned, *(name for block in kept for name in block.layers)}))
        trials.append(Trial(tuple(block.name for block in kept), score, float_score - score))
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
    """The first output of a graph for each input, in ONNX Runtime without fusions: what the pairs say, not a kernel."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([np.asarray(session.run(None, {name: batch})[0]) for batch in inputs])

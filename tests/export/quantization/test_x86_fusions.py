"""Fewer passes, the same numbers: folded focus, chained pools, and graphs that must be left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper

from handeye.export.artefacts import build_models
from handeye.export.graph.onnx_export import open_onnx
from handeye.export.measurement import ImageSet
from handeye.export.quantization.int8_recipe import Int8Config
from handeye.export.quantization.x86_fusions import fuse_for_onnxruntime
from handeye.vision.images import preprocess, read_image
from handeye.vision.runtime.manifest import Manifest
from tests.export.graphs import model_of, noise
from tests.export.quantization.test_quantize import run

END = np.iinfo(np.int64).max


def focus_nodes(phases: list[tuple[int, int]], end: int = END) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Phases of the image, rows and columns sliced one after the other, then a convolution of 3 x 3."""
    rng = np.random.default_rng(2)
    constants = {
        "end": np.array([end]),
        "step": np.array([2]),
        "w": rng.normal(size=(5, 3 * len(phases), 3, 3)).astype(np.float32),
        "b": rng.normal(size=5).astype(np.float32),
    }
    constants |= {f"from_{start}": np.array([start]) for start in (0, 1)}
    constants |= {f"axis_{axis}": np.array([axis]) for axis in (2, 3)}
    nodes = []
    for place, (row, column) in enumerate(phases):
        for source, name, start, axis in (
            ("images", f"rows{place}", row, 2),
            (f"rows{place}", f"part{place}", column, 3),
        ):
            reads = [source, f"from_{start}", "end", f"axis_{axis}", "step"]
            nodes.append(helper.make_node("Slice", reads, [name], f"slice_{name}"))
    joined = [f"part{place}" for place in range(len(phases))]
    nodes.append(helper.make_node("Concat", joined, ["joined"], "join", axis=1))
    nodes.append(helper.make_node("Conv", ["joined", "w", "b"], ["y"], "stem", pads=[1, 1, 1, 1]))
    return nodes, constants


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_a_focus_becomes_one_convolution(order: list[int]):
    phases = [[(0, 0), (1, 0), (0, 1), (1, 1)][place] for place in order]
    model = model_of(*focus_nodes(phases), (1, 3, 12, 16))
    folded = fuse_for_onnxruntime(model)
    onnx.checker.check_model(folded, full_check=True)
    assert [node.op_type for node in folded.graph.node] == ["Conv"]
    assert {tensor.name for tensor in folded.graph.initializer} == {"w_of_the_image", "b"}
    for image in noise((1, 3, 12, 16), 2):
        np.testing.assert_allclose(run(folded, image), run(model, image), atol=1e-4)


@pytest.mark.parametrize(
    ("phases", "end"),
    [
        ([(0, 0), (1, 0), (0, 1)], END),  # a phase is missing
        ([(0, 0), (1, 0), (0, 1), (0, 1)], END),  # one comes twice
        ([(0, 0), (1, 0), (0, 1), (1, 1)], 8),  # not the whole image
    ],
)
def test_what_is_no_focus_stays(phases: list[tuple[int, int]], end: int):
    nodes, constants = focus_nodes(phases, end)
    model = model_of(nodes, constants, (1, 3, 12, 12))
    assert fuse_for_onnxruntime(model).graph.node == model.graph.node


def pools(sizes: list[int], stride: int = 1) -> onnx.ModelProto:
    nodes = []
    for size in sizes:
        window: dict[str, list[int]] = {"kernel_shape": [size] * 2, "pads": [size // 2] * 4, "strides": [stride] * 2}
        nodes.append(helper.make_node("MaxPool", ["images"], [f"pool{size}"], f"max{size}", None, None, None, **window))
    names = [f"pool{size}" for size in sizes]
    nodes.append(helper.make_node("Concat", names, ["y"], "join", axis=1))
    return model_of(nodes, {}, (1, 2, 9, 11))


def windows(model: onnx.ModelProto) -> list[list[int]]:
    """The windows of all max pools, in running order."""
    pooling = [node for node in model.graph.node if node.op_type == "MaxPool"]
    return [list(entry.ints) for node in pooling for entry in node.attribute if entry.name == "kernel_shape"]


def test_larger_pools_read_the_next_smaller_one():
    model = pools([5, 9, 13])
    chained = fuse_for_onnxruntime(model)
    onnx.checker.check_model(chained, full_check=True)
    assert [node.input[0] for node in chained.graph.node[:3]] == ["images", "pool5", "pool9"]
    assert windows(chained) == [[5, 5]] * 3
    for image in noise((1, 2, 9, 11)):
        np.testing.assert_array_equal(run(chained, image), run(model, image))


def test_pools_that_stand_the_other_way_round_or_shrink_the_map_stay():
    for model in (pools([9, 5]), pools([5, 9], stride=2), pools([4, 8])):
        assert [node.input[0] for node in fuse_for_onnxruntime(model).graph.node[:2]] == ["images", "images"]


def test_the_published_network_computes_the_same(shared: Callable[[str], Path]):
    model, manifest = open_onnx(shared("data/yolox_nano_coco/yolox_nano.onnx"), "yolox")
    faster = fuse_for_onnxruntime(model)
    onnx.checker.check_model(faster, full_check=True)
    assert "Slice" in {node.op_type for node in model.graph.node}
    assert "Slice" not in {node.op_type for node in faster.graph.node}
    assert (windows(model), windows(faster)) == ([[5, 5], [9, 9], [13, 13]], [[5, 5]] * 3)
    image = preprocess(read_image(shared("data/coco_mini/val2017/000000000139.jpg")), manifest.preprocessing)[0][None]
    np.testing.assert_allclose(run(faster, image), run(model, image), atol=1e-3)


def test_only_the_form_for_onnx_runtime_is_changed(float_model: tuple[onnx.ModelProto, Manifest], tmp_path: Path):
    model, manifest = float_model
    rng = np.random.default_rng(3)
    cv2.imwrite(str(tmp_path / "noise.png"), rng.integers(0, 255, (96, 128, 3)).astype(np.uint8))
    images = ImageSet.from_folder(tmp_path)
    config = Int8Config(rules=Int8Config().rules[:1], allowed_loss=1.0, calibration_images=1, search_images=1)
    built = build_models(model, manifest, ["int8_x86", "int8_openvino"], images, config, {})
    assert windows(built["int8_x86"][0]) == [[5, 5]] * 3
    assert windows(built["float32"][0]) == windows(built["int8_openvino"][0]) == [[5, 5], [9, 9], [13, 13]]

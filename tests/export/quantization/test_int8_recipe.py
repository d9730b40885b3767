"""The recipe from images to a quantised graph, with and without annotations, and with learned ranges."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from handeye.export.graph.graph_index import GraphIndex
from handeye.export.graph.onnx_export import open_onnx, write_onnx
from handeye.export.measurement import ImageSet, evaluate_file, evaluate_model
from handeye.export.quantization.calibration import MinMaxRule, SquaredErrorRule
from handeye.export.quantization.int8_recipe import PLAIN, Int8Config, int8_from_learned, make_int8, module_name
from handeye.export.quantization.qdq_linter import lint_for_tensorrt
from handeye.vision.errors import DatasetError, SourceError, UserError
from tests.export.graphs import chain, constant, node_named


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight smooth pictures and a COCO file that says one thing of each."""
    root = tmp_path_factory.mktemp("pictures")
    images, annotations = [], []
    for number in range(8):
        small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(root / f"{number}.png"), cv2.resize(small, (128, 96), interpolation=cv2.INTER_LINEAR))
        images.append({"id": number + 10, "file_name": f"{number}.png", "width": 128, "height": 96})
        box = [10.0 * number, 20.0, 30.0, 40.0]
        annotations.append(
            {"id": number + 1, "image_id": number + 10, "category_id": 1, "bbox": box, "area": 1200.0, "iscrowd": 0}
        )
    categories = [{"id": 1, "name": "red_cube"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))
    return root


def test_sets_of_images_are_found_or_it_is_said_why_not(folder: Path, tmp_path: Path):
    assert list(ImageSet.from_folder(folder).files) == list(range(8))
    coco = ImageSet.from_annotations(folder / "all.json")
    assert list(coco.files) == list(range(10, 18))
    assert coco.files[12] == folder / "2.png"
    with pytest.raises(SourceError, match="expected a folder with images"):
        ImageSet.from_folder(tmp_path)
    with pytest.raises(DatasetError, match=r"0\.png.*name their folder"):
        ImageSet.from_annotations(folder / "all.json", tmp_path)


def test_a_part_of_the_images_is_spread_over_all(folder: Path, float_model):
    images, preprocessing = ImageSet.from_folder(folder), float_model[1].preprocessing
    everything = list(images.inputs(preprocessing))
    some = list(images.inputs(preprocessing, 3))
    assert (len(everything), len(some)) == (8, 3)
    np.testing.assert_array_equal(some[0], everything[0])
    np.testing.assert_array_equal(some[-1], everything[-1])
    assert len(list(images.inputs(preprocessing, 100))) == 8


@pytest.mark.slow
def test_the_recipe_quantises_what_it_may_and_says_how(folder: Path, float_model):
    model, manifest = float_model
    config = Int8Config(rules=(MinMaxRule(), SquaredErrorRule()), search_images=2)
    result = make_int8(model, manifest, ImageSet.from_folder(folder), config)
    assert lint_for_tensorrt(result.model, result.keep_float) == []
    assert set(result.scores) == {"minmax", "mse"}
    assert result.rule == max(result.scores, key=lambda rule: result.scores[rule])
    assert set(result.pinned) <= result.keep_float
    assert len(result.keep_float) < result.num_layers / 2
    assert result.search is not None
    assert result.search.damage


def test_the_plain_recipe_quantises_everything(folder: Path, float_model):
    model, manifest = float_model
    result = make_int8(model, manifest, ImageSet.from_folder(folder), PLAIN)
    assert (result.keep_float, result.search, result.rule) == (frozenset(), None, "minmax")
    pairs = [node for node in result.model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) > result.num_layers


@pytest.mark.parametrize("form", ["onnxruntime", "openvino"])
def test_the_other_forms_are_made_and_judged_on_annotations(folder: Path, float_model, form):
    model, manifest = float_model
    config = Int8Config(form=form, rules=(MinMaxRule(),), equalize=False, allowed_loss=1.0)
    images = ImageSet.from_annotations(folder / "all.json")
    result = make_int8(model, manifest, images, config)
    assert ("stem" in result.pinned.values()) == (form == "onnxruntime")
    assert 0 <= evaluate_model(result.model, manifest, images, "onnxruntime") <= 1


def test_a_network_without_layers_is_refused(float_model, folder: Path):
    model = chain()
    for node in list(model.graph.node):
        if node.name != "relu":
            model.graph.node.remove(node)
    with pytest.raises(UserError, match="nothing to quantise"):
        make_int8(model, float_model[1], ImageSet.from_folder(folder), Int8Config())


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/detector/backbone/stages.0/down/conv/Conv", "backbone.stages.0.down.conv"),
        ("/detector/neck/merge/merge.0/conv/Conv", "neck.merge.0.conv"),
        ("Conv_41", ""),
    ],
)
def test_a_node_tells_its_module(node: str, module: str):
    assert module_name(node) == module


def test_learned_ranges_are_obeyed(float_model):
    model, _ = float_model
    layers = [node for node in GraphIndex(model.graph).layers() if node.name.startswith("/detector/backbone")]
    bounds = {module_name(node.name): 2.54 for node in layers[1:5]}
    result = int8_from_learned(model, bounds)
    assert lint_for_tensorrt(result.model, result.keep_float) == []
    assert result.num_layers - len(result.keep_float) == 4
    for node in layers[1:5]:
        scale = node_named(result.model, node.name).input[0].removesuffix("_dequantized") + "_scale"
        assert constant(result.model, scale) == pytest.approx(0.02)
    with pytest.raises(UserError, match="no layer of this network"):
        int8_from_learned(model, {"backbone.nothing": 1.0})


@pytest.mark.slow
def test_the_published_network_bears_eight_bits(shared, tmp_path: Path):
    """Calibrated on training images alone, judged on others; a search would only make it better."""
    model, manifest = open_onnx(shared("data/yolox_nano_coco/yolox_nano.onnx"), "yolox")
    annotations = {
        split: shared(f"data/coco_mini/annotations/instances_{split}2017.json") for split in ("train", "val")
    }
    train, val = (ImageSet.from_annotations(annotations[split]) for split in ("train", "val"))
    reached = {}
    for name, config in (("ours", Int8Config(rules=(SquaredErrorRule(),), allowed_loss=1.0)), ("plain", PLAIN)):
        path = tmp_path / f"{name}.onnx"
        result = make_int8(model, manifest, train, config)
        write_onnx(path, result.model, manifest)
        reached[name] = evaluate_file(path, val, "onnxruntime", 1, "published").AP
    assert reached["ours"] >= 0.339 - 0.010
    assert reached["plain"] < 0.2, "what the recipe is for"

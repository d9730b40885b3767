"""DETR's published weights: every recorded output of its authors' code, their keys, and the transformers library."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.checkpoints.coco_names import COCO_NAMES, COCO_NAMES_BY_CATEGORY_ID
from handeye.vision.checkpoints.detr import (
    DETR_KEY_MAPS,
    DETR_KEYS,
    DETR_TIMM_KEYS,
    DETR_TRANSFORMERS_KEYS,
    detr_config,
)
from handeye.vision.checkpoints.key_map import best_key_map
from handeye.vision.checkpoints.published import load_official, official_state_dict
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.detector import Detector
from handeye.vision.errors import ModelFileError
from handeye.vision.evaluation.average_precision import GroundTruth
from handeye.vision.heads.detr import DetrHeadConfig
from handeye.vision.heads.outputs import QueryOutput
from handeye.vision.layers.attention import sine_positions
from handeye.vision.runtime.decode import decode_query_rows
from handeye.vision.runtime.manifest import QueryRows
from tests.vision.checkpoints.conftest import Recording, rows_kept

PUBLISHED = {
    50: ("0d4e9be683b1b42a", 458, 41_524_768, 41_302_368),
    101: ("1f6a1cccebea0915", 713, 60_464_672, 60_242_272),
}
"""Fingerprint, number of keys, parameters, parameters that learn: of the authors' code."""


@dataclass
class Run:
    """The recorded network in our hands: its output for the recorded input, and what arose on the way."""

    detector: Detector
    recorded: Recording
    output: QueryOutput
    values: dict[str, Tensor]


@pytest.fixture(scope="module", params=["", "_g"])
def run(request, recording) -> Run:
    recorded = recording("detr_resnet50", request.param)
    detector = load_official("detr_resnet50", recorded.weights)
    values: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, value, place=place: values.update({place: value}))
        for place, module in recorded_modules(detector).items()
    ]
    with torch.no_grad():
        output = detector(recorded.images, targets=[BoxTargets.empty()])
    for hook in hooks:
        hook.remove()
    return Run(detector, recorded, output, values)


def recorded_modules(detector: Detector) -> dict[str, nn.Module]:
    """Where the recording's intermediate values arise in our network."""
    places: dict[str, nn.Module] = {"backbone.stem_relu": detector.backbone.stem, "input_proj": detector.head.project}
    places |= {f"backbone.layer{index + 1}": stage for index, stage in enumerate(detector.backbone.stages)}
    for part in ("encoder", "decoder"):
        places |= {f"{part}.layer{index}": layer for index, layer in enumerate(getattr(detector.head, part))}
    return places


def test_the_recorded_outputs_are_reproduced(run):
    recorded, output = run.recorded.outputs, run.output
    np.testing.assert_allclose(output.logits, recorded["pred_logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(output.boxes_cxcywh_norm, recorded["pred_boxes"], rtol=0, atol=1e-5)
    assert output.input_hw == (256, 320)
    assert len(output.layers) == 5
    for index, layer in enumerate(output.layers):
        logits = rows_kept(layer.logits, "aux_logits", recorded)
        np.testing.assert_allclose(logits, recorded["aux_logits"][index], rtol=0, atol=5e-5)
        np.testing.assert_allclose(layer.boxes_cxcywh_norm, recorded["aux_boxes"][index], rtol=0, atol=1e-5)


def test_the_recorded_intermediate_values_are_reproduced(run):
    recorded = run.recorded.outputs
    assert {key.rpartition(".")[0] for key in recorded if key.endswith(".crop")} == set(run.values)
    for place, values in run.values.items():
        tolerance = 1e-4 * max(1.0, float(recorded[f"{place}.std"]))
        assert tuple(values.shape) == tuple(recorded[f"{place}.shape"])
        summaries = {"mean": values.mean(), "std": values.std(correction=0)}
        if values.ndim == 4:
            summaries |= {"crop": values[0, :8, :4, :4], "chan_mean": values[0].mean(dim=(1, 2))}
        else:
            summaries["crop"] = values[0, :8, :32]
        for summary, ours in summaries.items():
            np.testing.assert_allclose(ours, recorded[f"{place}.{summary}"], rtol=0, atol=tolerance)
    memory = rows_kept(run.values["encoder.layer5"], "encoder.memory", recorded)
    np.testing.assert_allclose(memory, recorded["encoder.memory"], rtol=0, atol=1e-4)
    last = run.detector.head.decoder_norm(run.values["decoder.layer5"])
    np.testing.assert_allclose(last.detach(), recorded["decoder.hs_last"], rtol=0, atol=1e-4)


def test_the_recorded_positions_are_reproduced(run):
    positions = sine_positions(torch.zeros(1, 8, 10, dtype=torch.bool), 256)
    np.testing.assert_allclose(positions, run.recorded.outputs["pos"], rtol=0, atol=1e-6)


def test_a_padded_batch_is_reproduced(run):
    images, is_pad = torch.zeros(2, 3, 256, 320), torch.ones(2, 256, 320, dtype=torch.bool)
    for index, (seed, (height, width)) in enumerate(((7, (256, 320)), (11, (224, 288)))):
        generator = np.random.Generator(np.random.PCG64(seed))
        images[index, :, :height, :width] = torch.from_numpy(generator.random((3, height, width), dtype=np.float32))
        is_pad[index, :height, :width] = False
    with torch.no_grad():
        output = run.detector(images, is_pad=is_pad)
    recorded = run.recorded.outputs
    np.testing.assert_allclose(output.logits, recorded["padded.pred_logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(output.boxes_cxcywh_norm, recorded["padded.pred_boxes"], rtol=0, atol=1e-5)
    positions = sine_positions(is_pad[1:, ::32, ::32], 256)
    np.testing.assert_allclose(positions[0], recorded["padded.pos1"], rtol=0, atol=1e-6)


def test_post_processing_is_reproduced(run):
    """All queries, each with its best class, boxes in pixels of the image."""
    recorded = run.recorded.outputs
    rows = run.output.rows[0].numpy()
    image_hw = tuple(int(side) for side in recorded["post.target_size_hw"])
    found = decode_query_rows(rows, image_hw, QueryRows(classes_per_query="one"), score_threshold=0.0)
    np.testing.assert_allclose(found.scores, recorded["post.scores"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.class_ids, recorded["post.labels"])
    np.testing.assert_allclose(found.boxes_xyxy, recorded["post.boxes"], rtol=0, atol=1e-2)


@pytest.mark.parametrize("depth", PUBLISHED)
def test_names_shapes_and_counts_are_the_published_ones(depth):
    fingerprint, num_keys, parameters, trainable = PUBLISHED[depth]
    with torch.device("meta"):
        detector = Detector(published_models()[f"detr_resnet{depth}"].config)
    state_dict = official_state_dict(detector)
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in state_dict.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == fingerprint
    assert len(state_dict) == num_keys
    assert sum(weight.numel() for weight in detector.parameters()) == parameters
    assert sum(weight.numel() for weight in detector.parameters() if weight.requires_grad) == trainable


def small_detr() -> Detector:
    """DETR with a ResNet-50 of one block a stage and a small transformer, all weights random."""
    config = detr_config(50, ("cup", "spoon", "fork"))
    head = DetrHeadConfig(
        num_queries=12, hidden_dim=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2, feed_forward_dim=48
    )
    backbone = config.backbone.model_copy(update={"blocks_per_stage": (1, 1, 1, 1)})
    torch.manual_seed(0)
    detector = Detector(config.model_copy(update={"head": head, "backbone": backbone})).eval()
    for name, values in detector.state_dict().items():
        if values.ndim == 1:
            noise = 0.2 * torch.randn_like(values)
            values.copy_(1 + noise.abs() if name.endswith(("norm.weight", "running_var")) else noise)
    return detector


@pytest.mark.parametrize("key_map", DETR_KEY_MAPS)
def test_every_naming_is_one_to_one_and_recognised(key_map):
    own = small_detr().state_dict()
    published = key_map.to_published(own)
    assert best_key_map(DETR_KEY_MAPS, published, own) is key_map
    ours = key_map.to_ours(published, own, origin="small")
    assert ours.keys() == own.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, own[key], rtol=0, atol=0)


def test_files_of_transformers_spell_some_keys_otherwise():
    own = small_detr().state_dict()
    in_memory = DETR_TIMM_KEYS.to_published(own)
    on_disk = {
        key.replace("model.backbone.model.", "model.backbone.conv_encoder.model.")
        .replace(".o_proj.", ".out_proj.")
        .replace(".mlp.fc", ".fc"): value
        for key, value in in_memory.items()
    }
    assert "model.encoder.layers.0.self_attn.out_proj.weight" in on_disk
    assert "model.decoder.layers.1.fc2.bias" in on_disk
    assert best_key_map(DETR_KEY_MAPS, on_disk, own) is DETR_TIMM_KEYS
    assert DETR_TIMM_KEYS.to_ours(on_disk, own, origin="file").keys() == own.keys()


def test_what_does_not_fit_is_listed_under_its_published_names():
    detector = small_detr()
    weights = DETR_KEYS.to_published(detector.state_dict())
    weights["extra"] = weights.pop("query_embed.weight")
    weights["transformer.decoder.layers.0.self_attn.in_proj_bias"] = torch.zeros(7)
    with pytest.raises(ModelFileError) as refusal:
        DETR_KEYS.to_ours(weights, detector.state_dict(), origin="small")
    message = str(refusal.value)
    assert "missing: query_embed.weight" in message
    assert "unexpected: extra" in message
    assert "misshapen: transformer.decoder.layers.0.self_attn.in_proj_bias (7,) instead of (96,)" in message


def peer_of(detector: Detector) -> nn.Module:
    """transformers' DETR of the same size with the same weights, under the names of our key map."""
    transformers = pytest.importorskip("transformers")
    head = detector.config.head
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=transformers.ResNetConfig(depths=list(detector.config.backbone.blocks_per_stage)),
        num_labels=detector.config.num_classes,
        num_queries=head.num_queries,
        d_model=head.hidden_dim,
        encoder_layers=head.num_encoder_layers,
        decoder_layers=head.num_decoder_layers,
        encoder_attention_heads=head.num_heads,
        decoder_attention_heads=head.num_heads,
        encoder_ffn_dim=head.feed_forward_dim,
        decoder_ffn_dim=head.feed_forward_dim,
    )
    peer = transformers.DetrForObjectDetection(config).eval()
    peer.load_state_dict(DETR_TRANSFORMERS_KEYS.to_published(detector.state_dict()), strict=True)
    return peer


@pytest.mark.parametrize("input_hw", [(96, 128), (100, 75)])
def test_the_transformers_library_agrees(input_hw):
    detector = small_detr()
    peer = peer_of(detector)
    images = torch.rand(2, 3, *input_hw, generator=torch.Generator().manual_seed(1))
    is_pad = torch.zeros(2, *input_hw, dtype=torch.bool)
    is_pad[1, 70:], is_pad[1, :, 40:] = True, True
    for mask in (None, is_pad):
        with torch.no_grad():
            theirs = peer(images, pixel_mask=torch.ones_like(is_pad).long() if mask is None else (~mask).long())
            ours = detector(images, is_pad=mask)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.boxes_cxcywh_norm, theirs.pred_boxes, rtol=0, atol=1e-5)
        assert ours.input_hw == input_hw


def test_weights_of_the_transformers_library_are_read():
    detector = small_detr()
    weights = peer_of(detector).state_dict()
    own = detector.state_dict()
    ours = best_key_map(DETR_KEY_MAPS, weights, own).to_ours(weights, own, origin="transformers")
    for key, value in ours.items():
        torch.testing.assert_close(value, own[key], rtol=0, atol=0)


def test_the_class_of_detr_is_the_category_id_of_coco():
    """The category ids of section 7 of the reference: 80 names at their ids, and names of their own for the rest."""
    used = [index for index, name in enumerate(COCO_NAMES_BY_CATEGORY_ID) if name in COCO_NAMES]
    assert len(set(COCO_NAMES_BY_CATEGORY_ID)) == len(COCO_NAMES_BY_CATEGORY_ID) == 91
    assert tuple(COCO_NAMES_BY_CATEGORY_ID[index] for index in used) == COCO_NAMES
    some = {
        1: "person",
        13: "stop sign",
        27: "backpack",
        44: "bottle",
        67: "dining table",
        70: "toilet",
        90: "toothbrush",
    }
    assert {index: COCO_NAMES_BY_CATEGORY_ID[index] for index in some} == some


def test_coco_evaluation_finds_the_categories_by_name(coco_val2014):
    ground_truth = GroundTruth.read(coco_val2014 / "instances_val2014_100.json")
    mapped = ground_truth.category_of_class(COCO_NAMES_BY_CATEGORY_ID)
    assert len(mapped) == 80
    assert all(class_id == category_id for class_id, category_id in mapped.items())

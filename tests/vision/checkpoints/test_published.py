"""Published weights: recorded outputs of the authors' code, fingerprints of their files, refusals in words."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from handeye.vision.checkpoints.published import (
    key_maps_of,
    load_official,
    official_names,
    official_state_dict,
    read_published_file,
)
from handeye.vision.checkpoints.yolox import YOLOX_KEYS
from handeye.vision.checkpoints.zoo import published_models
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ModelFileError, UserError
from handeye.vision.heads.yolo_grid import YoloGridHeadConfig
from handeye.vision.necks.build import LevelsConfig
from tests.vision.checkpoints.conftest import rows_kept

PUBLISHED = {
    "yolox_nano": ("596fd4bc367ac778", "8e260bfa8a6324d2", 642, 912_159),
    "yolox_tiny": ("afd80905d8742008", "4be083eabeb47641", 462, 5_055_855),
    "yolox_s": ("abcb71c53478b14d", "8658325e66da5311", 462, 8_968_255),
    "yolox_m": ("a13d6c44f4b4896a", "f1a2288ae5c0fbdf", 606, 25_326_495),
    "yolox_l": ("325e3d01f457bf0a", "4fe45fcdd0dca44d", 750, 54_208_895),
    "yolox_x": ("1e166b8e688fe657", "012cc5090578aa6d", 894, 99_071_455),
}
"""Fingerprint with and without batch counters, number of keys, parameters: of the authors' code."""
NETWORKS = [(name, variant) for name in ("yolox_nano", "yolox_s") for variant in ("", "_g")]


def fingerprint(state_dict: dict[str, Tensor]) -> str:
    lines = sorted(f"{key} {'x'.join(map(str, value.shape))}" for key, value in state_dict.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def recorded_modules(detector: Detector) -> dict[str, nn.Module]:
    """Where the recording's intermediate maps arise in our network."""
    backbone, head = detector.backbone, detector.head
    places: dict[str, nn.Module] = {"backbone.stem": backbone.stem}
    places |= {f"backbone.dark{index + 2}": stage for index, stage in enumerate(backbone.stages)}
    places |= {"fpn.p3": detector.neck.merge_down[0], "fpn.p4": detector.neck.merge_up[0]}
    places |= {"fpn.p5": detector.neck.merge_up[1]}
    for index, level in enumerate(head.levels):
        assert isinstance(level, nn.Module)
        places[f"head.stem{index}"] = level.get_submodule("stem")
        places[f"head.cls_logits{index}"] = level.get_submodule("predict_class")
        places[f"head.reg{index}"] = level.get_submodule("predict_box")
        places[f"head.obj_logits{index}"] = level.get_submodule("predict_objectness")
    return places


@pytest.mark.parametrize(("name", "variant"), NETWORKS)
def test_the_recorded_outputs_are_reproduced(recording, name, variant):
    recorded = recording(name, variant)
    detector = load_official(name, recorded.weights)
    with torch.no_grad():
        output = detector(recorded.images)
    tolerance = 1e-5 if variant else 2e-6
    rows, boxes = recorded.outputs["raw"], recorded.outputs["decoded_boxes"]
    undecoded, raw = (rows_kept(values, "raw", recorded.outputs) for values in (output.undecoded, output.raw))
    decoded = rows_kept(output.boxes_cxcywh, "decoded_boxes", recorded.outputs)
    np.testing.assert_allclose(undecoded, rows, rtol=0, atol=tolerance)
    np.testing.assert_allclose(decoded, boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(raw[..., 4:], rows[..., 4:], rtol=0, atol=tolerance)
    assert sum(weight.numel() for weight in detector.parameters()) == recorded.meta["parameters"]


@pytest.mark.parametrize(("name", "variant"), NETWORKS)
def test_the_recorded_intermediate_maps_are_reproduced(recording, name, variant):
    recorded = recording(name, variant)
    detector = load_official(name, recorded.weights)
    maps: dict[str, Tensor] = {}
    places = recorded_modules(detector)
    for place, module in places.items():
        module.register_forward_hook(lambda _, __, output, place=place: maps.update({place: output.clone()}))
    with torch.no_grad():
        detector(recorded.images)
    assert {key.rpartition(".")[0] for key in recorded.outputs if key.endswith(".crop")} == set(places)
    for place, values in maps.items():
        tolerance = 1e-4 * max(1.0, float(recorded.outputs[f"{place}.std"]))
        assert tuple(values.shape) == tuple(recorded.outputs[f"{place}.shape"])
        for summary, ours in (
            ("crop", values[0, :8, :4, :4]),
            ("chan_mean", values[0].mean(dim=(1, 2))),
            ("mean", values.mean()),
            ("std", values.std(correction=0)),
        ):
            np.testing.assert_allclose(ours, recorded.outputs[f"{place}.{summary}"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_counts_are_the_published_ones(name):
    with_counters, without_counters, num_keys, parameters = PUBLISHED[name]
    with torch.device("meta"):
        detector = Detector(published_models()[name].config)
    state_dict = official_state_dict(detector)
    counted = {key: value for key, value in state_dict.items() if not key.endswith("num_batches_tracked")}
    assert len(state_dict) == len(detector.state_dict()) == num_keys
    assert (fingerprint(state_dict), fingerprint(counted)) == (with_counters, without_counters)
    assert sum(weight.numel() for weight in detector.parameters()) == parameters


def test_the_names_are_listed_family_by_family_in_order_of_size():
    rtdetr_sizes = ("r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd")
    assert official_names() == [
        *PUBLISHED,
        *(f"detr_resnet{depth}" for depth in (50, 101)),
        *(f"{version}_{size}" for version in ("rtdetr", "rtdetrv2") for size in rtdetr_sizes),
        *(f"dfine_{size}" for size in "nsmlx"),
    ]


def test_a_head_that_nobody_published_has_no_official_names():
    config = DetectorConfig(neck=LevelsConfig(), head=YoloGridHeadConfig(), num_classes=2, class_names=("a", "b"))
    with pytest.raises(UserError, match="no published naming is known for a detector with the head 'yolo_grid'"):
        key_maps_of(config)


def test_the_key_map_is_one_to_one_and_survives_a_round_trip():
    name = "yolox_nano"
    first = Detector(published_models()[name].config)
    second = load_official(name, official_state_dict(first))
    ours = first.state_dict()
    assert len({YOLOX_KEYS.published_key(key) for key in ours}) == len(ours)
    for key, value in second.state_dict().items():
        torch.testing.assert_close(value, ours[key], rtol=0, atol=0)


def test_batch_counters_may_be_absent(recording):
    weights = recording("yolox_nano", "").weights
    bare = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    detector = load_official("yolox_nano", bare)
    assert not detector.training


def test_what_does_not_fit_is_listed_under_its_published_names(recording):
    weights = dict(recording("yolox_nano", "").weights)
    weights["head.extra.weight"] = weights.pop("head.stems.0.conv.weight")
    weights["head.cls_preds.2.bias"] = torch.zeros(7)
    with pytest.raises(ModelFileError) as refusal:
        load_official("yolox_nano", weights)
    message = str(refusal.value)
    assert "missing: head.stems.0.conv.weight" in message
    assert "unexpected: head.extra.weight" in message
    assert "misshapen: head.cls_preds.2.bias (7,) instead of (80,)" in message


def test_weights_of_another_size_are_refused_in_few_lines(recording):
    with pytest.raises(ModelFileError, match="and [0-9]+ more") as refusal:
        load_official("yolox_s", recording("yolox_nano", "").weights)
    assert len(str(refusal.value)) < 3000


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="expected one of yolox_nano, yolox_tiny"):
        load_official("yolox_huge", {})


def test_weights_for_other_classes_load_with_their_names():
    config = published_models()["yolox_nano"].config
    names = ("cup", "spoon", "fork")
    with_three = Detector(config.model_copy(update={"num_classes": 3, "class_names": names}))
    loaded = load_official("yolox_nano", official_state_dict(with_three), names)
    assert loaded.config.class_names == names
    with pytest.raises(ModelFileError, match="misshapen"):
        load_official("yolox_nano", official_state_dict(with_three))


WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.num_batches_tracked": torch.tensor(3)}


@pytest.mark.parametrize(
    "content",
    [WEIGHTS, {"model": WEIGHTS, "epoch": 3}, {"state_dict": WEIGHTS}, {"ema": {"module": WEIGHTS}, "model": {}}],
)
def test_published_files_are_unwrapped(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    read = read_published_file(tmp_path / "weights.pth")
    assert set(read) == set(WEIGHTS)
    torch.testing.assert_close(read["a.weight"], WEIGHTS["a.weight"])


def test_the_moving_average_is_preferred(tmp_path):
    plain = {"a.weight": torch.zeros(2, 3)}
    torch.save({"model": plain, "ema": {"module": WEIGHTS}}, tmp_path / "weights.pth")
    assert read_published_file(tmp_path / "weights.pth")["a.weight"].sum() == 15


def test_safetensors_are_read_too(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.safetensors")
    torch.testing.assert_close(read_published_file(tmp_path / "weights.safetensors"), WEIGHTS)


class Intruder:
    """Pickled, it would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_with_code_inside_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "intruder_was_here"
    torch.save({"model": WEIGHTS, "extra": Intruder(trace)}, tmp_path / "weights.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Intruder(trace), protocol=2))
    for name in ("weights.pth", "bare.pth"):
        with pytest.raises(ModelFileError, match="other than tensors"):
            read_published_file(tmp_path / name)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"weights{suffix}"):
        read_published_file(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"a": 1}}, {}])
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelFileError, match="contains no weights"):
        read_published_file(tmp_path / "weights.pth")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        read_published_file(tmp_path / "absent.pth")

"""A student learns from a teacher in the ordinary loop, goes on bit for bit, and is refused one that cannot teach."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from handeye.vision.checkpoints.native import load_detector, save_detector
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.training.detector_features import DistillationFeature
from handeye.vision.training.distillation import Distillation, DistillationConfig, require_compatible, shared_strides
from handeye.vision.training.train_detector import Training
from tests.vision.training.conftest import NANO, losses_of, train_to_step

CLASSES = ("red", "green")
WIDER = {
    **NANO,
    "backbone": {"kind": "cspdarknet", "depth": 0.33, "width": 0.3125},
    "neck": {"kind": "path_aggregation", "depth": 0.33},
    "head": {"kind": "yolox", "hidden_dim": 32},
}
RESNET = {"kind": "resnet", "depth": 18, "blocks_per_stage": [1, 1, 1, 1]}
QUERIES = {
    "backbone": RESNET,
    "neck": {"kind": "hybrid_encoder", "hidden_dim": 32, "feed_forward_dim": 32},
    "head": {"kind": "rtdetr", "hidden_dim": 32, "num_decoder_layers": 1, "num_queries": 12, "num_denoising": 0},
    "preprocessing": {"size_hw": [96, 96]},
}


def saved(folder: Path, **parts: object) -> Path:
    torch.manual_seed(5)
    path = folder / "teacher.safetensors"
    save_detector(path, Detector(DetectorConfig.model_validate({**WIDER, "class_names": CLASSES, **parts})))
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """Wider than the student, of ordinary convolutions."""
    return saved(tmp_path_factory.mktemp("teacher"))


def test_the_loss_is_that_of_the_equation(small_config, teacher, tmp_path):
    shares = {}
    for alpha in (1.0, 0.25):
        config = small_config(distillation={"teacher": teacher, "alpha": alpha})
        shares[alpha] = losses_of(train_to_step(config, tmp_path / f"{alpha}", 1))[0]
    ours = [name for name in shares[1.0] if not name.startswith("imitated")]
    for name in ours:
        if name != "total":
            assert shares[0.25][name] == pytest.approx(0.25 * shares[1.0][name], rel=1e-5)
    imitated = [name for name in shares[1.0] if name not in ours]
    assert {"imitated_objectness", "imitated_class", "imitated_box", "imitated_features"} == set(imitated)
    assert all(shares[1.0][name] == 0 for name in imitated)
    assert all(shares[0.25][name] > 0 for name in imitated)
    for losses in shares.values():
        assert losses["total"] == pytest.approx(sum(losses.values()) - losses["total"], rel=1e-5)


def distillation_of(training: Training) -> Distillation:
    (feature,) = (one for one in training.features if isinstance(one, DistillationFeature))
    return feature.distillation


def test_going_on_changes_nothing_and_the_teacher_stays_as_it_was(small_config, teacher, tmp_path):
    config = small_config(distillation={"teacher": teacher})
    before = load_file(teacher)
    whole = train_to_step(config, tmp_path / "whole", 4)
    train_to_step(config, tmp_path / "parts", 2)
    parts = train_to_step(config, tmp_path / "parts", 4)
    assert losses_of(parts) == losses_of(whole)
    ours, theirs = load_file(parts.run.last), load_file(whole.run.last)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not distillation_of(whole).teacher.training
    now = distillation_of(whole).teacher.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in before.items())
    assert load_detector(parts.run.last).config.num_classes == 2  # the adapters are not shipped


def test_the_adapters_learn_too(small_config, teacher, tmp_path):
    config = small_config(distillation={"teacher": teacher})
    first, later = (train_to_step(config, tmp_path / f"{step}", step) for step in (0, 2))
    before, after = (distillation_of(one).network.adapters.state_dict() for one in (first, later))
    assert len(before) == 3  # one for each stride
    assert not any(torch.equal(before[name], after[name]) for name in before)


def test_a_student_comes_near_to_its_teacher(small_config, teacher, tmp_path):
    """Of the teacher's word alone (alpha 0) the imitation falls, features and answers alike."""
    config = small_config(
        epochs=20,
        distillation={"teacher": teacher, "alpha": 0.0},
        ema=None,
        augmentation={"mosaic": {"probability": 0}, "weak_last_epochs": 20},
        optimizer={"kind": "adamw", "lr": 4e-3},
        schedule={"warmup_epochs": 0, "constant_last_epochs": 0},
    )
    losses = losses_of(train_to_step(config, tmp_path / "run", 24))
    for name, share in {"imitated_features": 0.95, "imitated_box": 0.5, "imitated_objectness": 0.2}.items():
        first, last = (sum(entry[name] for entry in part) for part in (losses[:5], losses[-5:]))
        assert last < share * first, name


def test_any_two_architectures_share_features(small_config, tmp_path):
    only_features = {"teacher": saved(tmp_path, **QUERIES), "logits_weight": 0, "box_weight": 0}
    losses = losses_of(train_to_step(small_config(distillation=only_features), tmp_path / "run", 1))[0]
    assert losses["imitated_features"] > 0
    assert not losses.keys() & {"imitated_class", "imitated_box"}


def test_heads_of_queries_teach_one_another(small_config, tmp_path):
    config = small_config(detector=QUERIES, distillation={"teacher": saved(tmp_path, **QUERIES)}, ema=None)
    losses = losses_of(train_to_step(config, tmp_path / "run", 1))[0]
    assert {"imitated_class", "imitated_box"} <= losses.keys()
    assert losses["imitated_features"] > 0


def test_a_teacher_that_cannot_teach_is_refused(teacher, tmp_path):
    detector = load_detector(teacher)
    config = DistillationConfig(teacher=teacher)
    student = detector.config
    require_compatible(config, student, detector)
    strangers = student.model_copy(update={"class_names": ("green", "red")})
    with pytest.raises(ConfigError, match="has the classes red, green; the student has green, red"):
        require_compatible(config, strangers, detector)
    queries = Detector(DetectorConfig.model_validate({**QUERIES, "class_names": CLASSES}))
    with pytest.raises(ConfigError, match=r"kind yolox, the student's of kind rtdetr.*logits_weight=0"):
        require_compatible(config, queries.config, detector)
    mute = DistillationConfig(teacher=teacher, logits_weight=0, box_weight=0, feature_weight=0)
    with pytest.raises(ConfigError, match="nothing would be imitated"):
        require_compatible(mute, student, detector)
    v3 = student.model_copy(update={"head": grid_head("v3")})
    v5_teacher = Detector(student.model_copy(update={"head": grid_head("v5")}))
    with pytest.raises(ConfigError, match="boxes are those of v5, the student's of v3"):
        require_compatible(config, v3, v5_teacher)
    fine = {"backbone": {**RESNET, "strides": [4]}, "neck": {"kind": "levels"}, "class_names": CLASSES}
    with_stride_4 = Detector(DetectorConfig.model_validate({**WIDER, **fine}))
    with pytest.raises(ConfigError, match=r"strides \[8, 16, 32\].*none is in both"):
        shared_strides(detector, with_stride_4)


def grid_head(version: str):
    head = {"kind": "yolo_grid", "version": version}
    return DetectorConfig.model_validate({**WIDER, "class_names": CLASSES, "head": head}).head

"""Spread over one process here, where every parameter is a sharded one too; over two in test_processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.distributed.tensor import DTensor

from handeye.vision.boxes.targets import BoxTargets
from handeye.vision.config import validate_config
from handeye.vision.detector import Detector, DetectorConfig
from handeye.vision.errors import ConfigError
from handeye.vision.losses.build import build_loss
from handeye.vision.training.optimizer import AdamWConfig, Ema, EmaConfig, build_optimizer
from handeye.vision.training.sharding import gathered_into, learning_parameters, shard, sharded_states, whole
from tests.test_matrix import FEW, SMALL, load
from tests.vision.training.conftest import SMALL as FEW_LAYERS

CPU = torch.device("cpu")
TARGETS = [BoxTargets(torch.tensor([[8.0, 8.0, 40.0, 48.0]]), torch.tensor([1])), BoxTargets.empty()]


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of this process alone."""
    meeting_place = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting_place}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def small_detector(name: str) -> Detector:
    """One of the thirty pairs, its head small; the same weights at every call."""
    torch.manual_seed(0)
    return Detector(load(name, *SMALL.get(name.rpartition("_")[2], [])).detector).train()


def learn(detector: Detector) -> float:
    """The loss of two pictures, whose gradients are left in the detector."""
    torch.manual_seed(1)
    output = detector(torch.rand(2, 3, 64, 64, dtype=next(detector.parameters()).dtype), TARGETS)
    loss = build_loss(None, detector.config.head)(output, TARGETS, with_l1=False)["total"]
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "cspdarknet_yolox")) for name in FEW]
)
def test_any_detector_learns_the_same_when_its_parts_gather_one_after_the_other(name: str):
    detector = small_detector(name).double()
    sharded = shard(copy.deepcopy(detector), learning_parameters(detector), CPU)
    assert all(isinstance(parameter, DTensor) == parameter.requires_grad for parameter in sharded.parameters())
    assert learn(sharded) == pytest.approx(learn(detector), rel=1e-12)
    for (key, ours), expected in zip(sharded.named_parameters(), detector.parameters(), strict=True):
        assert (ours.grad is None) == (expected.grad is None), key
        if expected.grad is not None:
            torch.testing.assert_close(whole(ours.grad), expected.grad, rtol=1e-9, atol=1e-12)


def test_a_state_is_saved_whole_and_loaded_into_shares(tmp_path: Path):
    def small() -> Detector:
        torch.manual_seed(0)
        return Detector(validate_config(DetectorConfig, {**FEW_LAYERS, "num_classes": 3}, origin="test"))

    def parts() -> dict:
        detector = small()
        average = Ema(EmaConfig(decay=0.5, ramp_steps=0.1), detector)
        names = learning_parameters(detector)
        for network in (detector, average.model):
            shard(network, names, CPU)
        optimizer = build_optimizer(AdamWConfig(), detector.head, 1)  # of all weights it would take seconds
        return {"detector": detector, "ema": average, "optimizer": optimizer}

    trained, fresh = parts(), parts()
    learn(trained["detector"])
    trained["optimizer"].step()
    trained["ema"].update(trained["detector"])
    saved = {name: part.state_dict() for name, part in sharded_states(trained).items()}
    torch.save(saved, tmp_path / "state.pt")
    for name, part in sharded_states(fresh).items():
        part.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)[name])
    assert all(isinstance(parameter, DTensor) for parameter in fresh["detector"].parameters())
    for name, part in sharded_states(fresh).items():
        torch.testing.assert_close(part.state_dict(), saved[name], rtol=0, atol=0)
    before, after = small(), small()
    gathered_into(after, trained["ema"].model)
    learnt = trained["detector"].state_dict()
    for key, value in after.named_parameters():
        torch.testing.assert_close(value, (before.get_parameter(key) + whole(learnt[key])) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "other", [{"compile": True}, {"precision": "fp16"}, {"start_from": "x", "pruning": {"kind": "magnitude"}}]
)
def test_what_does_not_go_together_is_refused(small_config, other: dict):
    with pytest.raises(ConfigError, match=f"shard_weights does not go together with {list(other)[-1]}"):
        small_config(shard_weights=True, **other)


def test_a_torch_that_cannot_leave_parameters_whole_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cu124")
    with pytest.raises(ConfigError, match=r"shard_weights needs torch 2.7 or newer, got 2.6.0\+cu124"):
        shard(small_detector("cspdarknet_yolox"), [], CPU)
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    shard(small_detector("cspdarknet_yolox"), [], CPU)

"""Units around the network, and the file that holds all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from handeye.robot.learning.act_policy import ActPolicy, ActPolicyConfig, Observations
from handeye.robot.learning.checkpoint import is_policy_file, load_policy, read_metadata, save_policy
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.vision.errors import ConfigError, ModelFileError
from tests.robot.learning.small_policy import CHUNK, small_network, small_policy, small_signature


def observations(num_cameras: int = 0, batch: int = 2) -> Observations:
    torch.manual_seed(4)
    images = tuple(torch.randint(0, 256, (batch, 32, 48, 3), dtype=torch.uint8) for _ in range(num_cameras))
    return Observations(torch.randn(batch, 3), torch.randn(batch, 2), images)


@pytest.mark.parametrize("relative", [0, 2, 3])
def test_a_network_that_repeats_its_lesson_acts_as_recorded(relative: int) -> None:
    policy, seen = small_policy(relative=relative), observations()
    actions = torch.randn(2, CHUNK, 3)
    lesson = policy.demonstration(seen, actions, torch.zeros(2, CHUNK, dtype=torch.bool))
    origin = torch.cat((seen.state[:, :relative], torch.zeros(2, 3 - relative)), dim=1)[:, None]
    acted = policy.normalise_action.invert(lesson.actions) + origin
    torch.testing.assert_close(acted, actions)
    network = policy.act(policy.normalise(seen)).actions
    torch.testing.assert_close(policy(seen), policy.normalise_action.invert(network) + origin)


def test_relative_actions_move_with_the_state() -> None:
    policy, seen = small_policy(relative=2), observations()
    # A network that sees nothing: what is left is what its actions are measured from.
    for parameter in policy.act.parameters():
        parameter.detach().zero_()
    moved = Observations(seen.state + torch.tensor([1.0, 2.0, 4.0]), seen.environment)
    shift = policy(moved) - policy(seen)
    torch.testing.assert_close(shift, torch.tensor([1.0, 2.0, 0.0]).expand(2, CHUNK, 3))


def test_images_become_what_imagenet_networks_expect() -> None:
    policy = small_policy(("wrist",))
    image = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(1, 32, 48, 3)
    seen = Observations(torch.zeros(1, 3), torch.zeros(1, 2), (image,))
    normal = policy.normalise(seen).images[0]
    assert normal.shape == (1, 3, 32, 48)
    wanted = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normal[0, :, 3, 5].tolist() == pytest.approx(wanted, abs=1e-5)


def test_relative_actions_need_the_same_numbers_in_state_and_action() -> None:
    signature = PolicySignature(state_names=("q1", "q2"), action_names=("q1", "grip"), fps=10)
    config = ActPolicyConfig(network=small_network(), relative_actions=2)
    with pytest.raises(ConfigError, match="relative_actions 2: .* q1, q2 and q1, grip"):
        ActPolicy(config, signature)


def test_recorded_targets_count_as_the_numbers_that_they_are_wanted_for() -> None:
    config = ActPolicyConfig(network=small_network(), relative_actions=1)
    policy = ActPolicy(config, PolicySignature(state_names=("q_1",), action_names=("q_target_1", "grip"), fps=10))
    assert policy.signature.action_names == ("q_target_1", "grip")
    with pytest.raises(ConfigError, match="relative_actions 1"):
        ActPolicy(config, PolicySignature(state_names=("q_2",), action_names=("q_target_1", "grip"), fps=10))


@pytest.mark.parametrize("cameras", [(), ("wrist", "scene")])
def test_a_saved_policy_acts_the_same(tmp_path: Path, cameras: tuple[str, ...]) -> None:
    policy, seen = small_policy(cameras, relative=2), observations(len(cameras))
    save_policy(tmp_path / "policy.safetensors", policy, {"step": "7"})
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert loaded.config == policy.config
    assert loaded.signature == policy.signature
    weights = policy.state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())
    torch.testing.assert_close(loaded(seen), policy(seen))
    assert read_metadata(tmp_path / "policy.safetensors")["step"] == "7"
    assert is_policy_file(tmp_path / "policy.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    with pytest.raises(ModelFileError, match="no such file"):
        load_policy(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ModelFileError, match="not a readable safetensors file"):
        load_policy(path)
    save_file({"x": torch.zeros(1)}, path, {"format": "handeye-detector-1"})
    with pytest.raises(ModelFileError, match="is not a policy of handeye"):
        load_policy(path)
    assert not is_policy_file(path)
    assert not is_policy_file(tmp_path / "absent")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("act.predict_action.bias", float("nan"), "act.predict_action.bias holds numbers that are not finite"),
        ("normalise_state.std", 0.0, "q1 never changes"),
        ("normalise_action.mean", float("inf"), "normalise_action.mean"),
    ],
)
def test_numbers_that_no_training_leaves_behind_are_refused(tmp_path: Path, key: str, value: float, told: str) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, small_policy())
    metadata, weights = read_metadata(path), load_file(path)
    weights[key] = torch.full_like(weights[key], value)
    save_file(weights, path, metadata)
    with pytest.raises(ModelFileError, match=told):
        load_policy(path)


def test_weights_of_another_size_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    policy = small_policy()
    save_policy(path, policy)
    metadata, weights = read_metadata(path), load_file(path)
    del weights["act.queries.weight"]
    save_file(weights, path, metadata | {"signature": small_signature(environment=5).model_dump_json()})
    with pytest.raises(ModelFileError, match="missing: act.queries.weight.*misshapen: act.embed_environment.weight"):
        load_policy(path)

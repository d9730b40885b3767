"""LeRobot's ACT: what its own code computed with weights by formula, recorded by record_lerobot_act.py beside this."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from handeye.robot.learning.act import ActLossConfig, Demonstration, act_loss
from handeye.robot.learning.act_policy import ActPolicy, Observations
from handeye.robot.learning.checkpoint import LEROBOT_KEYS
from handeye.robot.learning.export import export_policy, measure_policy_parity
from handeye.robot.learning.import_lerobot import load_lerobot_policy
from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.vision.errors import ModelFileError
from tests.formula_weights import formula_weight

RECORDED = Path(__file__).parent / "lerobot_act"
VARIANTS = ("state", "images")
TOLERANCE = 2e-5
FEATURE_KEYS = (("input", "observation.state"), ("output", "action"))
NORMALIZER = "policy_preprocessor_step_3_normalizer_processor.safetensors"
NUM_PAD = 2

Recorded = Mapping[str, np.ndarray]


def weights_of(variant: str) -> dict[str, Tensor]:
    shapes = json.loads((RECORDED / variant / "shapes.json").read_text())
    kept = {key: torch.full(shape, torch.nan) for key, shape in shapes["kept"].items()}
    return kept | {key: formula_weight(key, tuple(shape), shapes["gain"]) for key, shape in shapes["weights"].items()}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder as LeRobot stores it; the recorded one with the weights put in."""
    folders: dict[str, Path] = {}

    def store(variant: str) -> Path:
        if variant not in folders:
            folders[variant] = tmp_path_factory.mktemp("lerobot") / variant
            shutil.copytree(RECORDED / variant, folders[variant])
            save_file(weights_of(variant), folders[variant] / "model.safetensors")
        return folders[variant]

    return store


@pytest.fixture
def copied(stored: Callable[[str], Path], tmp_path: Path) -> Path:
    return shutil.copytree(stored("state"), tmp_path / "copy")


def images_of(*shapes: tuple[int, ...]) -> dict[str, Any]:
    images = {f"observation.images.{index}": {"type": "VISUAL", "shape": shape} for index, shape in enumerate(shapes)}
    return images | {"observation.state": {"type": "STATE", "shape": (5,)}}


def recorded_of(variant: str) -> Recorded:
    return np.load(RECORDED / variant / "recorded.npz")


def observed(policy: ActPolicy, recorded: Recorded) -> Observations:
    inputs = {key: torch.from_numpy(recorded[key]) for key in recorded if key.startswith("observation.")}
    images = [inputs[key].permute(0, 2, 3, 1) for key in policy.signature.input_shapes() if ".images." in key]
    return Observations(inputs["observation.state"], inputs.get("observation.environment_state"), tuple(images))


def assert_near(found: Tensor, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_chunk_in_units_is_that_of_lerobot(stored: Callable[[str], Path], variant: str) -> None:
    policy, recorded = load_lerobot_policy(stored(variant), fps=25), recorded_of(variant)
    with torch.no_grad():
        chunk = policy(observed(policy, recorded))
    assert recorded["chunk"].std(axis=1).max() > 0.01, "a chunk that does not move proves little"
    assert_near(chunk, recorded["chunk"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_style_and_divergence_are_those_of_lerobot(stored: Callable[[str], Path], variant: str) -> None:
    policy, recorded = load_lerobot_policy(stored(variant), fps=25), recorded_of(variant)
    actions = torch.from_numpy(recorded["normalised_action"])
    is_pad = (torch.arange(actions.shape[1]) >= actions.shape[1] - NUM_PAD).expand(len(actions), -1)
    inputs, shown = policy.normalise(observed(policy, recorded)), Demonstration(actions, is_pad)
    assert policy.act.latent_encoder is not None
    with torch.no_grad():
        posterior = policy.act.latent_encoder(inputs.state, shown)
        output = policy.act.decode_actions(inputs, posterior.mean, posterior)
        losses = act_loss(output, shown, ActLossConfig())
    assert_near(posterior.mean, recorded["mean"])
    assert_near(posterior.log_variance, recorded["log_variance"])
    assert_near(output.actions, recorded["styled"])
    np.testing.assert_allclose(losses["kl"], recorded["kld_loss"], rtol=1e-5)
    # LeRobot divides by the padding too.
    np.testing.assert_allclose(losses["l1"] * (~is_pad).float().mean(), recorded["l1_loss"], rtol=1e-5)


def test_the_signature_is_what_the_configuration_says(stored: Callable[[str], Path]) -> None:
    signature = load_lerobot_policy(stored("images"), fps=25).signature
    assert signature.state_names == ("state_0", "state_1", "state_2", "state_3", "state_4")
    assert signature.cameras == ("wrist", "scene")
    assert signature.image_hw == (48, 64)
    assert len(signature.action_names) == 4
    assert signature.fps == 25
    assert len(load_lerobot_policy(stored("state"), fps=25).signature.environment_names) == 3


def demonstrations(state: tuple[str, ...], environment: tuple[str, ...] = ()) -> PolicySignature:
    return PolicySignature(
        state_names=state, environment_names=environment, action_names=("left", "right", "up", "grip"), fps=25
    )


@pytest.mark.parametrize("own", [5, 8])
def test_numbers_are_named_as_in_the_demonstrations(stored: Callable[[str], Path], own: int) -> None:
    """The state of the demonstrations may be the policy's state and environment in a row."""
    names = tuple("abcdefgh")
    named = demonstrations(names[:own], names[own:])
    signature = load_lerobot_policy(stored("state"), fps=25, named=named).signature
    assert (signature.state_names, signature.environment_names) == (names[:5], names[5:])
    assert signature.action_names == named.action_names


def test_a_policy_without_the_demonstrations_environment_is_named_too(stored: Callable[[str], Path]) -> None:
    named = demonstrations(tuple("abcde"), ("x",))
    assert load_lerobot_policy(stored("images"), fps=25, named=named).signature.state_names == tuple("abcde")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            demonstrations(tuple("abcdefg")),
            r"sees 8 numbers and gives 4; these demonstrations have 7 \(a, .*, g\) and 4",
        ),
        (demonstrations(tuple("abcde"), ("x", "y", "z", "u")), "sees 8 numbers .* have 9"),
        (demonstrations(tuple("abcdefgh")).model_copy(update={"action_names": ("left",)}), r"and 1 \(left\)"),
    ],
)
def test_demonstrations_of_other_numbers_are_refused(
    stored: Callable[[str], Path], named: PolicySignature, message: str
) -> None:
    with pytest.raises(ModelFileError, match=message):
        load_lerobot_policy(stored("state"), fps=25, named=named)


def test_statistics_among_the_weights_of_older_files_are_read(stored: Callable[[str], Path], copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    for name, value in load_file(copied / NORMALIZER).items():
        key, _, statistic = name.rpartition(".")
        spelt = f"buffer_{key.replace('.', '_')}.{statistic}"
        places = ("normalize_targets", "unnormalize_outputs") if key == "action" else ("normalize_inputs",)
        weights |= {f"{place}.{spelt}": value.clone() for place in places}
    save_file(weights, copied / "model.safetensors")
    (copied / "policy_preprocessor.json").unlink()
    older, newer = load_lerobot_policy(copied, fps=25), load_lerobot_policy(stored("state"), fps=25)
    assert all(torch.equal(value, newer.state_dict()[key]) for key, value in older.state_dict().items())


def test_names_are_complete_both_ways(stored: Callable[[str], Path]) -> None:
    back = LEROBOT_KEYS.to_published(load_lerobot_policy(stored("images"), fps=25).act.state_dict())
    wanted = {key: value for key, value in weights_of("images").items() if not key.endswith(("pos_enc", "tracked"))}
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[key], value) for key, value in wanted.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "diffusion"}, "type: Input should be 'act', got 'diffusion'"),
        ({"pre_norm": True}, "pre_norm: Input should be False, got True"),
        ({"vision_backbone": "vit"}, "vision_backbone"),
        ({"normalization_mapping": {"STATE": "QUANTILES"}}, "normalization_mapping.STATE"),
        ({"input_features": {"observation.effort": {"type": "STATE", "shape": [3]}}}, "expected observation.state"),
        ({"output_features": {}}, "expected action"),
        ({"input_features": images_of((3, 48, 64), (3, 32, 64))}, "expected one shape"),
        ({"input_features": images_of((1, 48, 64))}, "expected one shape"),
        ({"n_heads": 5}, "hidden_dim must be a multiple of num_heads"),
        ({"dim_model": 36}, "misshapen: .*instead of"),
        ({"n_decoder_layers": 3}, "missing: model.decoder.layers.2"),
        ({"use_vae": False}, "unexpected: model.vae_encoder"),
    ],
)
def test_what_ours_has_not_and_what_does_not_fit_is_told(copied: Path, changes: dict[str, Any], message: str) -> None:
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelFileError, match=message):
        load_lerobot_policy(copied, fps=25)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "policy_preprocessor.json", NORMALIZER])
def test_missing_and_damaged_files_are_told(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"\xff{")
    with pytest.raises(ModelFileError, match=name):
        load_lerobot_policy(copied, fps=25)
    (copied / name).unlink()
    with pytest.raises(ModelFileError, match=name):
        load_lerobot_policy(copied, fps=25)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("action.std", torch.ones(3), "action is normalised by MEAN_STD"),
        ("action.std", torch.full((4,), torch.nan), "not finite"),
        ("observation.environment_state.max", torch.full((3,), -1.0), "never changes"),
    ],
)
def test_statistics_that_cannot_be_are_told(copied: Path, key: str, value: Tensor, message: str) -> None:
    statistics = load_file(copied / NORMALIZER)
    save_file(statistics | {key: value}, copied / NORMALIZER)
    with pytest.raises(ModelFileError, match=message):
        load_lerobot_policy(copied, fps=25)


def test_numbers_that_never_moved_are_ignored_and_named(copied: Path, tmp_path: Path) -> None:
    """A state beside the one place it was trained at changes the chunk a little, and every engine agrees with torch."""
    config = json.loads((copied / "config.json").read_text())
    modes = config["normalization_mapping"] | {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    (copied / "config.json").write_text(json.dumps(config | {"normalization_mapping": modes}))
    statistics = load_file(copied / NORMALIZER)
    num_states, num_actions = (config[f"{way}_features"][key]["shape"][0] for way, key in FEATURE_KEYS)
    still = {"observation.state.mean": torch.zeros(num_states), "observation.state.std": torch.ones(num_states)}
    still |= {"action.mean": torch.full((num_actions,), 0.7), "action.std": torch.ones(num_actions)}
    still["observation.state.std"][1] = still["action.std"][0] = 0.0
    save_file(statistics | still, copied / NORMALIZER)
    notes: list[str] = []
    policy = load_lerobot_policy(copied, fps=25, on_note=notes.append)
    assert notes == [
        "observation.state: state_1 never moved in training: ignored",
        "action: action_0 never moved in training: kept still",
    ]
    assert policy.normalise_state.std.tolist() == pytest.approx([1.0] * num_states)
    assert policy.normalise_action.std[0] == pytest.approx(1e-8)
    export_policy(policy, tmp_path / "p.onnx")
    assert all(parity.worst < 1e-3 for parity in measure_policy_parity(policy, tmp_path / "p.onnx"))

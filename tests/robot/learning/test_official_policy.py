"""ACT's published weights: what the authors' code computed with weights by formula, recorded in tests/data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handeye.robot.learning.act import Act, ActInputs, Demonstration
from handeye.robot.learning.checkpoint import ACT_KEYS, load_official_policy
from handeye.vision.errors import ModelFileError, UserError
from tests.formula_weights import formula_weight

TOLERANCE = 5e-5
VARIANTS = ("", "_g")


@dataclass(frozen=True)
class Recorded:
    """Weights by formula, inputs by seed, outputs as the authors' code gave them."""

    weights: dict[str, Tensor]
    inputs: ActInputs
    actions: Tensor
    outputs: Mapping[str, np.ndarray]

    def act(self) -> Act:
        return load_official_policy("act", self.weights, cameras=("left", "right"), image_hw=(120, 160))


@pytest.fixture(scope="module")
def recorded(sample: Callable[[str], Path]) -> Callable[[str], Recorded]:
    def read(variant: str) -> Recorded:
        meta = json.loads(sample("policy/act_aloha/act_aloha.json").read_text())
        gain = meta["gain_variant"] if variant else None
        shapes = {key: tuple(shape) for key, (shape, _) in meta["state_dict"].items() if key not in meta["kept_keys"]}
        weights = {key: formula_weight(key, shape, gain) for key, shape in shapes.items()}
        content = b"".join(values.numpy().tobytes() for values in weights.values())
        assert hashlib.sha256(content).hexdigest() == meta["weights_sha256"][variant or "plain"]
        qpos, image, actions = (_input(meta["input"][name]) for name in ("qpos", "image", "actions"))
        outputs = np.load(sample(f"policy/act_aloha/act_aloha{variant}.npz"))
        return Recorded(weights, ActInputs(qpos, images=tuple(image.unbind(1))), actions, outputs)

    return read


def _input(described: Mapping[str, Any]) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(described["seed"]))
    return torch.from_numpy(generator.random(described["shape"], dtype=np.float32))


def assert_near(found: Tensor, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("variant", VARIANTS)
def test_actions_are_those_of_the_published_code(recorded: Callable[[str], Recorded], variant: str) -> None:
    record = recorded(variant)
    with torch.no_grad():
        output = record.act()(record.inputs)
    assert output.is_pad_logits is not None
    assert_near(output.actions, record.outputs["a_hat"])
    assert_near(output.is_pad_logits[..., None], record.outputs["is_pad_hat"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_is_that_of_the_published_code(recorded: Callable[[str], Recorded], variant: str) -> None:
    record = recorded(variant)
    act = record.act()
    with torch.no_grad():
        memory, _ = act.encode(record.inputs, act.prior_mean(record.inputs))
    # Published: both cameras side by side, row by row of the joined map. Ours: one camera after the other.
    cells = memory[:, 2:].unflatten(1, (2, 4, 5)).transpose(1, 2).flatten(1, 3)
    assert_near(torch.cat((memory[:, :2], cells), dim=1), record.outputs["encoder.memory"], 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("num_pad", "suffix"), [(0, ""), (5, "_lastpad5")])
def test_the_style_of_a_demonstration_is_that_of_the_published_code(
    recorded: Callable[[str], Recorded], variant: str, num_pad: int, suffix: str
) -> None:
    record = recorded(variant)
    act = record.act()
    is_pad = torch.arange(20)[None] >= 20 - num_pad
    assert act.latent_encoder is not None
    with torch.no_grad():
        posterior = act.latent_encoder(record.inputs.state, Demonstration(record.actions, is_pad))
        output = act.decode_actions(record.inputs, posterior.mean)
    assert_near(posterior.mean, record.outputs[f"train.mu{suffix}"])
    assert_near(posterior.log_variance, record.outputs[f"train.logvar{suffix}"])
    assert_near(output.actions, record.outputs[f"train.a_hat_z_is_mu{suffix}"])


def test_the_repaired_network_reads_the_last_decoder_layer(recorded: Callable[[str], Recorded]) -> None:
    record = recorded("_g")
    published = record.act()
    repaired = Act(published.config.model_copy(update={"decoder_output": "last"}), published.signature).eval()
    repaired.load_state_dict(published.state_dict())
    with torch.no_grad():
        output = repaired(record.inputs)
    assert_near(output.actions, record.outputs["a_hat_if_last_layer_were_used"])


def test_published_names_are_complete_both_ways(recorded: Callable[[str], Recorded]) -> None:
    record = recorded("")
    back = ACT_KEYS.to_published(record.act().state_dict())
    assert back.keys() == record.weights.keys()
    assert all(torch.equal(back[key], value) for key, value in record.weights.items())


def test_the_prefix_of_published_files_is_understood(recorded: Callable[[str], Recorded]) -> None:
    record = recorded("")
    prefixed = {f"model.{key}": value for key, value in record.weights.items()}
    loaded = load_official_policy("act", prefixed, cameras=("left", "right")).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in record.act().state_dict().items())


def test_bad_keys_are_listed(recorded: Callable[[str], Recorded]) -> None:
    weights = dict(recorded("").weights)
    weights["action_head.bias"] = torch.zeros(3)
    weights["surplus.weight"] = weights.pop("cls_embed.weight")
    with pytest.raises(ModelFileError) as error:
        load_official_policy("act", weights, cameras=("left", "right"))
    message = str(error.value)
    assert "missing: cls_embed.weight" in message
    assert "unexpected: surplus.weight" in message
    assert "misshapen: action_head.bias (3,) instead of (14,)" in message


def test_weights_of_something_else_and_unknown_names_are_refused() -> None:
    with pytest.raises(ModelFileError, match="not those of ACT"):
        load_official_policy("act", {"conv1.weight": torch.zeros(1, 1)})
    with pytest.raises(UserError, match="expected one of act"):
        load_official_policy("diffusion", {})

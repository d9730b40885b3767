"""Key maps: names both ways, packed tensors, what is ignored, which naming a file follows."""

from __future__ import annotations

import pytest
import torch

from handeye.vision.checkpoints.key_map import KeyMap, best_key_map
from handeye.vision.errors import ModelFileError

PACKED = KeyMap(
    renames=(
        (r"^body\.query\.(weight|bias)$", r"trunk.in_\1[0]"),
        (r"^body\.key\.(weight|bias)$", r"trunk.in_\1[1]"),
        (r"^body\.", "trunk."),
    ),
    ignored=(r"trunk\.table\d",),
    respelt=((r"^module\.", ""),),
)
SPLIT = KeyMap(renames=((r"^body\.", "model.layers."),))


def own_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "body.key.weight": torch.randn(2, 3),
        "body.query.weight": torch.randn(4, 3),
        "body.norm.scale": torch.tensor(3.0),
        "body.norm.num_batches_tracked": torch.tensor(7),
    }


def test_parts_are_packed_in_the_order_of_their_numbers():
    own = own_weights()
    packed = PACKED.to_published(own)
    assert set(packed) == {"trunk.in_weight", "trunk.norm.scale", "trunk.norm.num_batches_tracked"}
    assert torch.equal(packed["trunk.in_weight"], torch.cat((own["body.query.weight"], own["body.key.weight"])))


def test_packing_and_unpacking_is_the_identity():
    own = own_weights()
    back = PACKED.to_ours(PACKED.to_published(own), own, "test")
    assert set(back) == {key for key in own if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(back[key], own[key]) for key in back)


def test_what_the_code_computes_and_counters_may_be_there_or_not():
    own = own_weights()
    weights = PACKED.to_published(own)
    del weights["trunk.norm.num_batches_tracked"]
    without = PACKED.to_ours(weights, own, "test")
    with_table = PACKED.to_ours({**weights, "trunk.table3": torch.zeros(9)}, own, "test")
    assert set(without) == set(with_table)
    with pytest.raises(ModelFileError, match="unexpected: trunk.table"):
        PACKED.to_ours({**weights, "trunk.table": torch.zeros(9)}, own, "test")


def test_other_spellings_are_understood():
    own = own_weights()
    wrapped = {f"module.{key}": value for key, value in PACKED.to_published(own).items()}
    assert set(PACKED.to_ours(wrapped, own, "test")) == set(PACKED.to_ours(PACKED.to_published(own), own, "test"))


def test_faults_are_listed_under_published_names():
    own = own_weights()
    weights = PACKED.to_published(own)
    weights["trunk.in_weight"] = torch.zeros(5, 3)
    weights["trunk.gain"] = weights.pop("trunk.norm.scale")
    with pytest.raises(ModelFileError) as refusal:
        PACKED.to_ours(weights, own, "some.pth")
    message = str(refusal.value)
    assert message.startswith("some.pth: ")
    assert "missing: trunk.norm.scale" in message
    assert "unexpected: trunk.gain" in message
    assert "misshapen: trunk.in_weight (5, 3) instead of (6, 3)" in message


@pytest.mark.parametrize("chosen", [PACKED, SPLIT])
def test_the_naming_is_told_by_the_keys_even_of_a_damaged_file(chosen):
    own = own_weights()
    weights = chosen.to_published(own)
    weights.pop(next(iter(weights)))
    assert best_key_map((PACKED, SPLIT), weights, own) is chosen

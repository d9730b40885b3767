"""ACT by its own laws: what must change an action, what must not, and where gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from handeye.robot.learning.act import Act, ActConfig, ActInputs, Demonstration, Posterior, sequence_positions
from tests.robot.learning.small_policy import CHUNK, small_network, small_signature

BATCH = 3


def build(cameras: tuple[str, ...] = ("wrist", "scene"), **changes: object) -> Act:
    torch.manual_seed(1)
    return Act(small_network(**changes), small_signature(cameras)).eval()


def inputs(num_cameras: int = 2) -> ActInputs:
    torch.manual_seed(2)
    images = tuple(torch.randn(BATCH, 3, 64, 96) for _ in range(num_cameras))
    return ActInputs(torch.randn(BATCH, 3), torch.randn(BATCH, 2), images)


def demonstration() -> Demonstration:
    torch.manual_seed(3)
    is_pad = torch.zeros(BATCH, CHUNK, dtype=torch.bool)
    is_pad[1, 2:] = True
    return Demonstration(torch.randn(BATCH, CHUNK, 3), is_pad)


@pytest.mark.parametrize("cameras", [(), ("wrist",), ("wrist", "scene"), ("a", "b", "c")])
def test_any_number_of_cameras_gives_a_chunk(cameras: tuple[str, ...]) -> None:
    output = build(cameras)(inputs(len(cameras)))
    assert output.actions.shape == (BATCH, CHUNK, 3)
    assert output.posterior is None
    assert output.is_pad_logits is None


def test_each_row_of_a_batch_is_computed_by_itself() -> None:
    act, all_of_them = build(), inputs()
    assert all_of_them.environment is not None
    together = act(all_of_them).actions
    for row in range(BATCH):
        images = tuple(image[row : row + 1] for image in all_of_them.images)
        alone = ActInputs(all_of_them.state[row : row + 1], all_of_them.environment[row : row + 1], images)
        torch.testing.assert_close(act(alone).actions, together[row : row + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["state", "environment", "first image", "second image"])
def test_every_input_moves_the_actions(part: str) -> None:
    act, base = build(), inputs()
    assert base.environment is not None
    changed = {
        "state": ActInputs(base.state + 1, base.environment, base.images),
        "environment": ActInputs(base.state, base.environment + 1, base.images),
        "first image": ActInputs(base.state, base.environment, (base.images[0] + 1, base.images[1])),
        "second image": ActInputs(base.state, base.environment, (base.images[0], base.images[1] + 1)),
    }[part]
    assert (act(changed).actions - act(base).actions).abs().max() > 1e-4


@pytest.mark.parametrize(("tells_apart", "changes"), [(True, True), (False, False)])
def test_only_the_published_network_cannot_tell_cameras_apart(tells_apart: bool, changes: bool) -> None:
    act, base = build(tells_cameras_apart=tells_apart), inputs()
    swapped = ActInputs(base.state, base.environment, base.images[::-1])
    difference = (act(swapped).actions - act(base).actions).abs().max()
    assert (difference > 1e-4) == changes


@pytest.mark.slow
def test_live_norms_see_at_run_time_what_they_saw_in_training() -> None:
    act, seen = build(), inputs()
    dark, bright = seen.images
    seen = ActInputs(seen.state, seen.environment, (0.2 * dark - 2.0, 2.0 * bright + 2.0))
    with torch.no_grad():
        act.train()
        for _ in range(200):
            in_training = act(seen).actions
        at_run_time = act.eval()(seen).actions
    # Running variances are those of a sample, a little larger where a map has few cells.
    torch.testing.assert_close(at_run_time, in_training, atol=0.05, rtol=0.0)


def test_padded_actions_change_nothing_of_the_style() -> None:
    act, seen, shown = build(), inputs(), demonstration()
    assert act.latent_encoder is not None
    spoilt = Demonstration(torch.where(shown.is_pad[..., None], 99.0, shown.actions), shown.is_pad)
    one, other = act.latent_encoder(seen.state, shown), act.latent_encoder(seen.state, spoilt)
    torch.testing.assert_close(one.mean, other.mean)
    unmasked = act.latent_encoder(seen.state, Demonstration(shown.actions, torch.zeros_like(shown.is_pad)))
    assert (unmasked.mean - one.mean)[1].abs().max() > 1e-4


def test_style_is_drawn_in_training_and_zero_without_a_demonstration() -> None:
    act, seen, shown = build(), inputs(), demonstration()
    torch.manual_seed(0)
    first, second = act(seen, shown), act(seen, shown)
    assert first.posterior is not None
    assert (first.actions - second.actions).abs().max() > 1e-6
    torch.testing.assert_close(act(seen).actions, act.decode_actions(seen, torch.zeros(BATCH, 3)).actions)


def test_without_a_style_demonstrations_change_nothing() -> None:
    act, seen = build(has_latent=False), inputs()
    torch.testing.assert_close(act(seen, demonstration()).actions, act(seen).actions)
    assert act(seen, demonstration()).posterior is None


@pytest.mark.parametrize(("layer_read", "reached"), [("last", {0, 1}), ("first", {0})])
def test_gradients_reach_the_decoder_layers_that_are_read(layer_read: str, reached: set[int]) -> None:
    act = build(decoder_output=layer_read)
    act(inputs()).actions.sum().backward()
    assert {index for index, layer in enumerate(act.decoder) if _has_gradients(layer)} == reached


def _has_gradients(layer: torch.nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in layer.parameters())


def test_every_weight_learns() -> None:
    act = build().train()
    output = act(inputs(), demonstration())
    assert output.posterior is not None
    (output.actions.square().sum() + output.posterior.mean.sum() + output.posterior.log_variance.sum()).backward()
    assert not [name for name, parameter in act.named_parameters() if parameter.grad is None]


def test_samples_have_the_mean_and_variance_of_the_posterior() -> None:
    torch.manual_seed(0)
    wanted = Posterior(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, -1.0]]))
    samples: Tensor = torch.cat([wanted.sample() for _ in range(4000)])
    torch.testing.assert_close(samples.mean(0), wanted.mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(samples.var(0).log(), wanted.log_variance[0], atol=0.1, rtol=0)


def test_positions_of_a_sequence_follow_the_formula() -> None:
    table = sequence_positions(5, 6)
    for place in range(5):
        for pair in range(3):
            angle = torch.tensor(place / 10_000 ** (2 * pair / 6))
            torch.testing.assert_close(table[place, 2 * pair], angle.sin())
            torch.testing.assert_close(table[place, 2 * pair + 1], angle.cos())


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"hidden_dim": 20, "num_heads": 3}, "num_heads"), ({"backbone": {"strides": [8, 32]}}, "one")],
)
def test_configurations_that_cannot_be_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ActConfig.model_validate(changes)

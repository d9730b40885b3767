"""ACT, the Action Chunking Transformer (Zhao et al. 2023, arXiv:2304.13705): an observation in, a chunk of actions out.

A conditional autoencoder: in training the style of the demonstration joins the observation, at run time zero stands in
its place. Everything here is normalised; `act_policy.py` puts units around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from handeye.robot.policies.onnx_policy import PolicySignature
from handeye.vision.backbones.resnet import ResNet, ResNetConfig
from handeye.vision.config import Config
from handeye.vision.layers.attention import sine_positions
from handeye.vision.layers.transformer import DecoderLayer, EncoderLayer

# The style of a demonstration as a few numbers: the encoder of ACT's conditional autoencoder.
#
# It sees what was done after an observation and says how it differs from what else might have been done there. Only
# training has it; a policy that runs takes the middle of the prior, zero.

WAVELENGTH_RATIO = 10_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    """What was done next, normalised, and which of it lies beyond the end of the episode and is no data."""

    actions: Float[Tensor, "B T A"]
    is_pad: Bool[Tensor, "B T"]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """A normal distribution of the style for each demonstration: mean and logarithm of the variance."""

    mean: Float[Tensor, "B Z"]
    log_variance: Float[Tensor, "B Z"]

    def sample(self) -> Float[Tensor, "B Z"]:
        """One style each, in a form that gradients pass through (Kingma and Welling 2013, arXiv:1312.6114)."""
        return self.mean + (self.log_variance / 2).exp() * torch.randn_like(self.mean)


class LatentEncoder(nn.Module):
    """A summary token, the state and the actions look at each other; the summary becomes the distribution."""

    positions: Tensor

    def __init__(
        self,
        *,
        state_dim: int,
        action_dim: int,
        chunk_size: int,
        latent_dim: int,
        num_layers: int,
        layer: tuple[int, int, int],
        dropout: float,
    ) -> None:
        """`layer` is width, heads and feed-forward width of a layer."""
        super().__init__()
        dim = layer[0]
        self.summary = nn.Embedding(1, dim)
        self.embed_state = nn.Linear(state_dim, dim)
        self.embed_action = nn.Linear(action_dim, dim)
        self.layers = nn.ModuleList(EncoderLayer(*layer, dropout=dropout) for _ in range(num_layers))
        self.predict_posterior = nn.Linear(dim, 2 * latent_dim)
        self.register_buffer("positions", sequence_positions(2 + chunk_size, dim), persistent=False)

    def forward(self, state: Float[Tensor, "B S"], demonstration: Demonstration) -> Posterior:
        """The distribution of the styles; actions that are no data change nothing."""
        summary = self.summary.weight.expand(len(state), 1, -1)
        actions = self.embed_action(demonstration.actions)
        tokens = torch.cat((summary, self.embed_state(state)[:, None], actions), dim=1)
        is_pad = torch.cat((torch.zeros_like(demonstration.is_pad[:, :2]), demonstration.is_pad), dim=1)
        for layer in self.layers:
            tokens = layer(tokens, self.positions[None], is_pad=is_pad)
        mean, log_variance = self.predict_posterior(tokens[:, 0]).chunk(2, dim=-1)
        return Posterior(mean, log_variance)


def sequence_positions(num: int, dim: int) -> Float[Tensor, "num dim"]:
    """sin(n / 10000^(2 i / dim)) in column 2 i and its cosine in 2 i + 1 (Vaswani et al. 2017, section 3.5)."""
    frequencies = WAVELENGTH_RATIO ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = torch.arange(num, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).to(torch.float32)


PositiveInt = Annotated[int, Field(gt=0)]


class ActConfig(Config):
    """Size of the network; the defaults are the published ones."""

    kind: Literal["act"] = "act"
    chunk_size: PositiveInt = 100
    """Actions that one observation leads to, the first of them for the observation's own time."""
    hidden_dim: Annotated[int, Field(gt=0, multiple_of=4)] = 512
    num_heads: PositiveInt = 8
    feed_forward_dim: PositiveInt = 3200
    num_encoder_layers: PositiveInt = 4
    num_decoder_layers: PositiveInt = 7
    has_latent: bool = True
    """Learn a style for each demonstration; without it all demonstrations are taken to do the same."""
    latent_dim: PositiveInt = 32
    num_latent_layers: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    decoder_output: Literal["last", "first"] = "last"
    """Which decoder layer the actions are read from. The published code takes the first by mistake, and never trains
    the others; its weights need `first`."""
    tells_cameras_apart: bool = True
    """Give each camera a learnt place of its own. The published network has none: it cannot know which camera an
    image comes from, and its weights need false."""
    predicts_padding: bool = False
    """The published head for the end of the episode, which no loss ever teaches: only for published weights."""
    backbone: ResNetConfig = ResNetConfig(depth=18, batch_norm="frozen", strides=(32,))
    """One for all cameras. `frozen` norms suit pretrained weights; a backbone that starts from nothing needs `live`."""

    @model_validator(mode="after")
    def _check_parts(self) -> ActConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim must be a multiple of num_heads, got {self.hidden_dim} and {self.num_heads}")
        if len(self.backbone.strides) != 1:
            raise ValueError(f"backbone.strides must name one stride, got {self.backbone.strides}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class ActInputs:
    """Normalised observations. environment is None and images are empty for policies without them."""

    state: Float[Tensor, "B S"]
    environment: Float[Tensor, "B E"] | None = None
    images: tuple[Float[Tensor, "B 3 H W"], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ActOutput:
    """Normalised actions, and in training the distribution of the style that they were made with."""

    actions: Float[Tensor, "B T A"]
    is_pad_logits: Float[Tensor, "B T"] | None
    posterior: Posterior | None


class Act(nn.Module):
    """Tokens of style, state, environment and image cells; an encoder, and a decoder with one query for each action."""

    def __init__(self, config: ActConfig, signature: PolicySignature) -> None:
        super().__init__()
        self.config, self.signature = config, signature
        dim, dropout = config.hidden_dim, config.dropout
        layer = (dim, config.num_heads, config.feed_forward_dim)
        state_dim, action_dim = len(signature.state_names), len(signature.action_names)
        environment_dim = len(signature.environment_names)
        self.latent_encoder = _latent_encoder(config, state_dim, action_dim) if config.has_latent else None
        self.embed_latent = nn.Linear(config.latent_dim, dim)
        self.embed_state = nn.Linear(state_dim, dim)
        self.embed_environment = nn.Linear(environment_dim, dim) if environment_dim else None
        self.token_positions = nn.Embedding(3 if environment_dim else 2, dim)
        if signature.cameras:
            self.backbone = ResNet(config.backbone)
            self.project_image = nn.Conv2d(self.backbone.channels[-1], dim, 1)
        self.camera_positions = nn.Embedding(len(signature.cameras), dim) if self._has_camera_positions() else None
        self.encoder = nn.ModuleList(EncoderLayer(*layer, dropout=dropout) for _ in range(config.num_encoder_layers))
        self.queries = nn.Embedding(config.chunk_size, dim)
        self.decoder = nn.ModuleList(DecoderLayer(*layer, dropout=dropout) for _ in range(config.num_decoder_layers))
        self.decoder_norm = nn.LayerNorm(dim)
        self.predict_action = nn.Linear(dim, action_dim)
        self.predict_padding = nn.Linear(dim, 1) if config.predicts_padding else None

    def forward(self, inputs: ActInputs, demonstration: Demonstration | None = None) -> ActOutput:
        """With a demonstration the style is drawn from what it says, otherwise it is zero."""
        if demonstration is None or self.latent_encoder is None:
            return self.decode_actions(inputs, self.prior_mean(inputs), None)
        posterior = self.latent_encoder(inputs.state, demonstration)
        return self.decode_actions(inputs, posterior.sample(), posterior)

    def prior_mean(self, inputs: ActInputs) -> Float[Tensor, "B Z"]:
        """The middle of the prior."""
        return inputs.state.new_zeros(inputs.state.shape[0], self.config.latent_dim)

    def decode_actions(
        self, inputs: ActInputs, latent: Float[Tensor, "B Z"], posterior: Posterior | None = None
    ) -> ActOutput:
        """The chunk for a given style; `posterior`, where it came from, is handed on."""
        memory, placed_memory = self.encode(inputs, latent)
        features = self.decoder_norm(self._decode(memory, placed_memory))
        is_pad_logits = None if self.predict_padding is None else self.predict_padding(features)[..., 0]
        return ActOutput(self.predict_action(features), is_pad_logits, posterior)

    def encode(
        self, inputs: ActInputs, latent: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B N dim"], Float[Tensor, "B N dim"]]:
        """What the decoder looks at, without and with positions: style, state, environment, then camera by camera."""
        tokens = [self.embed_latent(latent)[:, None], self.embed_state(inputs.state)[:, None]]
        if self.embed_environment is not None:
            tokens.append(self.embed_environment(inputs.environment)[:, None])
        positions = [self.token_positions.weight[None]]
        if inputs.images:
            cells, places = self._look(inputs.images)
            tokens += cells
            positions += places
        memory, placed = torch.cat(tokens, dim=1), torch.cat(positions, dim=1)
        for layer in self.encoder:
            memory = layer(memory, placed)
        return memory, memory + placed

    def _look(
        self, images: tuple[Float[Tensor, "B 3 H W"], ...]
    ) -> tuple[list[Float[Tensor, "B N dim"]], list[Float[Tensor, "1 N dim"]]]:
        """The cells of each camera's image, row by row, and where they are in it.

        All cameras pass the backbone as one batch. One after the other, live norms would see each camera's own
        statistics in training and a mixture at run time; and weights, which are larger than a processor's cache, would
        be read once for each.
        """
        features = self.project_image(self.backbone(torch.cat(images))[-1])
        is_pad = torch.zeros_like(features[:1, 0], dtype=torch.bool)
        positions = sine_positions(is_pad, self.config.hidden_dim).to(features.dtype).flatten(2).transpose(1, 2)
        cells = features.flatten(2).transpose(1, 2).chunk(len(images))
        if self.camera_positions is None:
            return list(cells), [positions] * len(images)
        return list(cells), [positions + self.camera_positions.weight[camera] for camera in range(len(images))]

    def _decode(
        self, memory: Float[Tensor, "B N dim"], placed_memory: Float[Tensor, "B N dim"]
    ) -> Float[Tensor, "B T dim"]:
        """The queries after the layer that the actions are read from; layers behind it are not computed."""
        queries = memory.new_zeros(memory.shape[0], *self.queries.weight.shape)
        for layer in self.decoder if self.config.decoder_output == "last" else self.decoder[:1]:
            queries = layer(queries, self.queries.weight[None], memory, placed_memory)
        return queries

    def _has_camera_positions(self) -> bool:
        return self.config.tells_cameras_apart and len(self.signature.cameras) > 1


def _latent_encoder(config: ActConfig, state_dim: int, action_dim: int) -> LatentEncoder:
    return LatentEncoder(
        state_dim=state_dim,
        action_dim=action_dim,
        chunk_size=config.chunk_size,
        latent_dim=config.latent_dim,
        num_layers=config.num_latent_layers,
        layer=(config.hidden_dim, config.num_heads, config.feed_forward_dim),
        dropout=config.dropout,
    )


# What ACT learns from: the absolute error of its actions, and how far styles stray from the prior.
#
# Published code divides the error by all elements of the chunk, padding included, so that the ends of episodes count
# less the longer the chunk; here the divisor is the number of elements that are data.


class ActLossConfig(Config):
    """Weight of the second part; the default is the published one."""

    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """What one nat of style costs, in deviations of error. Where demonstrations of one expert always do the same, no
    style can spare as much: it is given up, and `kl` goes to zero."""


def act_loss(output: ActOutput, demonstration: Demonstration, config: ActLossConfig) -> dict[str, Tensor]:
    """total = l1 + kl_weight kl (equation 2 of the paper, with the absolute for the squared error); each a scalar.

    Without a posterior there is no `kl`.
    """
    l1 = action_error(output.actions, demonstration.actions, demonstration.is_pad)
    if output.posterior is None:
        return {"l1": l1, "total": l1}
    kl = prior_distance(output.posterior)
    return {"l1": l1, "kl": kl, "total": l1 + config.kl_weight * kl}


def action_error(
    actions: Float[Tensor, "B T A"], wanted: Float[Tensor, "B T A"], is_pad: Bool[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean absolute difference over what is data; zero, with zero gradients, where nothing is."""
    # What stands in the padding is no data, and may even be no number.
    errors = torch.where(is_pad[..., None], 0.0, (actions - wanted).abs())
    return errors.sum() / ((~is_pad).sum() * actions.shape[-1]).clamp(min=1)


def prior_distance(posterior: Posterior) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, 1)): summed over the style's numbers, averaged over the batch."""
    mean, log_variance = posterior.mean, posterior.log_variance
    return (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(dim=-1).mean()

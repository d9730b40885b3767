"""ACT, the Action Chunking Transformer (Zhao et al. 2023, arXiv:2304.13705): an observation in, a chunk of actions out.

A conditional variational autoencoder (CVAE): in training a latent encoder sees the demonstrated actions; at run time
the latent is zero, the mean of its prior. Inputs and outputs are normalised; `act_policy` converts from and to units.
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

WAVELENGTH_RATIO = 10_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Demonstration:
    """The normalised actions that followed, and which of them are padding beyond the end of the episode."""

    actions: Float[Tensor, "B T A"]
    is_pad: Bool[Tensor, "B T"]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """A normal distribution of the latent for each demonstration: mean and log variance."""

    mean: Float[Tensor, "B Z"]
    log_variance: Float[Tensor, "B Z"]

    def sample(self) -> Float[Tensor, "B Z"]:
        """One latent each, reparametrised so that gradients pass (Kingma and Welling 2013, arXiv:1312.6114)."""
        return self.mean + (self.log_variance / 2).exp() * torch.randn_like(self.mean)


class LatentEncoder(nn.Module):
    """Self-attention over a summary token, the state and the actions; the summary predicts the posterior."""

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
        """The posterior of the latent; padding changes nothing."""
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
    """Actions predicted from one observation, the first of them for the time of the observation."""
    hidden_dim: Annotated[int, Field(gt=0, multiple_of=4)] = 512
    num_heads: PositiveInt = 8
    feed_forward_dim: PositiveInt = 3200
    num_encoder_layers: PositiveInt = 4
    num_decoder_layers: PositiveInt = 7
    has_latent: bool = True
    """Learn a latent for each demonstration; without it they are assumed to be unimodal."""
    latent_dim: PositiveInt = 32
    num_latent_layers: PositiveInt = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    decoder_output: Literal["last", "first"] = "last"
    """Which decoder layer the actions are read from. The published code takes the first by mistake, and never trains
    the others; its weights need `first`."""
    tells_cameras_apart: bool = True
    """Add a learnt embedding per camera. The published network has none, so it cannot know which camera an image comes
    from; its weights need false."""
    predicts_padding: bool = False
    """The published head for the end of the episode, which no loss trains: only for published weights."""
    backbone: ResNetConfig = ResNetConfig(depth=18, batch_norm="frozen", strides=(32,))
    """One for all cameras. `frozen` norms suit pretrained weights; training from scratch needs `live`."""

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
    """Normalised actions, and in training the posterior of the latent that they were decoded from."""

    actions: Float[Tensor, "B T A"]
    is_pad_logits: Float[Tensor, "B T"] | None
    posterior: Posterior | None


class Act(nn.Module):
    """Tokens of latent, state, environment and image cells; an encoder, and a decoder with one query per action."""

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
        """With a demonstration the latent is sampled from its posterior, otherwise it is zero."""
        if demonstration is None or self.latent_encoder is None:
            return self.decode_actions(inputs, self.prior_mean(inputs), None)
        posterior = self.latent_encoder(inputs.state, demonstration)
        return self.decode_actions(inputs, posterior.sample(), posterior)

    def prior_mean(self, inputs: ActInputs) -> Float[Tensor, "B Z"]:
        """The mean of the latent's prior: zero."""
        return inputs.state.new_zeros(inputs.state.shape[0], self.config.latent_dim)

    def decode_actions(
        self, inputs: ActInputs, latent: Float[Tensor, "B Z"], posterior: Posterior | None = None
    ) -> ActOutput:
        """The chunk for a given latent; `posterior`, which it was sampled from, is passed on."""
        memory, placed_memory = self.encode(inputs, latent)
        features = self.decoder_norm(self._decode(memory, placed_memory))
        is_pad_logits = None if self.predict_padding is None else self.predict_padding(features)[..., 0]
        return ActOutput(self.predict_action(features), is_pad_logits, posterior)

    def encode(
        self, inputs: ActInputs, latent: Float[Tensor, "B Z"]
    ) -> tuple[Float[Tensor, "B N dim"], Float[Tensor, "B N dim"]]:
        """The memory of the decoder, without and with positions: latent, state, environment, then camera by camera."""
        tokens = [self.embed_latent(latent)[:, None], self.embed_state(inputs.state)[:, None]]
        if self.embed_environment is not None:
            tokens.append(self.embed_environment(inputs.environment)[:, None])
        positions = [self.token_positions.weight[None]]
        if inputs.images:
            cells, places = self._image_tokens(inputs.images)
            tokens += cells
            positions += places
        memory, placed = torch.cat(tokens, dim=1), torch.cat(positions, dim=1)
        for layer in self.encoder:
            memory = layer(memory, placed)
        return memory, memory + placed

    def _image_tokens(
        self, images: tuple[Float[Tensor, "B 3 H W"], ...]
    ) -> tuple[list[Float[Tensor, "B N dim"]], list[Float[Tensor, "1 N dim"]]]:
        """The cells of each camera's image, row by row, and their positions.

        All cameras pass the backbone as one batch. One after the other, live norms would see the statistics of single
        cameras in training and a mixture at run time; and weights, which exceed a CPU's cache, would be read once for
        each.
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
        """The queries after the layer that the actions are read from; later layers are not computed."""
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


class ActLossConfig(Config):
    """Weight of the KL divergence; the default is the published one."""

    kl_weight: Annotated[float, Field(ge=0)] = 10.0
    """Error in standard deviations that one nat of the latent must save. Where demonstrations are unimodal no latent
    saves as much: the posterior collapses to the prior, and `kl` goes to zero."""


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
    """Mean absolute difference without padding; zero, with zero gradients, where all is padding.

    The published code also divides by padding, so that the ends of episodes count less the longer the chunk.
    """
    # Padding may hold anything, NaN too.
    errors = torch.where(is_pad[..., None], 0.0, (actions - wanted).abs())
    return errors.sum() / ((~is_pad).sum() * actions.shape[-1]).clamp(min=1)


def prior_distance(posterior: Posterior) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, 1)): summed over the latent, averaged over the batch."""
    mean, log_variance = posterior.mean, posterior.log_variance
    return (-0.5 * (1 + log_variance - mean.square() - log_variance.exp())).sum(dim=-1).mean()

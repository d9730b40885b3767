"""The features of a detector's training: pruning, QAT, frozen parts, accumulation, SyncBN, FSDP2, distillation, AMP."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from accelerate import Accelerator
from rich.console import Console
from typing_extensions import assert_never

from handeye.vision.data.batches import Batch
from handeye.vision.detector import Detector
from handeye.vision.losses.build import build_loss, divides_once, grows_with_batch, published_loss
from handeye.vision.losses.counting import PartCounts
from handeye.vision.training.config import TrainDetectorConfig
from handeye.vision.training.console import say
from handeye.vision.training.distillation import Distillation, DistillationConfig
from handeye.vision.training.distributed import synchronise_processes
from handeye.vision.training.features import ORDER, EmaFeature, Feature, Losses, Setup
from handeye.vision.training.network import PruningConfig, on_device
from handeye.vision.training.optimizer import freeze, train_mode
from handeye.vision.training.pruning import (
    ChannelPruningConfig,
    MagnitudePruningConfig,
    WeightMasks,
    magnitude_masks,
    prune_channels,
)
from handeye.vision.training.quantization_aware import QuantizationAwareConfig, quantize
from handeye.vision.training.sharding import Stateful, gathered_into, learning_parameters, shard, sharded_states

T = TypeVar("T")
DetectorFeature = Feature[Detector]


def detector_features(
    config: TrainDetectorConfig, accelerator: Accelerator, console: Console
) -> tuple[DetectorFeature, ...]:
    """The features that a configuration turns on, in the order of `ORDER`."""
    is_sharded = config.shard_weights and accelerator.num_processes > 1
    found: dict[str, DetectorFeature | None] = {
        "pruning": _if_set(config.pruning, lambda pruning: Pruning(pruning, console)),
        "quantization_aware": _if_set(config.quantization_aware, QuantizationAware),
        # Sharded tensors have no memory layouts.
        "channels_last": Placement(channels_last=config.channels_last and not is_sharded),
        "freeze": Freeze(config.freeze) if config.freeze else None,
        "accumulate_steps": Accumulation(config) if config.accumulate_steps > 1 else None,
        "ema": _if_set(config.ema, EmaFeature[Detector]),
        "sync_batch_norm": SyncBatchNorm() if config.sync_batch_norm else None,
        "shard_weights": ShardWeights() if is_sharded else None,
        "distillation": _if_set(config.distillation, lambda one: DistillationFeature(one, accelerator)),
        "compile": Compile() if config.compile else None,
        "precision": LossScaling(accelerator) if accelerator.scaler is not None else None,
    }
    return tuple(feature for key in ORDER if (feature := found[key]) is not None)


class Pruning(DetectorFeature):
    """Removes channels before the training, or keeps small weights at zero throughout."""

    key = "pruning"

    def __init__(self, config: PruningConfig, console: Console) -> None:
        self._config, self._console = config, console
        self._masks: WeightMasks | None = None

    def before_training(self, setup: Setup[Detector]) -> None:
        """Prune; a pure function of configuration and weights, so a resumed run prunes the same."""
        match self._config:
            case ChannelPruningConfig():
                setup.network, report = prune_channels(setup.network, self._config)
                say(self._console, f"pruned to {report.macs_after / report.macs_before:.2f} of the multiply-adds")
            case MagnitudePruningConfig():
                masks = magnitude_masks(setup.network, self._config)
                masks.apply(setup.network)
                self._masks = masks.to(setup.device)
            case _:
                assert_never(self._config)

    def after_step(self, network: Detector) -> None:
        """Set pruned weights back to zero."""
        if self._masks is not None:
            self._masks.apply(network)

    def state(self) -> Mapping[str, Stateful]:
        """The masks, where there are any."""
        return {} if self._masks is None else {"masks": self._masks}


class QuantizationAware(DetectorFeature):
    """Rounds inputs and kernels of convolutions to int8 in the forward pass (QAT)."""

    key = "quantization_aware"

    def __init__(self, config: QuantizationAwareConfig) -> None:
        self._config = config

    def before_training(self, setup: Setup[Detector]) -> None:
        """Replace the convolutions."""
        quantize(setup.network, self._config)


class Placement(DetectorFeature):
    """Moves the network to its device, in the memory layout that it is trained in."""

    key = "channels_last"

    def __init__(self, *, channels_last: bool) -> None:
        self._channels_last = channels_last

    def before_training(self, setup: Setup[Detector]) -> None:
        """Move it."""
        setup.network = on_device(setup.network.train(), setup.device, channels_last=self._channels_last)


class Freeze(DetectorFeature):
    """Leaves parts of the network as they are, the statistics of their batch norms included."""

    key = "freeze"

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes

    def before_training(self, setup: Setup[Detector]) -> None:
        """Turn the gradients of these parts off."""
        freeze(setup.network, self._prefixes)

    def before_step(self, network: Detector) -> None:
        """Put their batch norms into eval mode."""
        train_mode(network, self._prefixes)


class Accumulation(DetectorFeature):
    """Gradient accumulation: a batch in parts, whose gradients add up to those of the batch."""

    key = "accumulate_steps"

    def __init__(self, config: TrainDetectorConfig) -> None:
        self._config = config
        self._counts: PartCounts | None = None
        self._are_added = False

    def before_training(self, setup: Setup[Detector]) -> None:
        """Build the loss so that its parts can be divided by the count of the whole batch, where it has only one.

        Distillation's losses are divided by other counts, so with it the parts are averaged.
        """
        loss_config = self._config.loss or published_loss(setup.network.config.head)
        is_plain = self._config.distillation is None
        self._are_added = is_plain and grows_with_batch(loss_config)
        if is_plain and divides_once(loss_config):
            self._counts = PartCounts()
            setup.loss = build_loss(self._config.loss, setup.network.config.head, self._counts)

    def split(self, batches: list[Any]) -> list[Any]:
        """Every batch in accumulate_steps parts of the same number of images."""
        return [part for batch in batches for part in split_batch(batch, self._config.accumulate_steps)]

    def divisor(self, divisor: float, num_parts: int) -> float:
        """The count of the whole batch, or the number of parts for losses that are means."""
        if self._counts is not None:
            return divisor * self._counts.take()
        return divisor if self._are_added else divisor * num_parts


class SyncBatchNorm(DetectorFeature):
    """Batch norm over the images of all processes; on CPUs every process count computes the same bits."""

    key = "sync_batch_norm"

    def before_training(self, setup: Setup[Detector]) -> None:
        """Synchronise the norms; on CPUs also convolutions and loss."""
        setup.loss = synchronise_processes(setup.network, setup.loss, setup.device)


class ShardWeights(DetectorFeature):
    """Shards weights, gradients, EMA and optimizer state over the processes (FSDP2)."""

    key = "shard_weights"

    def __init__(self) -> None:
        self._whole: Detector | None = None

    def before_training(self, setup: Setup[Detector]) -> None:
        """Leave this process its shard of the network and its copies; keep a whole one on the CPU to gather into."""
        self._whole, names = copy.deepcopy(setup.network).cpu(), learning_parameters(setup.network)
        for network in (setup.network, *setup.copies):
            shard(network, names, setup.device)

    def saved_states(self, parts: dict[str, Stateful]) -> dict[str, Stateful]:
        """States are gathered to be saved and sharded again when they are loaded."""
        return sharded_states(parts)

    def weights_to_save(self, network: Detector) -> Detector:
        """The whole weights, on the CPU."""
        assert self._whole is not None
        return gathered_into(self._whole, network)


class DistillationFeature(DetectorFeature):
    """Adds the losses of imitating a teacher."""

    key = "distillation"

    def __init__(self, config: DistillationConfig, accelerator: Accelerator) -> None:
        self._config, self._accelerator = config, accelerator
        self._distillation: Distillation | None = None

    @property
    def distillation(self) -> Distillation:
        """Teacher and student; there are none before `before_training`."""
        assert self._distillation is not None
        return self._distillation

    def before_training(self, setup: Setup[Detector]) -> None:
        """Train the student, which is the network and the adapters of its features."""
        self._distillation = Distillation(self._config, setup.network, setup.device)
        setup.model = self._distillation.network
        setup.param_groups += self._distillation.param_groups()

    def losses(self, losses_of: Callable[[Any], Losses], output: Any, inputs: Any) -> Losses:
        """The task's losses and those of the imitation; `inputs` are images in 0..255."""
        with self._accelerator.autocast():
            teacher_output = self.distillation.ask(inputs)
        return self.distillation.join(losses_of(output.output), output, teacher_output)

    def state(self) -> Mapping[str, Stateful]:
        """The adapters."""
        return {"adapters": self.distillation.network.adapters}


class Compile(DetectorFeature):
    """Compiles the network with torch.compile."""

    key = "compile"

    def before_training(self, setup: Setup[Detector]) -> None:
        """In place; the compilation itself happens in the first step."""
        setup.network.compile()


class LossScaling(DetectorFeature):
    """The loss scale of fp16; accelerate applies it, this saves it."""

    key = "precision"

    def __init__(self, accelerator: Accelerator) -> None:
        self._scaler = accelerator.scaler

    def state(self) -> Mapping[str, Stateful]:
        """The scale and how long it has held."""
        assert self._scaler is not None
        return {"scaler": self._scaler}


def split_batch(batch: Batch, num_parts: int) -> list[Batch]:
    """Parts of the same number of images; `num_parts` divides that of the batch."""
    size, rest = divmod(len(batch.images), num_parts)
    assert rest == 0
    parts = [slice(first, first + size) for first in range(0, len(batch.images), size)]
    return [batch[part] for part in parts]


def _if_set(config: T | None, make: Callable[[T], DetectorFeature]) -> DetectorFeature | None:
    return None if config is None else make(config)

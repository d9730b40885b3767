"""Parts of a detector that do not learn: their weights have no gradients, their batch norms keep their statistics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from vision.errors import ConfigError


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Freeze every parameter whose name is, or lies below, one of the prefixes: "backbone", "backbone.stages.0".

    Raises ConfigError for a prefix that names nothing, and when nothing would be left to learn.
    """
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if is_below(name, prefix)]
        if not parameters:
            raise ConfigError(f"freeze: the detector has nothing named {prefix!r}; {_near(model, prefix)}")
        for parameter in parameters:
            parameter.requires_grad = False
    if prefixes and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"freeze: {', '.join(prefixes)} leave no weight that could learn")


def train_mode(model: nn.Module, frozen: Sequence[str]) -> None:
    """Train mode for all but the batch norms of frozen parts: their statistics stay as they are."""
    model.train()
    if frozen:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and any(is_below(name, prefix) for prefix in frozen):
                module.eval()


def is_below(name: str, prefix: str) -> bool:
    """Whether `name` is that part of a network or lies in it."""
    return name == prefix or name.startswith(f"{prefix}.")


def _near(model: nn.Module, prefix: str) -> str:
    """What the last part of the prefix that exists has instead."""
    parts, known = prefix.split("."), model
    for number, part in enumerate(parts):
        children = dict(known.named_children())
        if part not in children:
            place = ".".join(parts[:number]) or "it"
            return f"{place} has {', '.join(children) or 'no parts'}"
        known = children[part]
    return "it has no parameters"

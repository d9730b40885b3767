"""Map the state-dict keys of third-party checkpoints to ours and back: a table of regular expressions for each naming.

Each family of published networks has its tables in its module (`yolox.py`, `detr.py`, ...).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from handeye.vision.checkpoints.native import is_batch_counter, require_fit

Rename = tuple[str, str]
"""A pattern and its replacement, as `re.sub` takes them."""


@dataclass(frozen=True)
class KeyMap:
    """One naming of the weights of one family of networks.

    Our query, key and value have separate matrices, which most published code packs into one. A renamed key that
    ends in `[i]` is the i-th part of the published tensor of the name before it, along dimension 0.
    """

    renames: tuple[Rename, ...]
    """From our keys to the published ones; applied from top to bottom, each wherever it fits."""
    ignored: tuple[str, ...] = ()
    """Patterns of whole published keys that may be present or absent: buffers that code computes itself, copies."""
    optional: tuple[str, ...] = ()
    """Patterns of whole published keys that are read where they are present: numbers that our configuration has too."""
    respelt: tuple[Rename, ...] = ()
    """From other spellings of published keys (of older files, of wrappers) to the usual one."""

    def published_key(self, key: str) -> str:
        """The published name of one of our keys, with `[i]` where it is a part of a packed tensor."""
        return _apply(self.renames, key)

    def to_published(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights under their published names, packed as published."""
        return {name: _pack([own[key] for key in keys]) for name, keys in self._parts(own).items()}

    def to_ours(self, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
        """Published weights under our names, for a network with the state dict `own`.

        Raises ModelFileError with the list of published keys that are missing, unexpected or misshapen.
        """
        given = self._that_count(self.respell(weights))
        expected = self._that_count(self.to_published(own))
        expected = {key: value for key, value in expected.items() if key in given or not _is_one_of(self.optional, key)}
        require_fit(expected, given, origin)
        ours: dict[str, Tensor] = {}
        for name, keys in self._parts(own).items():
            if name in given:
                ours |= zip(keys, _unpack(given[name], [own[key] for key in keys]), strict=True)
        return ours

    def num_known(self, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> int:
        """How many keys of a checkpoint belong to this naming: the best match tells which naming a file follows."""
        return len(self.respell(weights).keys() & self._parts(own).keys())

    def respell(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights, other spellings of the published keys replaced by the usual one."""
        return {_apply(self.respelt, key): value for key, value in weights.items()}

    def _that_count(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: value
            for key, value in weights.items()
            if not is_batch_counter(key) and not _is_one_of(self.ignored, key)
        }

    def _parts(self, own: Mapping[str, Tensor]) -> dict[str, list[str]]:
        """Every published key with those of ours that make it up, in their order."""
        parts: dict[str, dict[int, str]] = {}
        for key in own:
            name, _, index = self.published_key(key).removesuffix("]").partition("[")
            parts.setdefault(name, {})[int(index or 0)] = key
        return {name: [keys[index] for index in sorted(keys)] for name, keys in parts.items()}


def best_key_map(key_maps: Sequence[KeyMap], weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> KeyMap:
    """The naming that a checkpoint follows: the one that knows most of its keys."""
    return max(key_maps, key=lambda key_map: key_map.num_known(weights, own))


def _is_one_of(patterns: Sequence[str], key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _apply(renames: Sequence[Rename], key: str) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _pack(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _unpack(packed: Tensor, parts: Sequence[Tensor]) -> Sequence[Tensor]:
    return (packed,) if len(parts) == 1 else packed.split([len(part) for part in parts])

"""One adapter's directory: its settings and the matrices that add to groups of weights."""

import hashlib
from collections.abc import Mapping, Set
from functools import lru_cache

import torch
from torch import Tensor

from moe.checkpoint.adapters.placing import PREFIX, Factors, Placing
from moe.checkpoint.adapters.settings import NAME, read_settings
from moe.checkpoint.header import read_header
from moe.checkpoint.shards import Shards
from moe.config.adapters import Group, groups, inputs, outputs
from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.errors import CheckpointError
from moe.storage import Location

WEIGHTS = "adapter_model.safetensors"
_OLD_WEIGHTS = "adapter_model.bin"
_SHOWN = 3


class AdapterFiles:
    """An adapter for one model, opened and checked: each of its tensors adds to a known weight."""

    def __init__(self, directory: Location, config: ModelConfig) -> None:
        self.directory = directory
        settings = read_settings(directory)
        path = directory / WEIGHTS
        if not path.is_file():
            raise CheckpointError(_unreadable(directory))
        self._shards = Shards(dict.fromkeys(read_header(path).entries, path))
        shapes = {name: self._shards.shape(name) for name in self._shards.names}
        for name in shapes:
            self._shards.dtype(name)
        placing = Placing(config, settings, shapes)
        self._factors = _placed(placing, config, directory, shapes.keys())
        self._read = lru_cache(maxsize=4)(self._shards.read)

    def digest(self) -> str:
        """Return a hash of all that the adapter is; two with the same one compute the same."""
        found = hashlib.sha256()
        for name in (NAME, WEIGHTS):
            found.update(hashlib.sha256((self.directory / name).read_bytes()).digest())
        return found.hexdigest()

    def rank(self, group: Group) -> int:
        """Return the rank of what the adapter adds to a group; 0 if it adds nothing."""
        return sum(each.rank for each in self._of(group))

    def read(self, group: Group) -> tuple[Tensor, Tensor] | None:
        """Return A [R, K] and B [N, R] for the held parts of a group in float32, the scale in B.

        None if the adapter adds nothing.
        """
        factors = self._of(group)
        if not factors:
            return None
        rank = self.rank(group)
        down_RK, up_NR = torch.empty(rank, inputs(group)), torch.zeros(outputs(group), rank)
        start = 0
        for each in factors:
            own = slice(start, start + each.rank)
            down_RK[own] = self._down(each, group)
            up, rows = self._up(each, group)
            up_NR[rows, own] = up.float() * each.scale
            start += each.rank
        return down_RK, up_NR

    def _of(self, group: Group) -> tuple[Factors, ...]:
        return self._factors.get(group[0].name, ())

    def _down(self, factors: Factors, group: Group) -> Tensor:
        """Return the columns of A for the held inputs."""
        whole_RK, first = self._read(factors.down), group[0]
        if factors.expert is not None:
            start = factors.expert * factors.rank
            return whole_RK[start : start + factors.rank]
        return whole_RK[:, first.start : first.stop] if first.dim == 1 else whole_RK

    def _up(self, factors: Factors, group: Group) -> tuple[Tensor, slice]:
        """Return the rows of B for the held outputs, and where they stand in the group's."""
        whole_NR = self._read(factors.up)
        if factors.member is None:
            assert factors.expert is not None
            return whole_NR[:, factors.expert :: factors.experts], slice(None)
        member = group[factors.member]
        before = outputs(group[: factors.member])
        own = whole_NR[member.start : member.stop] if member.dim == 0 else whole_NR
        return own, slice(before, before + len(own))


def _placed(
    placing: Placing, config: ModelConfig, directory: Location, names: Set[str]
) -> Mapping[str, tuple[Factors, ...]]:
    """Return the factors of each group by the name of its first weight; CheckpointError unless
    every tensor of the file has its place.
    """
    found = {group[0].name: placing.factors(group) for group in groups(config, whole(config))}
    used = {name for own in found.values() for each in own for name in (each.down, each.up)}
    if left := sorted(names - used):
        shown = ", ".join(name.removeprefix(PREFIX) for name in left[:_SHOWN])
        raise CheckpointError(
            f"{directory} adds to weights that raymoe adds nothing to, or does so in another form: "
            f"{shown}{'' if len(left) <= _SHOWN else f' and {len(left) - _SHOWN} more'}; it serves "
            "pairs lora_A, lora_B of attention, feed-forwards, experts and routers of this model "
            "(no embedding, head, norm, bias or DoRA magnitude): train with these target_modules, "
            "or merge the adapter into the model (merge_and_unload)"
        )
    if not used:
        raise CheckpointError(f"{directory} has no tensors; save the adapter again with peft")
    return found


def _unreadable(directory: Location) -> str:
    if (directory / _OLD_WEIGHTS).is_file():
        return (
            f"{directory} has its weights as {_OLD_WEIGHTS}, which can run any code when it is "
            "read; load it with peft where you trust it, and save it with save_pretrained"
        )
    return f"{directory} has no {WEIGHTS}; give the directory that peft's save_pretrained wrote"

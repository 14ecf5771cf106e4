"""Where a rank reads its share from: weights, and what training had come to.

A source is a small value that travels with the command to build. Each rank opens it and reads its
own tensors, name by name and slice by slice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from actors.step.buckets import ReadMaster
from actors.step.optimizer import ReadMoment
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MASTER
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.products import Products
from moe.config.ranges import TensorRange, whole_range
from moe.config.tensors import TensorSlice
from moe.errors import RankLost
from moe.nn.build import ReadTensor
from moe.storage import Location


@dataclass(frozen=True, slots=True)
class Progress:
    """What training had come to: steps done, the balance of every layer, optimiser moments."""

    step: int
    balance: Mapping[int, BalanceState]
    read_moment: ReadMoment


@dataclass(frozen=True, slots=True)
class Opened:
    """A source ready to be read; ``progress`` is None where training begins or never takes place.

    ``read_weight`` returns a weight in the type in which it is stored, ``read_master`` its float32
    values, or None if it is stored in bfloat16 and has no master. Both, and
    ``progress.read_moment``, return the part of a tensor that they are asked for. CheckpointError
    where it is missing or damaged. ``products`` are the rules of products so far, by processor. A
    ``blank`` source has no values: nothing is read of it. ``frozen`` is the model whose tensors a
    run leaves as they are, if it does.
    """

    config: ModelConfig
    read_weight: ReadTensor
    read_master: ReadMaster
    progress: Progress | None = None
    products: Mapping[str, Products] = field(default_factory=dict)
    blank: bool = False
    frozen: Location | None = None

    def read_exact(self, part: TensorSlice) -> Tensor:
        """Return a part of a weight in all the digits that are stored: of its master, if any."""
        master = self.read_master(whole_range(part))
        return self.read_weight(part) if master is None else master.view(part.held_shape)


class Source(Protocol):
    """Where the ranks of a plan read their shares from."""

    def config(self) -> ModelConfig:
        """Return the architecture; the engine asks once, before any rank is built."""

    def open(self) -> Opened:
        """Open it; every rank does, when it is built."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model directory: weights alone, to serve or to begin training from."""

    directory: Location

    def config(self) -> ModelConfig:
        """Return the architecture of the model."""
        return Checkpoint.open(self.directory).config

    def open(self) -> Opened:
        """Open the model directory."""
        checkpoint = Checkpoint.open(self.directory)
        return Opened(checkpoint.config, checkpoint.read, _masters(checkpoint))


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """A checkpoint that a run wrote, under any plan and in any precision: training goes on from its
    step.
    """

    directory: Location

    def config(self) -> ModelConfig:
        """Return the architecture of the model in the checkpoint."""
        return Checkpoint.open(self.directory, load_manifest(self.directory)).config

    def open(self) -> Opened:
        """Open the checkpoint; everything is verified as it is read."""
        manifest = load_manifest(self.directory)
        checkpoint = Checkpoint.open(self.directory, manifest)
        moments = Moments.open(self.directory, manifest)
        progress = Progress(manifest.step, manifest.balance, moments.read_range)
        masters, products = _masters(checkpoint, moments), manifest.products
        return Opened(checkpoint.config, checkpoint.read, masters, progress, products)


@dataclass(frozen=True, slots=True)
class Blank:
    """No values but those of ``frozen`` tensors, read from the model that has them: a rank built
    from it gets all others from a peer.

    ``products`` are the rules of products that the ranks of the run were built with, so that the
    new rank computes the same bits.
    """

    architecture: ModelConfig
    products: Mapping[str, Products] = field(default_factory=dict)
    frozen: Location | None = None

    @classmethod
    def of(cls, source: Source) -> "Blank":
        """Return what builds ranks like those that a run built from a source."""
        opened = source.open()
        return cls(opened.config, opened.products, opened.frozen)

    def config(self) -> ModelConfig:
        """Return the architecture of the model."""
        return self.architecture

    def open(self) -> Opened:
        """Open nothing but the model with frozen tensors, if there is one."""
        read = _no_values if self.frozen is None else Checkpoint.open(self.frozen).read
        return Opened(
            self.architecture,
            read,
            _no_values,
            products=self.products,
            blank=True,
            frozen=self.frozen,
        )


def _no_values(part: TensorSlice | TensorRange) -> Tensor:
    raise RankLost(
        f"{part.name} was asked of a rank that was built without values; let it join an epoch and "
        "recover from the copy that a peer holds"
    )


def _masters(checkpoint: Checkpoint, moments: Moments | None = None) -> ReadMaster:
    """Return the reader of float32 values: masters that were saved, else weights."""

    def read(own: TensorRange) -> Tensor | None:
        if moments is not None and moments.has(own.part, MASTER):
            return moments.read_range(own, MASTER)
        if checkpoint.dtype_of(own.part) == torch.bfloat16:
            return None
        return checkpoint.read(own.part).flatten()[own.start : own.stop]

    return read

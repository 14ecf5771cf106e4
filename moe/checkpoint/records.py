"""The records of a manifest about every stored tensor: its location and the hash of its bytes.

Weights are stored in full, each once. Optimiser moments are stored in *pieces*: the owner of a
range of a tensor's elements writes that range, one-dimensional, in memory order. A tensor is cut
twice: the gang cuts it along a dimension into parts, and the replicas cut each part into ranges.
A weight that is not stored in float32 was rounded from its *master*, whose pieces lie beside those
of its moments; a float32 weight is its own master.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import torch
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.shard_files import TYPES
from moe.config.balance_state import BalanceState
from moe.config.model import ModelConfig
from moe.config.products import Products
from moe.config.projectors import PROJECTOR, has_projector, projector_shape
from moe.config.ranges import TensorRange
from moe.config.tensors import held_shape, saved, tensors
from moe.errors import CheckpointError

MOMENTS = ("exp_avg", "exp_avg_sq")
"""The states that AdamW keeps for every trained element."""

MASTER = "master"
"""The float32 value of an element whose weight is stored in fewer bits; saved as moments are."""


@dataclass(frozen=True, slots=True)
class OwnedState:
    """The moments of a range of one tensor that a rank owns, and its master where the weight is in
    fewer bits; each is one-dimensional.
    """

    range: TensorRange
    moments: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One full weight, by its name in the family's files."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One range of one moment, or of the master, of one part of a tensor.

    ``shape`` is the shape of the full tensor; ``dim``, ``first`` and ``last`` give the part
    (``dim`` is None if the part is the full tensor); ``start`` and ``stop`` give the elements of
    the part.
    """

    name: str
    moment: str
    file: str
    shape: tuple[int, ...]
    dim: int | None
    first: int
    last: int
    start: int
    stop: int
    dtype: str
    sha256: str

    @property
    def key(self) -> str:
        """Name of the piece in its file, unique in the checkpoint."""
        part = "" if self.dim is None else f"[{self.first}:{self.last}]"
        return f"{self.name}.{self.moment}{part}[{self.start}:{self.stop}]"

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return held_shape(self.shape, self.dim, self.first, self.last)


@dataclass(frozen=True, slots=True)
class WrittenFiles:
    """The records that one rank, or another writer, adds to a checkpoint.

    ``balance`` is the state of each layer with experts that the writer holds, ``products`` the
    rules that its products followed.
    """

    tensors: tuple[StoredTensor, ...]
    pieces: tuple[Piece, ...]
    balance: Mapping[int, BalanceState]
    products: tuple[Products, ...] = ()


def piece_of(own: TensorRange, name: str, moment: str, file: str, dtype: torch.dtype) -> Piece:
    """Return the piece for a moment of a range, named ``name`` on disk, without its hash."""
    part = own.part
    return Piece(
        name=name,
        moment=moment,
        file=file,
        shape=part.shape,
        dim=part.dim,
        first=part.start,
        last=part.stop,
        start=own.start,
        stop=own.stop,
        dtype=TYPES[dtype],
        sha256="",
    )


def read_tensor(table: Mapping[str, Any]) -> StoredTensor:
    """Return a tensor record from its table; raises if a key is missing or has a wrong type."""
    return StoredTensor(**(dict(table) | {"shape": _shape(table)}))


def read_piece(table: Mapping[str, Any]) -> Piece:
    """Return a piece from its table; raises if a key is missing or has a wrong type."""
    return Piece(**(dict(table) | {"shape": _shape(table)}))


def check_tensors(config: ModelConfig, stored: Iterable[StoredTensor]) -> None:
    """Raise CheckpointError unless every tensor that belongs in a checkpoint is stored once, in its
    shape.
    """
    expected = {disk_name(config.family, tensor.name): tensor.shape for tensor in saved(config)}
    seen: dict[str, StoredTensor] = {}
    for tensor in stored:
        if tensor.name in seen:
            raise CheckpointError(
                f"{tensor.name} lies in {seen[tensor.name].file} and in {tensor.file}; "
                "every tensor must be written once"
            )
        if tensor.name not in expected:
            raise CheckpointError(f"{tensor.name} in {tensor.file} is not a tensor of this model")
        if tensor.shape != expected[tensor.name]:
            raise CheckpointError(
                f"{tensor.name} in {tensor.file} has shape {tensor.shape}, the model asks for "
                f"{expected[tensor.name]}"
            )
        seen[tensor.name] = tensor
    if missing := sorted(expected.keys() - seen.keys()):
        raise CheckpointError(f"nobody wrote {missing[0]}, nor {len(missing) - 1} other tensors")


def check_moments(
    config: ModelConfig,
    pieces: Iterable[Piece],
    narrow: Collection[str] = (),
    projectors: bool = False,
) -> None:
    """Raise CheckpointError unless the pieces cover every moment of a model, each element once.

    ``narrow`` are the names of the weights that are not stored in float32; their masters must be
    covered likewise, and with ``projectors`` those of the experts.
    """
    table = by_moment(pieces)
    expected: dict[tuple[str, str], tuple[int, ...]] = {
        (name, moment): tensor.shape
        for tensor in tensors(config)
        if tensor.role.trained
        for name in [disk_name(config.family, tensor.name)]
        for moment in (*MOMENTS, *((MASTER,) if name in narrow else ()))
    }
    if projectors:
        expected |= {
            (disk_name(config.family, tensor.name), PROJECTOR): projector_shape(tensor)
            for tensor in tensors(config)
            if has_projector(tensor)
        }
    if unknown := sorted(table.keys() - expected.keys()):
        raise CheckpointError(f"{'.'.join(unknown[0])} is no moment of this model as it is stored")
    for (name, moment), shape in expected.items():
        check_cover(name, moment, shape, table.get((name, moment), ()))


def check_cover(name: str, moment: str, shape: tuple[int, ...], pieces: Sequence[Piece]) -> None:
    """Raise CheckpointError unless pieces cover every element of a tensor once.

    The parts of a gang are adjacent along one dimension; the ranges of each part are adjacent.
    """
    label = f"{name}.{moment}"
    if not pieces:
        raise CheckpointError(f"{label} is missing: no piece of it was saved")
    for piece in pieces:
        if piece.shape != shape:
            raise CheckpointError(
                f"{label} in {piece.file} is cut from shape {piece.shape}, not {shape}"
            )
    if len({piece.dim for piece in pieces}) > 1:
        raise CheckpointError(f"{label} is cut along several dimensions; its pieces do not fit")
    dim = pieces[0].dim
    parts = groupby(sorted(pieces, key=_order), key=lambda piece: (piece.first, piece.last))
    spans = []
    for span, group in parts:
        ranges = [(piece.start, piece.stop) for piece in group]
        elements = prod(held_shape(shape, dim, *span))
        _check_line(f"{label}, elements of its part {list(span)}", ranges, elements)
        spans.append(span)
    if dim is not None:
        _check_line(f"{label}, its parts along dimension {dim}", spans, shape[dim])
    elif len(spans) > 1:
        raise CheckpointError(f"{label} was saved whole more than once; its pieces do not fit")


def by_moment(pieces: Iterable[Piece]) -> dict[tuple[str, str], list[Piece]]:
    """Return the pieces of every tensor and moment."""
    table: dict[tuple[str, str], list[Piece]] = {}
    for piece in pieces:
        table.setdefault((piece.name, piece.moment), []).append(piece)
    return table


def _order(piece: Piece) -> tuple[int, int, int]:
    return piece.first, piece.last, piece.start


def _check_line(label: str, spans: Iterable[tuple[int, int]], size: int) -> None:
    """Raise CheckpointError unless sorted spans lie end to end from 0 to the size."""
    at = 0
    for start, stop in spans:
        if start > at:
            raise CheckpointError(f"{label}: {at} to {start} of {size} are missing")
        if start < at or stop <= start:
            raise CheckpointError(f"{label}: {start} to {stop} of {size} were saved twice")
        at = stop
    if at < size:
        raise CheckpointError(f"{label}: {at} to {size} of {size} are missing")
    if at > size:
        raise CheckpointError(f"{label}: {size} to {at} are beyond its size {size}")


def _shape(table: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in table["shape"])

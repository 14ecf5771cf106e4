"""A complete training checkpoint: the files beside the tensors, and a writer for one process.

Actors write their tensors in parallel, and ``complete`` makes one checkpoint of their files. A
conversion has all tensors in one process and uses ``write_training_checkpoint``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor

from moe.checkpoint.card.card import CARD, write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.digest import file_sha256
from moe.checkpoint.drafts import drafted
from moe.checkpoint.manifest import OPTIMIZER, Manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.records import (
    MOMENTS,
    Piece,
    StoredTensor,
    WrittenFiles,
    check_moments,
    check_tensors,
    piece_of,
)
from moe.checkpoint.remote import copy_remote_code
from moe.checkpoint.shard_files import NAMED, TYPES
from moe.checkpoint.streamed import streamed
from moe.checkpoint.weight_files import FACTORS, INDEX
from moe.checkpoint.writer import (
    SHARD_BYTES,
    TensorSpec,
    copy_tokenizer,
    in_order,
    pack,
    write_index,
    write_json,
)
from moe.config.balance_state import BalanceState
from moe.config.families import write_config
from moe.config.model import ModelConfig
from moe.config.products import by_processor
from moe.config.ranges import whole_range
from moe.config.run import RunConfig, dump_run
from moe.config.tensors import TensorSlice, saved, tensors
from moe.storage import Location, make_directory, sizes, write_text


@dataclass(frozen=True, slots=True)
class SaveContext:
    """The contents that all checkpoints of a run share and that its ranks do not know.

    ``tokenizer`` is the directory from which the tokenizer is copied; ``data`` is the fingerprint
    of the token shards, so that a resumed run reads the same data, ``frozen`` that of the model
    that frozen tensors stay in.
    """

    config: ModelConfig
    run: RunConfig
    tokenizer: Path
    data: str
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """The contents of one checkpoint beside the records of its writers; ``plan`` is the plan as
    tables. ``made`` is what its card tells of how it came about, if not by training.
    """

    context: SaveContext
    plan: Mapping[str, Any]
    step: int
    made: Made | None = None

    def card(self) -> Made:
        """Return the step that the card of the checkpoint tells."""
        if self.made is not None:
            return self.made
        run, stages = self.context.run, self.plan["stages"]
        ranks = len(stages[0]["ranks"])
        replicas = len(stages[0]["ranks"][0]["devices"])
        train = run.train.model_dump(mode="json", exclude_defaults=True)
        return Made(
            "train",
            {"run": run.name, "steps done": self.step, **train},
            {"token shards": self.context.data},
            f"{_count(replicas, 'replica')} of {_count(len(stages), 'stage')} of "
            f"{_count(ranks, 'rank')}",
        )


@dataclass(frozen=True, slots=True)
class WholeState:
    """The full training state of a model in one process: readers of tensors, and the balance
    states.

    ``moment`` returns one moment, given by its name, of a full tensor.
    """

    weight: Callable[[TensorSlice], Tensor]
    moment: Callable[[TensorSlice, str], Tensor]
    balance: Mapping[int, BalanceState]


def complete(directory: Location, about: About, written: Sequence[WrittenFiles]) -> None:
    """Write the files beside the tensors, and the manifest last.

    Raises CheckpointError, and writes no manifest, unless the tensors are the complete model and
    the pieces cover every element of its moments once, and of the masters of bfloat16 weights.
    """
    context = about.context
    stored = [tensor for files in written for tensor in files.tensors]
    pieces = [piece for files in written for piece in files.pieces]
    frozen = {
        disk_name(context.config.family, each.name)
        for each in tensors(context.config)
        if each.role.frozen
    }
    changing = [tensor for tensor in stored if tensor.name not in frozen]
    narrow = {tensor.name for tensor in changing if NAMED[tensor.dtype] != torch.float32}
    check_tensors(context.config, stored)
    projectors = context.run.train.orthogonal is not None
    check_moments(context.config, pieces, narrow, projectors)
    whole = context.run.train.lora is None
    if whole:
        write_index(directory, INDEX, _by_file(stored))
    dtype = "bfloat16" if narrow else "float32"
    write_json(directory / "config.json", write_config(context.config, dtype))
    copy_tokenizer(context.tokenizer, directory)
    copy_remote_code(context.config.family, directory)
    write_text(directory / "plan.toml", tomli_w.dumps(about.plan))
    write_text(directory / "run.json", dump_run(context.run))
    if whole:
        write_card(directory, [context.tokenizer], context.config, about.card())
    balance = {layer: state for each in written for layer, state in each.balance.items()}
    files = {name: size for name, size in sizes(directory).items() if name not in CARD}
    others = sorted(name for name in files if not name.endswith(".safetensors"))
    Manifest(
        step=about.step,
        balance=dict(sorted(balance.items())),
        products=by_processor(each for files in written for each in files.products),
        plan=about.plan,
        data=context.data,
        run=context.run.model_dump(mode="json"),
        files=files,
        hashes={name: file_sha256(directory / name) for name in others},
        tensors={tensor.name: tensor for tensor in sorted(stored, key=lambda each: each.name)},
        pieces=tuple(sorted(pieces, key=lambda piece: piece.key)),
        frozen=context.frozen,
    ).save(directory)


def write_training_checkpoint(
    to: Location,
    about: About,
    state: WholeState,
    limit: int = SHARD_BYTES,
    beside: Callable[[Location], None] = lambda directory: None,
) -> None:
    """Write a complete checkpoint from one process; it appears complete or not at all.

    The readers return one full tensor at a time, each once, so memory holds one tensor. Weights and
    moments are stored in float32, as training has them; files hold up to ``limit`` bytes.
    ``beside`` may add files, such as a receipt, before the checkpoint appears.
    """
    config = about.context.config
    wanted = {disk_name(config.family, tensor.name): tensor for tensor in saved(config)}
    kind = "model" if about.context.run.train.lora is None else FACTORS
    with drafted(to) as directory:
        weights = [TensorSpec(name, each.shape, torch.float32) for name, each in wanted.items()]
        stored = [
            StoredTensor(spec.name, file, spec.shape, TYPES[spec.dtype], digest)
            for file, spec, digest in _written(
                directory, kind, weights, limit, lambda name: state.weight(wanted[name])
            )
        ]
        pieces = _whole_pieces(wanted)
        make_directory(directory / OPTIMIZER)
        moments = [
            TensorSpec(key, (piece.stop,), torch.float32) for key, (piece, _) in pieces.items()
        ]

        def moment(key: str) -> Tensor:
            piece, tensor = pieces[key]
            return state.moment(tensor, piece.moment).reshape(-1)

        owned = [
            replace(pieces[spec.name][0], file=file, sha256=digest)
            for file, spec, digest in _written(
                directory, f"{OPTIMIZER}/whole", moments, limit, moment
            )
        ]
        complete(directory, about, [WrittenFiles(tuple(stored), tuple(owned), state.balance)])
        beside(directory)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _whole_pieces(wanted: Mapping[str, TensorSlice]) -> dict[str, tuple[Piece, TensorSlice]]:
    """Return one piece for every full moment by its key, and its tensor."""
    pieces: dict[str, tuple[Piece, TensorSlice]] = {}
    for name, tensor in wanted.items():
        for moment in MOMENTS if tensor.role.trained else ():
            piece = piece_of(whole_range(tensor), name, moment, "", torch.float32)
            pieces[piece.key] = piece, tensor
    return pieces


def _written(
    directory: Location,
    prefix: str,
    specs: Sequence[TensorSpec],
    limit: int,
    read: Callable[[str], Tensor],
) -> Iterator[tuple[str, TensorSpec, str]]:
    """Write tensors to files of at most ``limit`` bytes; yield file, tensor and hash."""
    shards = pack(specs, limit)
    for number, shard in enumerate(shards, start=1):
        file = f"{prefix}-{number:05d}-of-{len(shards):05d}.safetensors"
        with streamed(directory / file, shard) as writer:
            for spec in in_order(shard):
                tensor = read(spec.name).to(spec.dtype)
                yield file, spec, writer.write(spec.name, tensor)


def _by_file(stored: Iterable[StoredTensor]) -> dict[str, list[TensorSpec]]:
    """Return the tensors of every file, in the form of the index."""
    files: dict[str, list[TensorSpec]] = {}
    for tensor in stored:
        spec = TensorSpec(tensor.name, tensor.shape, NAMED[tensor.dtype])
        files.setdefault(tensor.file, []).append(spec)
    return files

"""Moments saved in pieces are read as any other pieces; gaps and overlaps are refused."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.moments import Moments
from moe.checkpoint.names import disk_name
from moe.checkpoint.records import MOMENTS, Piece, check_moments
from moe.checkpoint.shards import Shards
from moe.checkpoint.streamed import streamed
from moe.checkpoint.writer import TensorSpec
from moe.config.ranges import TensorRange
from moe.config.role import Role
from moe.config.tensors import TensorSlice
from moe.errors import CheckpointError
from tests import saves
from tests.examples import examples
from tests.routed import routed

NAME = "model.layers.1.mlp.experts.2.up_proj.weight"
DISK = disk_name("mixtral", NAME)
ROLE = Role("up", layer=1, expert=2, cut=0)
FAST = settings(max_examples=examples(80))


def cuts(draw: st.DrawFn, total: int) -> list[tuple[int, int]]:
    inner = draw(st.lists(st.integers(1, total - 1), unique=True, max_size=3)) if total > 1 else []
    edges = [0, *sorted(inner), total]
    return list(pairwise(edges))


@st.composite
def partitions(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[TensorSlice, int, int]]:
    """Draw parts of a gang along a dimension, or none, and ranges of each."""
    dim = draw(st.sampled_from([None, *range(len(shape))]))
    spans = [(0, 0)] if dim is None else cuts(draw, shape[dim])
    parts = [TensorSlice(NAME, shape, ROLE, dim, *span) for span in spans]
    return [(part, *span) for part in parts for span in cuts(draw, part.elements)]


def moments(
    folder: Path, whole: Tensor, ranges: list[tuple[TensorSlice, int, int]]
) -> tuple[Moments, list[Piece]]:
    """Write every range to a file of its own and open them."""
    pieces = []
    for number, (part, start, stop) in enumerate(ranges):
        flat = saves.narrowed(whole, part).reshape(-1)[start:stop]
        piece = Piece(
            DISK,
            "exp_avg",
            f"{number}.safetensors",
            part.shape,
            part.dim,
            part.start,
            part.stop,
            start,
            stop,
            "F32",
            "",
        )
        spec = TensorSpec(piece.key, (stop - start,), torch.float32)
        with streamed(folder / piece.file, [spec]) as writer:
            pieces.append(replace(piece, sha256=writer.write(piece.key, flat)))
    return opened(folder, pieces), pieces


def opened(folder: Path, pieces: list[Piece]) -> Moments:
    files = {piece.key: folder / piece.file for piece in pieces}
    return Moments("mixtral", pieces, Shards(files, {p.key: p.sha256 for p in pieces}))


@FAST
@given(data=st.data(), shape=st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple))
def test_any_partition_reads_any_other(
    data: st.DataObject, shape: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = torch.randn(shape)
    reader, _ = moments(tmp_path_factory.mktemp("m"), whole, data.draw(partitions(shape)))
    for part, start, stop in data.draw(partitions(shape)):
        own = saves.narrowed(whole, part)
        assert reader.read(part, "exp_avg").equal(own)
        read = reader.read_range(TensorRange(part, start, stop), "exp_avg")
        assert read.equal(own.reshape(-1)[start:stop])


def test_pieces_that_do_not_overlap_are_not_opened(tmp_path: Path) -> None:
    whole, rows = torch.randn(8, 3), [(0, 3), (3, 6), (6, 8)]
    reader, pieces = moments(
        tmp_path,
        whole,
        [(TensorSlice(NAME, (8, 3), ROLE, 0, *span), 0, 3 * (span[1] - span[0])) for span in rows],
    )
    for piece in (pieces[0], pieces[2]):
        (tmp_path / piece.file).unlink()
    part = TensorSlice(NAME, (8, 3), ROLE, 0, 3, 6)
    assert reader.read(part, "exp_avg").equal(whole[3:6])
    with pytest.raises(CheckpointError, match=r"2\.safetensors is missing"):
        reader.read(TensorSlice(NAME, (8, 3), ROLE, 0, 3, 7), "exp_avg")


@FAST
@given(data=st.data(), shape=st.lists(st.integers(1, 6), min_size=1, max_size=2).map(tuple))
def test_a_piece_lost_or_doubled_is_refused_by_name(
    data: st.DataObject, shape: tuple[int, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    _, pieces = moments(folder, torch.randn(shape), data.draw(partitions(shape)))
    number = data.draw(st.integers(0, len(pieces) - 1))
    without = [*pieces[:number], *pieces[number + 1 :]]
    doubled = [*pieces, replace(pieces[number], file="another.safetensors")]
    for wrong in (without, doubled):
        with pytest.raises(CheckpointError, match=rf"{DISK}\.exp_avg"):
            opened(folder, wrong).read(TensorSlice(NAME, shape, ROLE), "exp_avg")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    part = TensorSlice(NAME, (4, 6), ROLE)
    reader, pieces = moments(tmp_path, whole, [(part, 0, 10), (part, 10, 24)])
    with pytest.raises(CheckpointError, match=r"cut from shape \(4, 6\), not \(4, 5\)"):
        reader.read(TensorSlice(NAME, (4, 5), ROLE), "exp_avg")
    with pytest.raises(CheckpointError, match="asked for elements 5 to 25"):
        reader.read_range(TensorRange(part, 5, 25), "exp_avg")
    longer = [pieces[0], replace(pieces[1], stop=25)]
    with pytest.raises(CheckpointError, match="24 to 25 are beyond its size 24"):
        opened(tmp_path, longer).read(part, "exp_avg")
    with pytest.raises(CheckpointError, match=r"exp_avg_sq is missing: no piece"):
        reader.read(part, "exp_avg_sq")
    narrow = [pieces[0], replace(pieces[1], dtype="BF16")]
    with pytest.raises(CheckpointError, match=r"exp_avg was saved as BF16, F32; one of"):
        opened(tmp_path, narrow).read(part, "exp_avg")
    mixed = [pieces[0], replace(pieces[1], dim=0, first=0, last=4)]
    with pytest.raises(CheckpointError, match="cut along several dimensions"):
        opened(tmp_path, mixed).read(part, "exp_avg")


def test_a_model_with_a_moment_too_many_or_too_few_is_refused() -> None:
    config = routed(score="sigmoid", balance_bias=True)
    pieces = [
        Piece(
            disk_name(config.family, name),
            moment,
            "f",
            tuple(value.shape),
            None,
            0,
            0,
            0,
            value.numel(),
            "F32",
            "",
        )
        for (name, moment), value in saves.Whole.of(config).moments.items()
    ]
    check_moments(config, pieces)
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight.exp_avg is missing"):
        check_moments(config, pieces[1:])
    bias = replace(pieces[0], name="model.layers.0.mlp.gate.e_score_correction_bias")
    with pytest.raises(CheckpointError, match=r"correction_bias.exp_avg is no moment of this"):
        check_moments(config, [*pieces, bias])
    assert {piece.moment for piece in pieces} == set(MOMENTS)

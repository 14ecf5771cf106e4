"""A decoder split unevenly over a gang of threads: the same numbers as the whole model."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.share import Share, whole
from moe.config.tensors import TensorSlice, held_by
from moe.nn.balance import Balance
from moe.nn.build import build
from moe.nn.decoder import Decoder, DecoderOutput, Pass, SequenceCache
from moe.nn.dispatch import Capacity, Chooser
from moe.nn.loss import IGNORED
from tests import exports, tiny
from tests.fakes import ThreadExchange, ThreadGang
from tests.routed import routed

SHAPE: dict[str, Any] = {"tie_word_embeddings": False, "num_hidden_layers": 2}
BALANCED = Balance("switch", coefficients={0: 0.3, 1: 0.07}, z=0.01)


class Split(NamedTuple):
    """Width of each rank: key-value heads, feed-forward columns, experts by number.

    ``rows`` are those of the vocabulary, all on each rank where they are not given; ``placed`` the
    experts of layers where they differ.
    """

    kv_heads: tuple[int, ...]
    columns: tuple[int, ...]
    experts: tuple[tuple[int, ...], ...]
    rows: tuple[int, ...] = ()
    placed: tuple[tuple[int, tuple[tuple[int, ...], ...]], ...] = ()

    def shares(self, config: ModelConfig) -> list[Share]:
        return [
            replace(
                whole(config),
                kv_heads=span(self.kv_heads, rank),
                ffn=span(self.columns, rank),
                experts=self.experts[rank] if config.moe else (),
                leader=rank == 0,
                vocabulary=span(self.rows, rank) if self.rows else None,
                layer_experts=tuple((layer, experts[rank]) for layer, experts in self.placed),
            )
            for rank in range(len(self.kv_heads))
        ]


def span(widths: tuple[int, ...], rank: int) -> tuple[int, int]:
    return sum(widths[:rank]), sum(widths[: rank + 1])


SPLITS = [
    Split((2, 1), (27, 13), ((0, 1, 2), (3,))),
    Split((1, 2), (1, 39), ((3, 1), (2, 0))),
    Split((1, 1, 1), (20, 7, 13), ((0,), (3, 1), (2,))),
    Split((1, 2), (13, 27), ((0, 1, 2, 3), ())),
]


ROWS = [
    Split((2, 1), (27, 13), ((0, 1, 2), (3,)), (60, 37)),
    Split((1, 2), (1, 39), ((3, 1), (2, 0)), (1, 96), ((1, ((), (3, 0, 2, 1))),)),
    Split((1, 1, 1), (20, 7, 13), ((0,), (3, 1), (2,)), (50, 7, 40), ((0, ((2, 1), (), (0, 3))),)),
]
"""The vocabulary split too, and experts that lie elsewhere in one of the layers."""


class Outcome(NamedTuple):
    """What one rank computed."""

    output: DecoderOutput
    gradients: dict[str, Tensor]


def check(checkpoint: Checkpoint, config: ModelConfig, split: Split, run: Pass) -> None:
    inputs = tiny.tokens(config.vocab_size, 2, 9)
    expected = passed(build(config, checkpoint.read), inputs, run)

    def work(rank: int, exchange: ThreadExchange) -> Outcome:
        share = split.shares(config)[rank]
        return passed(build(config, checkpoint.read, share, exchange), inputs, run)

    outcomes = ThreadGang(len(split.kv_heads)).run(work)
    for share, outcome in zip(split.shares(config), outcomes, strict=True):
        assert close(outcome.output.values, expected.output.values)
        check_statistics(outcome.output, expected.output)
        held = list(held_by(config, share))
        assert sorted(outcome.gradients) == sorted(tensor.name for tensor in held)
        for tensor in held:
            gradient = part(expected.gradients[tensor.name], tensor)
            assert close(outcome.gradients[tensor.name], gradient), tensor.name


def passed(decoder: Decoder, inputs: Tensor, run: Pass) -> Outcome:
    """Weigh the logits at random; without logits take the loss, whose value stands for them."""
    output = decoder(inputs, run)
    generator = torch.Generator().manual_seed(3)
    if run.logits:
        weights = torch.randn(output.values.shape, generator=generator)
        (output.values * weights).sum().backward()
    else:
        labels = torch.randint(decoder.config.vocab_size, inputs.shape, generator=generator)
        labels[0, 2:4] = IGNORED
        loss = decoder.loss(output.values, labels, 0.3)
        loss.backward()
        output = output._replace(values=loss)
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in decoder.named_parameters()
    }
    return Outcome(output, gradients)


def check_statistics(found: DecoderOutput, expected: DecoderOutput) -> None:
    assert found.statistics.keys() == expected.statistics.keys()
    for layer, statistics in expected.statistics.items():
        assert torch.equal(found.statistics[layer].load, statistics.load)
        torch.testing.assert_close(found.statistics[layer], statistics)


def part(gradient: Tensor, tensor: TensorSlice) -> Tensor:
    if tensor.dim is None:
        return gradient
    return gradient.narrow(tensor.dim, tensor.start, tensor.stop - tensor.start)


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Compare by the scale of the tensor; a gradient that is nought but for rounding is nought."""
    bound = 1e-5 * theirs.detach().abs().max().clamp(min=1.0)
    return ours.shape == theirs.shape and bool((ours - theirs).abs().max() <= bound)


@pytest.mark.parametrize("split", SPLITS[:3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_dense_gang_equals_the_whole(split: Split, bias: bool, tmp_path: Path) -> None:
    model = tiny.llama(**SHAPE, attention_bias=bias, mlp_bias=bias)
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    check(checkpoint, checkpoint.config, split, Pass())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "capacity", [Capacity(), Capacity(0.75, "probability"), Capacity(0.5, "position")]
)
@pytest.mark.parametrize("gate_norm", [None, 1.0])
def test_a_moe_gang_equals_the_whole(
    split: Split, capacity: Capacity, gate_norm: float | None, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(**SHAPE), tmp_path))
    assert checkpoint.config.moe is not None
    moe = replace(checkpoint.config.moe, gate_norm=gate_norm)
    config = replace(checkpoint.config, moe=moe)
    run = Pass(capacity=capacity, balance=BALANCED)
    check(checkpoint, config, split, run)


def test_a_gang_without_renormalised_weights_and_with_padding(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(**SHAPE), tmp_path))
    assert checkpoint.config.moe is not None
    moe = replace(checkpoint.config.moe, renormalise=False)
    config = replace(checkpoint.config, moe=moe)
    valid = torch.arange(9)[None, :] < torch.tensor([[9], [4]])
    run = Pass(capacity=Capacity(0.75), balance=BALANCED, valid=valid)
    check(checkpoint, config, SPLITS[0], run)


OPTIONS: dict[str, dict[str, Any]] = {
    "shared": {"shared_size": 9},
    "shared and gated": {"shared_size": 13, "shared_gate": True, "renormalise": False},
    "dense layers": {"shared_size": 7, "dense_layers": (0,), "shared_gate": True},
    "sigmoid": {
        "score": "sigmoid",
        "balance_bias": True,
        "groups": 2,
        "top_groups": 1,
        "scale": 2.5,
        "shared_size": 40,
        "shared_gate": True,
    },
    "softmax after": {"softmax_after": True, "gate_norm": 1.0, "scale": 0.5},
    "hashed": {"hashed": True, "top_k": 1, "shared_size": 9, "shared_gate": True},
    "merged": {"segment_tokens": 4, "top_k": 1, "expert_size": 40, "dense_layers": (0,)},
}


@pytest.mark.parametrize("split", [SPLITS[0], SPLITS[2], SPLITS[3]])
@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("chooser", ["tokens", "experts"])
def test_every_kind_of_experts_equals_the_whole(
    split: Split, name: str, chooser: Chooser, tmp_path: Path
) -> None:
    """The gate of a shared expert gets its gradient from every rank's columns."""
    config = routed(layers=2, **OPTIONS[name])
    checkpoint = Checkpoint.open(exports.export(config, tmp_path))
    assert checkpoint.config == config
    check(checkpoint, config, split, Pass(Capacity(0.75, chooser=chooser), BALANCED))


@pytest.mark.parametrize("split", ROWS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("recompute", [(), (0, 1)])
def test_rows_of_the_vocabulary_and_experts_by_layer_equal_the_whole(
    split: Split, tied: bool, logits: bool, recompute: tuple[int, ...], tmp_path: Path
) -> None:
    model = tiny.mixtral(num_hidden_layers=2, tie_word_embeddings=tied)
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    run = Pass(balance=BALANCED, logits=logits, recompute=frozenset(recompute))
    check(checkpoint, checkpoint.config, split, run)


@pytest.mark.parametrize("split", [SPLITS[2], SPLITS[3]])
@pytest.mark.parametrize("name", ["dense layers", "sigmoid", "hashed", "merged"])
def test_a_gang_that_recomputes_gets_the_same_bits(split: Split, name: str, tmp_path: Path) -> None:
    """Ranks whose experts see no token make the same exchanges as the others."""
    config = routed(layers=2, **OPTIONS[name])
    checkpoint = Checkpoint.open(exports.export(config, tmp_path))
    inputs = tiny.tokens(config.vocab_size, 1, 3)

    def work(rank: int, exchange: ThreadExchange) -> list[Outcome]:
        share = split.shares(config)[rank]
        return [
            passed(build(config, checkpoint.read, share, exchange), inputs, run)
            for run in (
                Pass(Capacity(0.75), BALANCED, recompute=frozenset(again))
                for again in ((), (1,), (0, 1))
            )
        ]

    for kept, *recomputed in ThreadGang(len(split.kv_heads)).run(work):
        for outcome in recomputed:
            assert torch.equal(outcome.output.values, kept.output.values)
            check_statistics(outcome.output, kept.output)
            for parameter, gradient in kept.gradients.items():
                assert torch.equal(outcome.gradients[parameter], gradient), parameter


@pytest.mark.parametrize("split", ROWS)
def test_the_last_logits_and_those_of_a_sequence_in_parts_equal_the_whole(
    split: Split, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.mixtral(num_hidden_layers=2), tmp_path))
    config, inputs = checkpoint.config, tiny.tokens(97, 1, 9)
    expected = build(config, checkpoint.read)(inputs).values

    def work(rank: int, exchange: ThreadExchange) -> Tensor:
        share = split.shares(config)[rank]
        decoder, cache = build(config, checkpoint.read, share, exchange), SequenceCache(share)
        with torch.inference_mode():
            parts = [
                decoder(part, Pass(cache=cache, measured=False, last_only=True)).values
                for part in inputs.split([4, 1, 4], dim=1)
            ]
        return torch.cat(parts, dim=1)

    for logits in ThreadGang(len(split.kv_heads)).run(work):
        assert close(logits, expected[:, [3, 4, 8]])


def test_a_token_of_no_vocabulary_is_refused_by_every_rank(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.llama(num_hidden_layers=1), tmp_path))
    config = checkpoint.config
    for token in (97, -1):
        for share in ROWS[0].shares(config):
            decoder = build(config, checkpoint.read, share)
            with pytest.raises(IndexError):
                decoder(torch.tensor([[5, token]]))


def test_a_gate_s_gradient_is_that_of_the_whole_shared_expert(tmp_path: Path) -> None:
    """So it is not merely alike on all ranks."""
    config = routed(layers=2, **OPTIONS["shared and gated"])
    checkpoint = Checkpoint.open(exports.export(config, tmp_path))
    decoder = build(config, checkpoint.read)
    outcome = passed(decoder, tiny.tokens(97, 2, 9), Pass())
    assert outcome.gradients["model.layers.0.mlp.shared_gate.weight"].abs().max() > 1e-3


def test_stages_of_gangs_in_a_row_equal_the_whole(tmp_path: Path) -> None:
    model = tiny.mixtral(num_hidden_layers=3)
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    config, inputs = checkpoint.config, tiny.tokens(97, 2, 9)
    expected = build(config, checkpoint.read)(inputs).values
    x = inputs
    for split, (start, stop) in zip(SPLITS[:2], ((0, 1), (1, 3)), strict=True):
        ends = {"layers": (start, stop), "embedding": start == 0, "head": stop == 3}
        shares = [replace(share, **ends) for share in split.shares(config)]

        def work(
            rank: int, exchange: ThreadExchange, x: Tensor = x, shares: Any = shares
        ) -> Tensor:
            with torch.no_grad():
                return build(config, checkpoint.read, shares[rank], exchange)(x).values

        outputs = ThreadGang(2).run(work)
        assert torch.equal(outputs[0], outputs[1])
        x = outputs[0]
    assert close(x, expected)


@pytest.mark.parametrize("capacity", [Capacity(), Capacity(0.5), Capacity(chooser="experts")])
def test_members_that_round_differently_take_the_leaders_choice(
    capacity: Capacity, tmp_path: Path
) -> None:
    """The gate of every member but the leader is a little off, as another device would make it."""
    checkpoint = Checkpoint.open(
        tiny.saved(tiny.mixtral(**SHAPE | {"num_hidden_layers": 1}), tmp_path)
    )
    config, split = checkpoint.config, SPLITS[2]
    inputs, run = tiny.tokens(config.vocab_size, 8, 40), Pass(capacity)
    expected = build(config, checkpoint.read)(inputs, run)

    def off(decoder: Decoder) -> Decoder:
        for name, weight in decoder.named_parameters():
            if ".router." in name:
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5))
                weight.data += 1e-3 * noise
        return decoder

    def work(rank: int, exchange: ThreadExchange) -> DecoderOutput:
        share = split.shares(config)[rank]
        decoder = build(config, checkpoint.read, share, exchange)
        return (off(decoder) if rank else decoder)(inputs, run)

    alone = off(build(config, checkpoint.read))(inputs, run)
    if capacity.chooser == "tokens":
        found = [alone.statistics[layer].load for layer in expected.statistics]
        right = [statistics.load for statistics in expected.statistics.values()]
        assert any(not a.equal(b) for a, b in zip(found, right, strict=True))
    outputs = ThreadGang(len(split.kv_heads)).run(work)
    for output in outputs:
        assert output.values.equal(outputs[0].values)
        gap = (output.values - expected.values).abs().max()
        assert gap < 1e-2 * expected.values.abs().max()
        if capacity.chooser == "tokens":
            for layer, statistics in expected.statistics.items():
                assert output.statistics[layer].load.equal(statistics.load)

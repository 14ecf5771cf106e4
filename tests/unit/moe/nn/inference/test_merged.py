"""Answering with merged experts: in any parts and company, what one process gives."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.config.adapters import groups
from moe.config.answering import WeightKind
from moe.config.model import ModelConfig
from moe.config.share import whole
from moe.errors import ConfigError
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.inference.merged import MERGED_FROM
from moe.nn.inference.pieces import pieces, rows_of
from moe.nn.inference.rows import BLOCK, Segment
from moe.nn.inference.share import AnsweringShare
from moe.nn.inference.store import Store, place_bytes
from tests import exports, parity
from tests.examples import examples
from tests.routed import routed

BLOCKS = 24
SLOW = [HealthCheck.too_slow, HealthCheck.large_base_example]


def config_of(length: int, **changes: object) -> ModelConfig:
    moe = {"top_k": 1, "expert_size": 40, "segment_tokens": length, "dense_layers": (1,)}
    return routed(**(moe | changes))


def decoder_of(config: ModelConfig) -> Decoder:
    tensors = exports.random_tensors(config, seed=5)
    return build(config, lambda tensor: tensors[disk_name(config.family, tensor.name)])


def alone(decoder: Decoder, tokens: Sequence[int], prompt: int) -> Tensor:
    """Return the logits of every position of one sequence: its prompt at once, then each token."""
    cache = SequenceCache(decoder.share)
    parts = torch.tensor([tokens]).split([prompt, *(1 for _ in tokens[prompt:])], dim=1)
    with torch.inference_mode():
        found = [decoder(part, Pass(cache=cache, measured=False)).values[0] for part in parts]
    return torch.cat(found)


class Server:
    """A share that answers, and the memory of some sequences."""

    def __init__(self, decoder: Decoder, kind: WeightKind = "fp32") -> None:
        self.decoder = decoder
        self.share = AnsweringShare(decoder, kind, own=False)
        self.store = Store(decoder.config, decoder.share, BLOCKS)

    def run(self, segments: list[Segment], tokens: list[int]) -> Tensor:
        rows = rows_of(self.decoder.config, segments, tokens)
        with torch.inference_mode():
            x = self.share.embed(torch.tensor(tokens))
            x = self.share.forward(x, rows, self.store, (0, self.decoder.config.layers))
            return self.share.logits(x)


@settings(max_examples=examples(25), suppress_health_check=SLOW)
@given(data=st.data(), length=st.integers(1, 20))
def test_prompts_and_answers_in_any_parts(data: st.DataObject, length: int) -> None:
    decoder = decoder_of(config_of(length))
    server, free = Server(decoder), list(data.draw(st.permutations(range(BLOCKS))))
    texts, prompts, tables, found = [], [], [], []
    for _ in range(data.draw(st.integers(1, 3))):
        text = data.draw(st.lists(st.integers(0, 96), min_size=1, max_size=60))
        texts.append(text)
        prompts.append(data.draw(st.integers(1, len(text))))
        tables.append([free.pop() for _ in range(-(-len(text) // BLOCK))])
        found.append([])
    done = [0] * len(texts)
    while any(at < len(text) for at, text in zip(done, texts, strict=True)):
        segments, tokens, who = [], [], []
        for number, text in enumerate(texts):
            count = data.draw(st.integers(0, len(text) - done[number]))
            if count:
                start, at = len(tokens), done[number]
                tokens += text[at : at + count]
                segments.append(
                    Segment(start, len(tokens), at, tables[number], prompt=prompts[number])
                )
                who.append(number)
                done[number] += count
        if segments:
            logits = server.run(segments, tokens)
            for number, own in zip(who, segments, strict=True):
                found[number].append(logits[own.start : own.stop])
    for text, prompt, parts in zip(texts, prompts, found, strict=True):
        assert parity.close(torch.cat(parts), alone(decoder, text, prompt))


def test_pieces_are_routed_by_what_comes_before_them() -> None:
    table = (7, 3)
    found = pieces([Segment(2, 8, 6, table, prompt=10), Segment(8, 9, 0, (5,))], 4)
    spans = [(each.start, each.stop) for each in found]
    assert spans == [(2, 4), (4, 6), (6, 8), (8, 9)]
    first, second, after, new = (each.places for each in found)
    assert first is not None
    assert second is not None
    assert after is not None
    assert first.tolist() == [112, 113, 114, 115]
    assert second.tolist() == [116, 117, 118, 119]
    assert after.tolist() == list(range(112, 122))
    assert new is None


@pytest.mark.parametrize(("kind", "near"), [("fp16", 5e-3), ("int8", 0.1)])
def test_packed_weights_are_near_in_any_parts(kind: WeightKind, near: float) -> None:
    decoder = decoder_of(config_of(32))
    tokens = torch.randint(97, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    table = (4, 1, 5)
    server = Server(decoder, kind)
    parts = [
        server.run([Segment(0, count, at, table)], tokens[at : at + count])
        for at, count in ((0, MERGED_FROM - 1), (MERGED_FROM - 1, 1), (MERGED_FROM, 24))
    ]
    assert parity.close(torch.cat(parts), alone(decoder, tokens, 40), tolerance=near)


def test_a_place_has_room_for_its_gates() -> None:
    config = config_of(4)
    decoder = decoder_of(config)
    own = place_bytes(config, decoder.share, torch.float32)
    assert own == 3 * 2 * 3 * 8 * 4 + 2 * 4 * 4  # of the two layers that merge, 4 experts each
    assert Store(config, decoder.share, BLOCKS).bytes == BLOCKS * BLOCK * own


def test_adapters_add_to_attention_and_dense_layers_alone() -> None:
    config = config_of(4)
    found = [group[0].role for group in groups(config, whole(config))]
    assert {role.part for role in found if role.layer != 1} == {"query", "output"}
    assert {role.part for role in found if role.layer == 1} == {"query", "output", "gate", "down"}


def test_a_first_segment_that_looks_ahead_is_not_served() -> None:
    decoder = decoder_of(config_of(8, first_segment="own"))
    with pytest.raises(ConfigError, match=r"first 8 tokens .* with first_segment = .even"):
        AnsweringShare(decoder, "fp32", own=False)

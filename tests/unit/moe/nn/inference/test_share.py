"""A pass over many sequences gives what the decoder gives for each of them alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.config.answering import WeightKind
from moe.config.model import ModelConfig
from moe.nn.build import build
from moe.nn.decoder import Decoder
from moe.nn.inference.pieces import rows_of
from moe.nn.inference.rows import BLOCK, Rows, Segment
from moe.nn.inference.share import AnsweringShare
from moe.nn.inference.store import Store
from tests import architectures, exports, parity, tiny

BLOCKS = 40


def decoder_of(config: ModelConfig) -> Decoder:
    tensors = exports.random_tensors(config, seed=5)
    return build(config, lambda tensor: tensors[disk_name(config.family, tensor.name)])


def answers(
    decoder: Decoder,
    prompts: list[list[int]],
    cuts: st.DataObject | None = None,
    kind: WeightKind = "fp32",
    cache: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Return the logits of every position; the sequences grow side by side, in drawn pieces."""
    share = AnsweringShare(decoder, kind, own=False)
    store = Store(decoder.config, decoder.share, BLOCKS, cache)
    free = list(range(BLOCKS))
    if cuts is not None:
        free = cuts.draw(st.permutations(free))
    tables = [[free.pop() for _ in range(-(-len(each) // BLOCK))] for each in prompts]
    done = [0] * len(prompts)
    found: list[list[Tensor]] = [[] for _ in prompts]
    while any(at < len(each) for at, each in zip(done, prompts, strict=True)):
        segments, tokens, who = [], [], []
        for number, prompt in enumerate(prompts):
            left = len(prompt) - done[number]
            count = left if cuts is None else cuts.draw(st.integers(0, left))
            if count:
                start = len(tokens)
                tokens += prompt[done[number] : done[number] + count]
                at = Segment(start, len(tokens), done[number], tables[number])
                segments.append(at)
                who.append(number)
                done[number] += count
        if not segments:
            continue
        rows = rows_of(decoder.config, segments, tokens)
        with torch.inference_mode():
            x = share.embed(torch.tensor(tokens))
            x = share.forward(x, rows, store, (0, decoder.config.layers))
            logits = share.logits(x)
        for number, segment in zip(who, segments, strict=True):
            found[number].append(logits[segment.start : segment.stop])
    return [torch.cat(each) for each in found]


def alone(decoder: Decoder, prompt: list[int]) -> Tensor:
    with torch.inference_mode():
        return decoder(torch.tensor([prompt])).values[0]


def prompts_of(config: ModelConfig) -> st.SearchStrategy[list[list[int]]]:
    tokens = st.integers(0, config.vocab_size - 1)
    return st.lists(st.lists(tokens, min_size=1, max_size=50), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.large_base_example, HealthCheck.too_slow])
@given(architectures.raymoe(), st.data())
def test_any_sequences_in_any_pieces(config: ModelConfig, data: st.DataObject) -> None:
    assume(config.moe is None or config.moe.first_segment == "even")
    decoder = decoder_of(config)
    prompts = data.draw(prompts_of(config))
    for prompt, logits in zip(prompts, answers(decoder, prompts, data), strict=True):
        assert parity.close(logits, alone(decoder, prompt))


@pytest.mark.parametrize("family", tiny.OF_FAMILY)
def test_every_family(family: str, tmp_path: Path) -> None:
    windowed = family in ("mistral", "mixtral")
    model = tiny.model(family, **({"sliding_window": 7} if windowed else {}))
    checkpoint = Checkpoint.open(tiny.saved(model, tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    prompts = [tiny.tokens(90, 1, count)[0].tolist() for count in (1, 33, 16, 20)]
    for prompt, logits in zip(prompts, answers(decoder, prompts), strict=True):
        with torch.inference_mode():
            theirs = model(torch.tensor([prompt])).logits[0]
        assert parity.close(logits, theirs)


def test_a_sequence_reads_what_another_of_the_pass_writes(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.model("mixtral"), tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    first = tiny.tokens(90, 1, 40)[0].tolist()
    second = [*first[:32], 5, 6, 7]
    share, store = (
        AnsweringShare(decoder, "fp32", own=False),
        Store(decoder.config, decoder.share, 6),
    )
    rows = Rows.of(
        [Segment(0, 40, 0, (4, 1, 2)), Segment(40, 43, 32, (4, 1, 5))], [*first, *second[32:]]
    )
    with torch.inference_mode():
        x = share.embed(torch.tensor([*first, *second[32:]]))
        logits = share.logits(share.forward(x, rows, store, (0, decoder.config.layers)))
    assert parity.close(logits[40:], alone(decoder, second)[32:])


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize(("kind", "near"), [("fp16", 5e-3), ("int8", 0.08)])
@pytest.mark.parametrize("cache", [torch.float32, torch.bfloat16])
def test_packed_weights_are_near(
    family: str, kind: WeightKind, near: float, cache: torch.dtype, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.model(family), tmp_path))
    decoder = build(checkpoint.config, checkpoint.read)
    prompts = [tiny.tokens(90, 1, count)[0].tolist() for count in (9, 33)]
    near = near if cache == torch.float32 else near + 0.03
    for prompt, logits in zip(prompts, answers(decoder, prompts, None, kind, cache), strict=True):
        assert parity.close(logits, alone(decoder, prompt), tolerance=near)


def test_who_owns_the_decoder_gives_back_what_is_packed(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny.saved(tiny.model("mixtral"), tmp_path))
    whole = sum(each.numel() * 4 for each in build(checkpoint.config, checkpoint.read).parameters())
    for kind, least, most in (("fp32", 1.0, 1.0), ("fp16", 0.5, 0.9), ("int8", 0.3, 0.8)):
        decoder = build(checkpoint.config, checkpoint.read)
        share = AnsweringShare(decoder, kind, own=True)  # type: ignore[arg-type]
        assert least * whole <= share.bytes <= most * whole

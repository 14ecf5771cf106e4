"""Generation with OLMoE-1B-7B in bf16: prompts read at once, then token after token.

A step of decoding must read the weights that its tokens use, and the keys and values so far; the
limit is these bytes at the speed of a copy. ``one stream, as served`` goes through the generator of
a rank, with its sampling; the others feed back the likeliest token and leave sampling out.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from actors.commands import Answering, Batch, Drawing, Feed
from actors.decode.rank_decoder import RankDecoder
from benchmarks.gpu.kernels import kernels
from benchmarks.gpu.layers import olmoe, random_weights
from benchmarks.gpu.rows import Figure, Row, Setting
from benchmarks.gpu.timing import forget_peak, peak_gigabytes, seconds
from moe.config.model import ModelConfig
from moe.config.sampling import Sampling
from moe.config.tensors import active_parameters, parameters
from moe.nn.build import build
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.exchange import Alone
from moe.nn.inference.rows import BLOCK

STREAMS = (1, 8, 32)
_TYPE = torch.bfloat16


def part(setting: Setting) -> Iterator[Row]:
    """Yield prefill and decoding for each number of streams, then one stream as it is served."""
    config = olmoe(setting)
    prompt, new = (16, 2) if setting.tiny else (512, 64)
    decoder = build(config, random_weights(setting, _TYPE), None, None, setting.torch_device, _TYPE)
    for streams in STREAMS[:1] if setting.tiny else STREAMS:
        forget_peak(setting)
        yield from _streams(setting, decoder, (streams, prompt), new)
    yield _served(setting, decoder, prompt, new)


@torch.inference_mode()
def _streams(setting: Setting, decoder: Decoder, size: tuple[int, int], new: int) -> Iterator[Row]:
    config, (streams, prompt) = decoder.config, size
    tokens = torch.randint(config.vocab_size, size, device=setting.torch_device)
    _read(decoder, tokens)
    ran = kernels(setting, lambda: _read(decoder, tokens))
    attention = sorted({kernel.name for kernel in ran if kernel.kind == "attention"})
    taken = seconds(setting, lambda: _read(decoder, tokens))
    flops = prefill_flops(config, prompt) * tokens.numel() / taken
    prefill: dict[str, Figure] = {
        "ms": taken * 1e3,
        "TFLOP/s": flops / 1e12,
        "of the ceiling": setting.share_of_flops(flops),
        "attention": ", ".join(name[:60] for name in attention),
    }
    yield Row(f"prefill, {streams} x {prompt}", prefill)
    cache, last = _read(decoder, tokens)
    last = _decode(decoder, cache, last, 2)
    taken = seconds(setting, lambda: _decode(decoder, cache, last, new)) / new
    moved = step_bytes(config, streams, prompt) / taken
    yield Row(
        f"decoding, {streams} streams",
        {
            "tokens/s": streams / taken,
            "ms a token": taken * 1e3,
            "of the limit of memory": setting.share_of_bytes(moved),
            "peak GB": peak_gigabytes(setting),
        },
    )


def _served(setting: Setting, decoder: Decoder, prompt: int, new: int) -> Row:
    generator = RankDecoder(decoder, [0], 0, Alone(), own=False)
    blocks = -(-(prompt + new) // BLOCK)
    generator.prepare(Answering(blocks, cache="bf16"))
    sampling = Sampling(temperature=1.0, seed=1)
    tokens = tuple(range(min(prompt, decoder.config.vocab_size)))
    table = tuple(range(blocks))
    begun = {1: Drawing(sampling, tokens)}
    generator.infer(Batch(1, (Feed(1, tokens, 0, table, draws=True),), begun))

    def generate() -> None:
        for position in range(len(tokens), len(tokens) + new):
            generator.infer(Batch(position, (Feed(1, None, position, table, draws=True),)))

    taken = seconds(setting, generate) / new
    return Row("one stream, as served", {"tokens/s": 1 / taken, "ms a token": taken * 1e3})


def _read(decoder: Decoder, tokens_BS: Tensor) -> tuple[SequenceCache, Tensor]:
    """Read prompts; return their cache, and the token that follows each."""
    cache = SequenceCache(decoder.share)
    return cache, _decode(decoder, cache, tokens_BS, 1)


def _decode(decoder: Decoder, cache: SequenceCache, tokens_BS: Tensor, steps: int) -> Tensor:
    """Feed tokens, then what follows them, for so many steps; the host waits for nothing."""
    how = Pass(cache=cache, measured=False, last_only=True)
    for _ in range(steps):
        tokens_BS = decoder(tokens_BS, how).values[:, -1].argmax(dim=-1, keepdim=True)
    return tokens_BS


def prefill_flops(config: ModelConfig, length: int) -> float:
    """Return the FLOPs of one token of a prompt; the head sees the last token alone."""
    ends = (1 if config.tie_embeddings else 2) * config.vocab_size * config.hidden_size
    attention = 2 * config.layers * config.heads * config.head_size * length
    return 2.0 * (active_parameters(config) - ends) + attention


def step_bytes(config: ModelConfig, streams: int, held: int) -> float:
    """Return the bytes that a step of decoding reads: weights in use, keys and values.

    So many streams use ``1 - (1 - K/N) ** streams`` of N experts, if each takes K of them evenly.
    """
    moe = config.moe
    used = 0 if config.tie_embeddings else -config.vocab_size * config.hidden_size
    used += parameters(config)
    if moe is not None:
        idle = (1 - moe.top_k / moe.experts) ** streams
        expert = 3 * config.hidden_size * moe.expert_size
        used -= round(len(config.moe_layers) * moe.experts * idle * expert)
    cached = 2 * config.layers * config.kv_heads * config.head_size * held * streams
    return float(_TYPE.itemsize * (used + cached))

"""One rank's part of generation: it runs new tokens through its share and keeps their cache."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from actors.commands import InferInput
from actors.epochs.groups import Groups
from actors.epochs.lines import DOWN, Line, Route
from moe.config.sampling import SampledToken
from moe.config.token_numbers import check_token_numbers
from moe.errors import RequestError
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.sampling import Draw, sample


class RankDecoder:
    """Runs forward passes over one share and sends hidden states to the stage of the next chunk.

    ``home`` is the stage of every chunk, ``stage`` the stage of this share.
    """

    def __init__(self, decoder: Decoder, home: Sequence[int], stage: int) -> None:
        self._decoder = decoder
        self._home = tuple(home)
        self._chunks = tuple(chunk for chunk, held in enumerate(self._home) if held == stage)
        self._caches: dict[str, SequenceCache] = {}
        self._groups: Groups | None = None

    def join(self, groups: Groups) -> None:
        """Take part in an epoch; sequences begun under an older one are forgotten."""
        self._groups = groups
        self._caches.clear()

    def leave(self) -> None:
        """Let go of the groups of an epoch."""
        self._groups = None

    @torch.inference_mode()
    def infer(self, work: InferInput) -> SampledToken | None:
        """Append tokens to a sequence; return the next token where the head's leader is.

        RequestError where a token is not in the vocabulary. What was chosen is believed only if
        the epoch still stands.
        """
        check_token_numbers(work.tokens, self._decoder.config.vocab_size, RequestError)
        cache = self._cache(work)
        x = tokens = torch.tensor([work.tokens], device=next(self._decoder.parameters()).device)
        run = Pass(cache=cache, tokens=tokens, measured=False, last_only=True)
        for chunk, layers in zip(self._chunks, self._decoder.share.spans, strict=True):
            if chunk > 0:
                x = self._from(chunk - 1, x, len(work.tokens))
            x = self._decoder(x, replace(run, layers=layers)).values
            if chunk + 1 < len(self._home):
                self._to(chunk + 1, x)
        share, token = self._decoder.share, None
        if share.head and share.leader:
            draw = Draw(work.sampling, cache.length, work.prompt, work.generated, work.allowed)
            (token,) = sample(x[0, -1:], [draw])
        if self._groups is not None:
            self._groups.check()
        return token

    def release(self, sequence: str) -> None:
        """Forget a sequence."""
        self._caches.pop(sequence, None)

    def _cache(self, work: InferInput) -> SequenceCache:
        if work.position == 0:
            self._caches[work.sequence] = SequenceCache(self._decoder.share)
        cache = self._caches.get(work.sequence)
        held = cache.length if cache is not None else 0
        if cache is None or held != work.position:
            raise RequestError(
                f"sequence {work.sequence} holds {held} positions but the command continues at "
                f"{work.position}; start it again"
            )
        return cache

    def _from(self, chunk: int, x: Tensor, length: int) -> Tensor:
        """Return what a chunk gave, float32 in any precision: x, where it is on this stage."""
        line = self._line(chunk, chunk + 1)
        if line is None:
            return x
        weight = next(self._decoder.parameters())
        size = (1, length, self._decoder.config.hidden_size)
        x = torch.empty(size, device=weight.device, dtype=torch.float32)
        line.receive(x).wait()
        return x

    def _to(self, chunk: int, x: Tensor) -> None:
        """Give x to a chunk; nothing moves where it is on this stage."""
        line = self._line(chunk - 1, chunk)
        if line is not None:
            line.send(x.contiguous()).wait()

    def _line(self, source: int, target: int) -> Line | None:
        """Return the line between the stages of two chunks; None where both are on this stage."""
        assert self._groups is not None
        return self._groups.lines.get(Route(DOWN, self._home[source], self._home[target]))

"""One rank's part of generation: new tokens through its share, beside the cache it keeps."""

import torch
import torch.distributed as dist
from torch import Tensor

from actors.commands import InferInput
from actors.membership import Groups
from moe.config.sampling import SampledToken
from moe.errors import RequestError
from moe.nn.decoder import Decoder, Pass, SequenceCache
from moe.nn.sampling import sample


class StageGenerator:
    """Runs passes over one share; hidden states come from the stage before and go to the next."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._caches: dict[str, SequenceCache] = {}
        self._groups: Groups | None = None

    def join(self, groups: Groups) -> None:
        """Take part in an epoch; sequences begun under an older one are forgotten."""
        self._groups = groups
        self._caches.clear()

    @torch.inference_mode()
    def infer(self, work: InferInput) -> SampledToken | None:
        """Append tokens to a sequence; return the next token on the last stage's leader."""
        cache = self._cache(work)
        share = self._decoder.share
        x = self._receive(len(work.tokens))
        tokens = torch.tensor([work.tokens], device=x.device)
        if share.embedding:
            x = tokens
        run = Pass(cache=cache, tokens=tokens, measured=False, last_only=True)
        output = self._decoder(x, run).values
        if not share.head:
            self._send(output)
            return None
        if not share.leader:
            return None
        return sample(output[0, -1], work.sampling, cache.length)

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

    def _receive(self, length: int) -> Tensor:
        assert self._groups is not None
        place = self._groups.membership
        weight = next(self._decoder.parameters())
        size = (1, length, self._decoder.config.hidden_size)
        x = torch.empty(size, device=weight.device, dtype=weight.dtype)
        if not self._decoder.share.embedding:
            source = self._groups.stage_rank(place.stage - 1)
            dist.recv(x, source, group=self._groups.pipe)
        return x

    def _send(self, x: Tensor) -> None:
        assert self._groups is not None
        target = self._groups.stage_rank(self._groups.membership.stage + 1)
        dist.send(x.contiguous(), target, group=self._groups.pipe)

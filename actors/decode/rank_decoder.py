"""One rank's part of answering: it runs batches through its share and keeps keys and values."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from actors.commands import (
    AdapterSource,
    Answerable,
    Answering,
    Batch,
    BatchOutput,
    Feed,
    RouterReport,
)
from actors.decode.drawings import Drawings
from actors.decode.feeds import segments, wanted_rows
from actors.epochs.groups import Groups
from actors.epochs.lines import DOWN, Line, Route
from moe.checkpoint.adapters.files import AdapterFiles
from moe.config.share import Share
from moe.config.token_numbers import check_token_numbers
from moe.errors import CheckpointError, RankLost, RequestError
from moe.nn.build import ReadTensor
from moe.nn.decoder import Decoder
from moe.nn.exchange import Exchange
from moe.nn.inference.arrivals import Arrivals
from moe.nn.inference.pieces import rows_of
from moe.nn.inference.rows import BLOCK, Rows
from moe.nn.inference.share import AnsweringShare
from moe.nn.inference.store import Store, place_bytes
from moe.nn.router import Routing
from moe.nn.statistics import sharpness

_CACHE = {"fp32": torch.float32, "bf16": torch.bfloat16}


class RankDecoder:
    """Runs passes over one share and sends hidden states to the stage of the next chunk.

    ``home`` is the stage of every chunk, ``stage`` the stage of this share. ``own``: nobody else
    uses the decoder.
    """

    def __init__(
        self, decoder: Decoder, home: Sequence[int], stage: int, gang: Exchange, own: bool
    ) -> None:
        self._decoder = decoder
        self._home = tuple(home)
        self._chunks = tuple(chunk for chunk, held in enumerate(self._home) if held == stage)
        self._gang = gang
        self._own = own
        self._groups: Groups | None = None
        self._how: Answering | None = None
        self._share: AnsweringShare | None = None
        self._store: Store | None = None
        self._drawings = Drawings()
        self._sources: dict[int, AdapterSource] = {}
        self._dropped: set[int] = set()
        self._arrivals: Arrivals | None = None

    def join(self, groups: Groups) -> None:
        """Take part in an epoch; sequences begun under an older one are forgotten."""
        self._groups = groups
        self._drawings = Drawings()
        self._arrivals = None

    def leave(self) -> None:
        """Let go of the groups of an epoch."""
        self._groups = None

    def prepare(self, how: Answering) -> Answerable:
        """Pack the weights and take the memory of keys and values, unless that is done."""
        if self._share is None or self._store is None or how != self._how:
            if self._share is None or self._share.kind != how.weights:
                self._share = AnsweringShare(self._decoder, how.weights, self._own)
            self._store = None
            config, share = self._decoder.config, self._decoder.share
            self._store = Store(config, share, how.blocks, _CACHE[how.cache], self._device)
            self._how = how
        return Answerable(self._share.bytes, self._store.bytes)

    def adopt(self, source: AdapterSource) -> None:
        """Take up an adapter, unless it is here; batches that do not use it may run meanwhile.

        CheckpointError where its files are not those that were checked.
        """
        share = self._ready()
        if source.number in share.adapters:
            return
        share.adopt(source.number, self._files(source).read)
        self._sources[source.number] = source
        if source.number in self._dropped:
            self.drop(source.number)

    def drop(self, adapter: int) -> None:
        """Forget an adapter, also one that is being taken up; its number does not come again."""
        self._dropped.add(adapter)
        self._sources.pop(adapter, None)
        self._ready().drop(adapter)

    def block_bytes(self, how: Answering) -> int:
        """Return the bytes of a block of keys and values."""
        return BLOCK * place_bytes(self._decoder.config, self._decoder.share, _CACHE[how.cache])

    def ready(self, how: Answering) -> bool:
        """Tell whether it is prepared for answering so."""
        return self._store is not None and how == self._how

    def release(self) -> None:
        """Answer no more, and give back the memory that ``prepare`` took."""
        self._how = self._share = self._store = None
        self._drawings = Drawings()

    def expert_loads(self) -> Mapping[int, tuple[int, ...]]:
        """Return the rows of each expert by layer since the last time."""
        return self._ready().take_loads()

    def fetch_experts(self, share: Share, read: ReadTensor) -> None:
        """Make the experts that another share has, beside those in use; batches may run meanwhile.

        CheckpointError where an adapter cannot be read for them.
        """
        if not self._own:
            raise RankLost("experts move while a rank answers only where it does not train")
        reads = {number: self._files(source).read for number, source in self._sources.items()}
        self._arrivals = self._ready().arrivals(share, read, reads)

    def place_experts(self) -> None:
        """Answer with the experts that were made, from the next batch on."""
        if self._arrivals is None:
            raise RankLost("a rank was told to take experts that it has not made")
        self._ready().place(self._arrivals)
        self._arrivals = None

    @torch.inference_mode()
    def infer(self, batch: Batch) -> BatchOutput | None:
        """Run a batch; return what was drawn, where the leader of the head's gang is.

        The leaders of other gangs return what their routers did, where the batch is watched.
        RequestError where a token is not in the vocabulary. What was drawn is believed only if the
        epoch still stands. Where nothing can be drawn from the logits, the output says why: this
        rank has done its part for all others.
        """
        self._drawings.follow(batch)
        if not batch.feeds:
            return self._answer(BatchOutput(batch.number, {}))
        tokens = [token for feed in batch.feeds for token in self._tokens(feed)]
        check_token_numbers(tokens, self._decoder.config.vocab_size, RequestError)
        rows = rows_of(self._decoder.config, segments(batch.feeds), tokens, self._device)
        routers: dict[int, RouterReport] = {}
        if batch.watched:
            rows = replace(rows, watch=lambda layer, found: routers.update({layer: _seen(found)}))
        x_TD = self._pass(rows)
        output = BatchOutput(batch.number, {})
        if x_TD is not None:
            try:
                output = self._drawn(batch, x_TD)
            except (RequestError, CheckpointError) as error:
                output = BatchOutput(batch.number, {}, error=error)
        return self._answer(replace(output, routers=routers))

    def _answer(self, output: BatchOutput) -> BatchOutput | None:
        if self._groups is not None:
            self._groups.check()
        share = self._decoder.share
        return output if share.leader and (share.head or output.routers) else None

    def _pass(self, rows: Rows) -> Tensor | None:
        """Return the hidden states before the head; None where another stage has the head."""
        share, store = self._ready(), self._store
        assert store is not None
        x: Tensor | None = None
        for chunk, layers in zip(self._chunks, self._decoder.share.spans, strict=True):
            if chunk == 0:
                assert rows.tokens is not None
                x = share.embed(rows.tokens)
            else:
                x = self._from(chunk - 1, x, len(rows.positions))
            x = share.forward(x, rows, store, layers)
            if chunk + 1 < len(self._home):
                self._to(chunk + 1, x)
        return x if self._decoder.share.head else None

    def _drawn(self, batch: Batch, x_TD: Tensor) -> BatchOutput:
        """Compute logits of the rows that are asked for, score prompts and draw tokens.

        Every member of the gang has the same logits and draws alike, for the next batch of each.
        """
        assert self._share is not None
        scored_rows, drawing_rows = wanted_rows(batch.feeds)
        wanted = torch.tensor([*scored_rows, *drawing_rows], device=x_TD.device)
        if not len(wanted):
            return BatchOutput(batch.number, {})
        logits = self._share.logits(x_TD.index_select(0, wanted))
        scored = self._drawings.scored(batch.feeds, logits[: len(scored_rows)])
        feeds = [feed for feed in batch.feeds if feed.draws]
        drawn = self._drawings.draw(feeds, logits[len(scored_rows) :], self._gang)
        return BatchOutput(batch.number, drawn, scored)

    def _files(self, source: AdapterSource) -> AdapterFiles:
        """Open an adapter; CheckpointError where it is not the one that was checked."""
        files = AdapterFiles(source.directory, self._decoder.config)
        if files.digest() != source.digest:
            raise CheckpointError(
                f"the adapter in {source.directory} has changed since it was loaded; load it again "
                "under another name, or drop it first"
            )
        return files

    def _ready(self) -> AnsweringShare:
        if self._share is None or self._store is None:
            raise RankLost("a rank was asked for an answer before it was prepared for answering")
        return self._share

    def _tokens(self, feed: Feed) -> tuple[int, ...]:
        return self._drawings.last(feed.sequence) if feed.tokens is None else feed.tokens

    @property
    def _device(self) -> torch.device:
        return next(self._decoder.parameters()).device

    def _from(self, chunk: int, x: Tensor | None, length: int) -> Tensor:
        """Return what a chunk gave, float32 in any precision: x, where it is on this stage."""
        line = self._line(chunk, chunk + 1)
        if line is None:
            assert x is not None
            return x
        size = (length, self._decoder.config.hidden_size)
        received = torch.empty(size, device=self._device, dtype=torch.float32)
        line.receive(received).wait()
        return received

    def _to(self, chunk: int, x: Tensor) -> None:
        """Give x to a chunk; nothing moves where it is on this stage."""
        line = self._line(chunk - 1, chunk)
        if line is not None:
            line.send(x.contiguous()).wait()

    def _line(self, source: int, target: int) -> Line | None:
        """Return the line between the stages of two chunks; None where both are on this stage."""
        assert self._groups is not None
        return self._groups.lines.get(Route(DOWN, self._home[source], self._home[target]))


def _seen(routing: Routing) -> RouterReport:
    """Return what is to be known of the routing of a layer."""
    load_N = torch.bincount(routing.experts.flatten(), minlength=routing.scores.shape[1])
    return RouterReport(tuple(load_N.tolist()), sharpness(routing.scores).item())

"""What one stage does with the micro-batches of one step, for its pipeline to call."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from actors.commands import StepInput
from actors.device import uploaded
from actors.faults.points import POINTS
from actors.step.pipeline import Turn
from actors.step.reduction import Reduction
from moe.config.token_numbers import check_token_numbers
from moe.errors import DataError
from moe.nn.decoder import Decoder, Pass
from moe.nn.documents import Documents
from moe.nn.loss import IGNORED
from moe.nn.statistics import RoutingStatistics


class StageLayers(NamedTuple):
    """The layers of each chunk that a stage holds, by its number along the model."""

    runs: dict[int, tuple[int, int]]
    last: int
    """The chunk with the head, on whichever stage it is."""


class StageStep:
    """One step of one stage: its inputs, and what its passes leave to be told of.

    ``stay`` is asked at every layer whether the step goes on, and raises where it does not: a rank
    whose neighbour has died is free after a layer, not after a micro-batch.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: StageLayers,
        settings: Pass,
        reduction: Reduction,
        stay: Callable[[], None],
    ) -> None:
        self.statistics: dict[int, list[RoutingStatistics]] = defaultdict(list)
        self.loss = torch.zeros((), dtype=torch.float64, device=_device(decoder))
        self._decoder = decoder
        self._layers = layers
        self._settings = settings
        self._reduction = reduction
        self._stay = stay
        self._tokens: tuple[Tensor, ...] = ()
        self._labels: tuple[Tensor, ...] = ()
        self._documents: tuple[Documents, ...] = ()
        self._scale = 1.0
        self._step = 0

    def take(self, batch: StepInput, micro_batch: int) -> None:
        """Take the inputs of a step, cut into micro-batches of so many sequences.

        A step in which no label counts has the loss 0, and no gradient comes of it. DataError where
        a number is not in the vocabulary.
        """
        device, vocabulary = self.loss.device, self._decoder.config.vocab_size
        if batch.tokens is not None:
            check_token_numbers(batch.tokens, vocabulary, DataError)
            tokens = uploaded(torch.from_numpy(batch.tokens), device)
            self._tokens = torch.split(tokens, micro_batch)
        if batch.labels is not None:
            check_token_numbers(batch.labels, vocabulary, DataError, IGNORED)
            labels = uploaded(torch.from_numpy(batch.labels), device)
            self._labels = torch.split(labels, micro_batch)
        if batch.documents is not None:
            numbers, moved = torch.from_numpy(batch.documents), partial(uploaded, device=device)
            self._documents = Documents.of_each(numbers, micro_batch, moved)
        self._scale = 1.0 / max(batch.label_count, 1)
        self._step = batch.step

    def forward(self, turn: Turn, x: Tensor | None) -> Tensor:
        """Run one micro-batch through one chunk; the last gives its part of the loss."""
        tokens = self._tokens[turn.micro_batch] if self._tokens else None
        documents = self._documents[turn.micro_batch] if self._documents else None
        whole = turn.final and turn.later is None
        run = replace(
            self._settings,
            tokens=tokens,
            documents=documents,
            valid=None if documents is None else documents.valid,
            layers=self._layers.runs[turn.chunk],
            later=turn.later,
            reached=self._whole if whole else self._at,
            entered=self._at,
        )
        start = tokens if x is None else x
        assert start is not None
        output = self._decoder(start, run)
        POINTS.reach("forward", self._step)
        for layer, statistics in output.statistics.items():
            self.statistics[layer].append(statistics)
        if turn.chunk < self._layers.last:
            values: Tensor = output.values
            return values
        labels = self._labels[turn.micro_batch]
        loss = self._decoder.loss(output.values, labels, self._scale)
        self.loss += loss.detach()
        return loss

    def backward(self, output: Tensor, gradient: Tensor | None) -> None:
        """Run one micro-batch back through one chunk, from what ``forward`` returned."""
        torch.autograd.backward(output, gradient)
        POINTS.reach("backward", self._step)

    def whole(self, chunk: int) -> None:
        """Send the gradients of a chunk on their way."""
        for layer in reversed(range(*self._layers.runs[chunk])):
            self._reduction.reached(layer)

    def _at(self, layer: int) -> None:
        """Come to a layer, forward, or through it, back."""
        self._stay()

    def _whole(self, layer: int) -> None:
        """Come through a layer back for the last time: its gradients are whole."""
        self._stay()
        self._reduction.reached(layer)


def _device(decoder: Decoder) -> torch.device:
    return next(decoder.parameters()).device

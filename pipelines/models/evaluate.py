"""Held-out loss of a model and the health of its routers, in one process or on actors."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.commands import Answering
from moe.checkpoint.reader import Checkpoint
from moe.errors import ConfigError, DataError
from moe.nn.ablation import Ablation, ablated
from moe.nn.build import build
from pipelines.corpus.inputs import open_shards
from pipelines.corpus.manifest import Split
from pipelines.corpus.shards import TokenShards
from pipelines.models.scoring.decoder import DecoderMeter
from pipelines.models.scoring.engines import Where, opened
from pipelines.models.scoring.pieces import Meter, Piece
from pipelines.models.scoring.ranks import RankMeter, blocks_of
from pipelines.models.scoring.routers import RouterHealth, Routers
from pipelines.models.scoring.sizes import byte_sizes
from pipelines.models.scoring.totals import TextLoss, Totals
from pipelines.models.scoring.windows import Window, spans, windows
from pipelines.models.text import spread

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``rows`` sequences, spread evenly over the split; None takes all of them.

    With a ``window``, the first rows are read as one text in windows that overlap. ``batch``
    sequences or windows are computed at a time. Drop rates are those at the virtual capacity.
    """

    split: Split = "held_out"
    rows: int | None = None
    batch: int = 2
    window: Window | None = None
    virtual_capacity_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.batch < 1 or (self.rows is not None and self.rows < 1):
            raise ConfigError(
                f"asked for {self.rows} sequences in batches of {self.batch}; give at least 1"
            )


@dataclass(frozen=True, slots=True)
class Evaluation(TextLoss):
    """The loss over everything and by ``domains``, and the health of each router.

    ``recipe_loss`` is the loss as transformers' script weighs windows; None without windows.
    """

    seconds: float = 0.0
    layers: dict[int, RouterHealth] = field(default_factory=dict)
    domains: Mapping[str, TextLoss] = field(default_factory=dict)
    recipe_loss: float | None = None

    @property
    def drop_rate(self) -> float:
        """Mean drop rate over layers; 0 without experts."""
        rates = [layer.drop_rate for layer in self.layers.values()]
        return sum(rates) / len(rates) if rates else 0.0

    @property
    def table(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        return {
            **self.figures,
            "recipe_loss": self.recipe_loss,
            "domains": {name: found.figures for name, found in self.domains.items()},
            "layers": {str(number): asdict(layer) for number, layer in self.layers.items()},
        }


def evaluate(
    model: Path, data: Path, options: EvaluateOptions, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Return the loss of a model directory on tokenized text, computed by this process.

    CheckpointError names the layer where the model computes values that are not finite.
    """
    return evaluate_ablated(model, data, options, (None,), progress)[0]


def evaluate_ablated(
    model: Path,
    data: Path,
    options: EvaluateOptions,
    ablations: Sequence[Ablation | None],
    progress: Progress = lambda done, total: None,
) -> list[Evaluation]:
    """Return the loss of a model under each ablation, and as it is for None; it is built once."""
    work = _Work.of(model, data, options)
    checkpoint = work.checkpoint
    for asked in filter(None, ablations):
        asked.check(checkpoint.config)
    decoder = build(checkpoint.config, checkpoint.read).eval()
    found = []
    for number, ablation in enumerate(ablations):

        def told(done: int, total: int, before: int = number) -> None:
            progress(before * total + done, len(ablations) * total)

        with nullcontext() if ablation is None else ablated(decoder, ablation):
            found.append(work.evaluated(DecoderMeter(model, decoder), told))
    return found


def evaluate_on(
    model: Path,
    data: Path,
    options: EvaluateOptions,
    where: Where,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Return what ``evaluate`` does, computed where ``where`` says.

    CheckpointError where the model computes values that are not numbers.
    """
    work = _Work.of(model, data, options)
    with opened(model, where, Answering(work.blocks)) as engine:
        return work.evaluated(RankMeter(engine, where.depth), progress)


@dataclass(frozen=True, slots=True)
class _Work:
    """A text to measure a model on."""

    model: Path
    checkpoint: Checkpoint
    data: Path
    shards: TokenShards
    options: EvaluateOptions

    @classmethod
    def of(cls, model: Path, data: Path, options: EvaluateOptions) -> "_Work":
        """Open model and text and check that one can read the other."""
        checkpoint, window = Checkpoint.open(model), options.window
        config = checkpoint.config
        if window is not None and window.size > config.max_positions:
            raise ConfigError(
                f"asked for windows of {window.size} tokens, but {model} was made for "
                f"{config.max_positions}; give a smaller window"
            )
        shards = open_shards(model, config, data, options.split)
        _check_rows(data, shards, options)
        return cls(model, checkpoint, data, shards, options)

    @property
    def blocks(self) -> int:
        """Blocks of keys and values of the sequences that are computed at a time."""
        window = self.options.window
        length = self.shards.sequence_length if window is None else window.size
        return self.options.batch * blocks_of(length)

    def evaluated(self, meter: Meter, progress: Progress) -> Evaluation:
        """Measure all of the text."""
        sizes = byte_sizes(self.model, self.checkpoint.config.vocab_size)
        totals, routers = (
            Totals(self.shards.domains, sizes),
            Routers(self.options.virtual_capacity_factor),
        )
        done, total, started = 0, self._count, time.perf_counter()
        for found in meter.measure(self._pieces()):
            totals.add(found.piece, found.losses)
            routers.add(found.routers)
            done += len(found.piece.tokens)
            progress(done, total)
        whole = totals.whole
        if whole is None:
            raise DataError(
                f"no label counts in the {self._rows} rows of {self.data}: they hold no token of "
                "an answer, or one token of each document, so there is nothing to predict; "
                "tokenize with a longer --sequence-length, or longer documents"
            )
        return Evaluation(
            whole.loss,
            whole.tokens,
            whole.bytes,
            time.perf_counter() - started,
            routers.health(self.checkpoint),
            totals.by_domain,
            None if self.options.window is None else totals.recipe_loss,
        )

    @property
    def _rows(self) -> int:
        return min(len(self.shards), self.options.rows or len(self.shards))

    @property
    def _count(self) -> int:
        """Number of sequences, windows or whole documents."""
        if self.shards.manifest.packing != "cut":
            return self.shards.documents(spread(len(self.shards), self.options.rows))
        if self.options.window is None:
            return self._rows
        return sum(1 for _ in spans(self._rows * self.shards.sequence_length, self.options.window))

    def _pieces(self) -> Iterator[Piece]:
        if self.options.window is not None:
            yield from windows(self.shards, self._rows, self.options.window, self.options.batch)
            return
        rows, batch = spread(len(self.shards), self.options.rows), self.options.batch
        for first in range(0, len(rows), batch):
            several = rows[first : first + batch]
            found = self.shards.batch(several)
            alike = np.broadcast_to(several[:, None], found.tokens.shape)
            if found.documents is None:
                yield Piece(found.tokens, found.labels, alike)
            else:
                yield from _documents(Piece(found.tokens, found.labels, alike), found.documents)


def _documents(rows: Piece, numbers: NDArray[np.int32]) -> Iterator[Piece]:
    """Yield each document of some rows by itself: none sees another, and padding is left out."""
    for row, own in enumerate(numbers):
        for number in range(int(own.max()) + 1):
            places = own == number
            yield Piece(*(each[row, places][None] for each in rows))


def _check_rows(data: Path, shards: TokenShards, options: EvaluateOptions) -> None:
    """Raise for rows whose loss would say nothing, or that are no text for windows."""
    if shards.manifest.kind == "preference":
        raise DataError(
            f"{data} holds pairs of a chosen and a rejected answer; evaluate on rows of wanted "
            "answers, tokenized with --kind chat"
        )
    packing = shards.manifest.packing
    if options.window is not None and packing != "cut":
        raise ConfigError(
            f"asked for windows over one text, but the documents of {data} are {packing} and do "
            "not see each other; leave the window out"
        )

"""Batches of sequences through the ranks of one replica, in the order in which they are begun."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from actors.calls import Answer, over
from actors.commands import Batch, BatchOutput
from actors.engine.meeting import Meeting
from moe.config.token_numbers import check_token_numbers
from moe.errors import RequestError
from moe.planning.plan.seats import Seat


@dataclass(frozen=True, slots=True)
class Flight:
    """A batch that the ranks were told, with their answers to come; ``begun`` by the clock."""

    batch: Batch
    answers: dict[Seat, Answer]
    begun: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether ``finish`` returns at once."""
        return over(self.answers.values())


class Passes:
    """Runs batches on ranks that are ready to answer; several may be under way."""

    def __init__(self, meeting: Meeting, seats: Iterable[Seat]) -> None:
        self._meeting = meeting
        self._seats = tuple(seats)

    def begin(self, batch: Batch) -> Flight:
        """Tell the ranks a batch and return at once.

        RequestError where a token is not in the vocabulary; no rank hears of it.
        """
        words = self._meeting.plan.model["vocab_size"]
        for feed in batch.feeds:
            check_token_numbers(feed.tokens or (), words, RequestError)
        return Flight(batch, self._meeting.tell("infer", batch, seats=self._seats))

    def finish(self, flight: Flight) -> BatchOutput:
        """Wait for a batch, of those begun the first, and return what came of it.

        Where a rank fails, no rank of the run goes on, and no batch that was begun will be
        finished. Where nothing could be drawn, it raises why, and all ranks go on.
        """
        doing, seconds = f"batch {flight.batch.number}", self._meeting.deadlines.command
        answers = self._meeting.gather(flight.answers, doing, seconds)
        output = _joined([answer for answer in answers if answer is not None])
        if output.error is not None:
            raise output.error
        return replace(output, step=flight.batch.step)


def _joined(outputs: Sequence[BatchOutput]) -> BatchOutput:
    """Return what came of a batch on all stages; one of them has the head, and draws."""
    error = next((each.error for each in outputs if each.error is not None), None)
    return BatchOutput(
        outputs[0].number,
        {own: token for each in outputs for own, token in each.drawn.items()},
        {own: tokens for each in outputs for own, tokens in each.scored.items()},
        error,
        routers={layer: seen for each in outputs for layer, seen in each.routers.items()},
    )

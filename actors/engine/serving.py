"""Serves one model: sequences of tokens that grow, on the ranks of a plan with one replica."""

from collections.abc import Sequence

from actors.commands import InferInput
from actors.crew.crew import Crew
from actors.deadlines import Deadlines
from actors.engine import statuses
from actors.engine.meeting import Meeting
from actors.state.sources import ModelSource
from moe.config.sampling import SampledToken
from moe.config.token_numbers import check_token_numbers
from moe.errors import RaymoeError, RequestError
from moe.nn.draw import Draw
from moe.planning.plan.plan import Plan
from moe.storage import Location

HEALTH_SECONDS = 10.0
"""A health check waits no longer than this, and no longer than the group deadline."""


class ServingEngine:
    """Generates with the ranks of one plan. Calls block, one at a time."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._lengths: dict[str, int] = {}

    @classmethod
    def serve(
        cls, crew: Crew, name: str, plan: Plan, model: Location, deadlines: Deadlines
    ) -> "ServingEngine":
        """Build the ranks of a crew from a model directory; on failure the ranks are ended."""
        meeting = Meeting(name, plan, crew, deadlines)
        meeting.start(ModelSource(model), 0, None)
        return cls(meeting)

    def infer(self, sequence: str, tokens: Sequence[int], draw: Draw) -> SampledToken:
        """Append tokens to a sequence and return the token that follows.

        RequestError where a token is not in the vocabulary; no rank hears of it.
        """
        check_token_numbers(tokens, self._meeting.plan.model["vocab_size"], RequestError)
        position = self._lengths.get(sequence, 0)
        known = (tuple(draw.prompt), tuple(draw.generated), draw.allowed)
        work = InferInput(sequence, tuple(tokens), position, draw.sampling, *known)
        answers = self._command("infer", work, doing="inference")
        self._lengths[sequence] = position + len(work.tokens)
        token: SampledToken = next(answer for answer in answers if answer is not None)
        return token

    def release(self, sequence: str) -> None:
        """Forget a sequence on every rank."""
        if self._lengths.pop(sequence, None) is not None:
            self._command("release", sequence, doing="release")

    def healthy(self) -> bool:
        """Tell whether every rank answers and belongs to the epoch."""
        try:
            seconds = min(self._meeting.deadlines.group, HEALTH_SECONDS)
            status = self._meeting.status(seconds)
        except RaymoeError:
            return False
        return statuses.together(status, self._meeting.epoch)

    def shutdown(self) -> None:
        """End all ranks and give back what they hold."""
        self._meeting.end()

    def _command(self, method: str, argument: object, doing: str) -> list[SampledToken | None]:
        answers = self._meeting.tell(method, argument)
        return self._meeting.gather(answers, doing, self._meeting.deadlines.command)

"""One request, from its sending to the last event of its stream."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from pipelines.loading.answer import Answer, Failure
from pipelines.loading.events import data_of, parse_event
from pipelines.loading.prompt import Prompt
from pipelines.loading.target import Target

LINE_BYTES = 2**20
"""Longest line of an event that is read."""


class Failed(Exception):
    """A request that ends without its answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def client(target: Target) -> aiohttp.ClientSession:
    """Return a session in which every request is a client of its own, on a new connection."""
    return aiohttp.ClientSession(
        headers=target.headers,
        timeout=aiohttp.ClientTimeout(total=target.seconds),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        read_bufsize=LINE_BYTES,
    )


@dataclass(slots=True)
class Asking:
    """A request under way; ``leave_after`` events with tokens its client goes away."""

    due: float
    began: float
    leave_after: int | None = None
    heard: Callable[[], None] = lambda: None
    sent: float = 0.0
    tokens_at: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    counted: tuple[int, int] | None = None
    left: bool = False

    async def ask(self, session: aiohttp.ClientSession, target: Target, prompt: Prompt) -> Answer:
        """Send the request and read its stream; whatever goes wrong is in the answer."""
        body = target.body(prompt)
        self.sent = self._now()
        failure = None
        try:
            async with session.post(target.endpoint, json=body) as response:
                await self._read(response)
        except Failed as error:
            failure = error.failure
        except TimeoutError:
            failure = Failure("timeout", f"not done after {target.seconds:g} s")
        except aiohttp.ClientError as error:
            never = isinstance(error, aiohttp.ClientConnectorError)
            kind = "no connection" if never else "connection broke"
            failure = Failure(kind, str(error) or type(error).__name__)
        except ValueError as error:  # BadEvent, bytes that are no text, or a line without end
            failure = Failure("unreadable event", str(error))
        return self._answer(failure)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        """Read the events; where the only token ends the answer, its end is its arrival."""
        if response.status != 200:
            said = (await response.text(errors="replace"))[:500]
            raise Failed(Failure("refused", said, response.status))
        finished = False
        async for data in data_of(response.content):
            event = parse_event(data)
            if event.error is not None:
                raise Failed(Failure("error in the stream", event.error))
            if event.token or (event.finished and not self.tokens_at):
                self.tokens_at.append(self._now())
                self.texts.append(event.text)
                self.heard()
            finished = finished or event.finished or event.done
            self.counted = event.counted or self.counted
            if len(self.tokens_at) == self.leave_after:
                self.left = True
                response.close()
                return
        self._check(finished)

    def _check(self, finished: bool) -> None:
        """Raise for a stream that ends without its end, or without a token."""
        if not finished:
            raise Failed(Failure("ended early", f"after {len(self.tokens_at)} events"))
        if not self.tokens_at:
            raise Failed(Failure("empty answer", "the stream ended without a token"))

    def _answer(self, failure: Failure | None) -> Answer:
        prompt_tokens, output_tokens = self.counted or (None, None)
        return Answer(
            due=self.due,
            sent=self.sent,
            ended=self._now(),
            tokens_at=tuple(self.tokens_at),
            text="".join(self.texts),
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            left=self.left,
            failure=failure,
        )

    def _now(self) -> float:
        return time.perf_counter() - self.began

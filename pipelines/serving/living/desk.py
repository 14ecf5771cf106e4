"""Where a server leaves batches for the driver of a training run, and finds what they came to.

Both sides may be slow or die: nobody waits for the other longer than he says. Methods run on one
event loop, so nothing here is ever seen half done.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from actors.commands import Batch, BatchOutput
from moe.errors import RaymoeError
from pipelines.serving.living.terms import (
    Answered,
    Conditions,
    Failed,
    Fate,
    Moved,
    Posted,
    Refused,
    Standing,
    Welcome,
)


@dataclass(slots=True)
class _Waiting:
    """A batch that was posted, and whoever waits for what it comes to."""

    posted: Posted
    fate: "asyncio.Future[Fate]"
    taken: bool = False


class Desk:
    """One server on one side, the drivers of one run, one after the other, on the other."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._welcome: Welcome | None = None
        self._refusal: Refused | None = None
        self._standing: Standing | None = None
        self._open = False
        self._last = 0
        self._given: list[_Waiting] = []
        self._waiting: dict[int, _Waiting] = {}
        self._changed = asyncio.Condition()

    async def welcomed(self, seconds: float) -> Welcome | Refused | None:
        """Return what the run says to this server; None where it says nothing in time."""
        await self._until(lambda: self._welcome is not None or self._refusal is not None, seconds)
        return self._refusal or self._welcome

    async def turn(self, seconds: float) -> Standing | Refused | None:
        """Return who answers as soon as the driver takes batches; None where that takes longer."""
        await self._until(lambda: self._open or self._refusal is not None, seconds)
        return self._refusal or (self._standing if self._open else None)

    async def run(self, posted: Posted) -> Fate:
        """Have a batch run and return what it came to, however long that takes."""
        if self._refusal is not None:
            return self._refusal
        if not self._fits(posted):
            assert self._standing is not None
            return Moved(self._standing)
        waiting = _Waiting(posted, asyncio.get_running_loop().create_future())
        self._waiting[posted.batch.number] = waiting
        await self._tell()
        return await waiting.fate

    async def welcome(self, welcome: Welcome) -> None:
        """Let the server in, for the first time or on another standing."""
        self._welcome = welcome
        self._stand(welcome.standing)
        await self._tell()

    async def refuse(self, reason: str) -> None:
        """Answer no more."""
        self._refusal = Refused(reason)
        for number in [*self._waiting]:
            self._settle(number, self._refusal)
        await self._tell()

    async def take(self, standing: Standing, seconds: float) -> Batch | None:
        """Return the next batch for the ranks as they stand, waiting a while for one to come.

        None where none comes, and where the turn is over meanwhile.
        """
        self._stand(standing)
        self._open = True
        await self._tell()
        await self._until(lambda: not self._open or self._next() is not None, seconds)
        found = self._next() if self._open else None
        if found is None:
            return None
        found.taken, self._last = True, found.posted.batch.number
        self._given.append(found)
        return found.posted.batch

    async def answer(self, output: BatchOutput) -> None:
        """Give back what a batch came to."""
        self._settle(output.number, Answered(output))

    async def fail(self, number: int, error: RaymoeError) -> None:
        """Say why a batch could not be computed."""
        self._settle(number, Failed(error))

    async def over(self, begun: int) -> None:
        """End the turn: the ranks go on with training.

        ``begun`` batches of the turn were run. Any other that was given came too late for a driver
        that had waited long enough; it is given again in the next turn.
        """
        self._open = False
        for late in reversed(self._given[begun:]):
            late.taken, self._last = False, late.posted.after
        self._given.clear()
        await self._tell()

    async def stay(self) -> None:
        """Never return: the call fails when the desk ends, which tells its callers at once."""
        await asyncio.Event().wait()

    def _stand(self, standing: Standing) -> None:
        """Go on with the ranks as they stand; batches made for others are not run."""
        before, self._standing = self._standing, standing
        if before is not None and not self._keeps(before):
            self._last = 0
            self._given.clear()
            for number in [*self._waiting]:
                self._settle(number, Moved(standing))

    def _keeps(self, other: Standing) -> bool:
        assert self._standing is not None
        return self._standing.keeps(other, self._conditions.on_new_weights)

    def _fits(self, posted: Posted) -> bool:
        return self._standing is not None and self._keeps(posted.standing)

    def _next(self) -> _Waiting | None:
        found = (each for each in self._waiting.values() if not each.taken)
        return next((each for each in found if each.posted.after == self._last), None)

    def _settle(self, number: int, fate: Fate) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None and not waiting.fate.done():
            waiting.fate.set_result(fate)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(true)

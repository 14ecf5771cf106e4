"""A desk whose driver gives up waiting: what it was given too late is given again."""

import asyncio

from actors.commands import Answering, Batch, BatchOutput
from pipelines.serving.living.desk import Desk
from pipelines.serving.living.terms import Answered, Conditions, Posted, Standing

STANDING = Standing("driver-1", 0, 1, 4)
SECONDS = 0.05


def test_a_batch_that_came_too_late_is_run_in_the_next_turn() -> None:
    """The first batch is run; the second comes when the driver has given up; the third waits."""

    async def played() -> list[int]:
        desk = Desk(Conditions(Answering(1)))
        await desk.take(STANDING, 0.0)
        first, second, third = (Batch(number, ()) for number in (1, 2, 3))
        asking = [
            asyncio.create_task(desk.run(Posted(each, STANDING, each.number - 1)))
            for each in (first, second, third)
        ]
        await asyncio.sleep(0)
        assert await desk.take(STANDING, SECONDS) == first
        await desk.answer(BatchOutput(1, {}))
        assert await desk.take(STANDING, SECONDS) == second
        await desk.over(1)
        assert await desk.take(STANDING, SECONDS) == second
        await desk.answer(BatchOutput(2, {}))
        assert await desk.take(STANDING, SECONDS) == third
        await desk.answer(BatchOutput(3, {}))
        await desk.over(2)
        assert await desk.take(STANDING, 0.0) is None
        fates = await asyncio.gather(*asking)
        return [fate.output.number for fate in fates if isinstance(fate, Answered)]

    assert asyncio.run(played()) == [1, 2, 3]

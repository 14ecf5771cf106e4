"""A front over replicas in this process, one of which may be lost."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from openai import OpenAI
from starlette.types import Message

from pipelines.serving.access import Access
from pipelines.serving.http.api import answering_app
from pipelines.serving.protocol.replies import Health
from pipelines.serving.refusals import Asleep
from pipelines.serving.replicas.asked import Asked, answers
from pipelines.serving.replicas.figures import Figures
from pipelines.serving.replicas.front import Manner, ReplicaLost, create_front
from pipelines.serving.service import Service
from tests import servers
from tests.serving import PATIENCE

MANNER = Manner(Access(), 2**20, PATIENCE, by_prefix=True, refuses=False)


@dataclass
class LocalReplicas:
    """Answers with services in turn; the next are lost after as many messages as ``lost`` says."""

    services: list[Service]
    lost: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    asleep: bool = False
    silent: bool = False

    async def answer(self, asked: Asked) -> AsyncGenerator[Sequence[Message], None]:
        service = self.services[len(self.asked) % len(self.services)]
        self.asked.append(asked)
        left = self.lost.pop(0) if self.lost else None
        if self.silent:
            await asyncio.Event().wait()
        async with aclosing(answers(answering_app(service), asked)) as messages:
            async for each in messages:
                if left == 0:
                    raise ReplicaLost("killed")
                left = left and left - 1
                yield each

    async def awake(self) -> None:
        if self.asleep:
            raise Asleep("the model is not loaded, and is being loaded now; try again in a while")

    async def states(self) -> Sequence[Health]:
        return [] if self.asleep else [service.health for service in self.services]

    async def figures(self) -> Sequence[Figures]:
        named = enumerate(self.services)
        return [Figures(str(number), each.figures().decode()) for number, each in named]


@dataclass
class Fronted:
    """A front that listens."""

    url: str
    client: OpenAI


@contextmanager
def fronted(replicas: Any, manner: Manner = MANNER) -> Iterator[Fronted]:
    with servers.running(create_front(replicas, manner)) as url:
        base = f"{url}/v1"
        with OpenAI(base_url=base, api_key="-", max_retries=0, timeout=PATIENCE) as client:
            yield Fronted(url, client)

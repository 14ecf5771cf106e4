"""The replicas of a deployment of Ray Serve, as the front reaches them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.types import Message

from pipelines.serving.protocol.replies import Health
from pipelines.serving.refusals import Asleep, Overloaded, Unavailable
from pipelines.serving.replicas.asked import Asked
from pipelines.serving.replicas.figures import Figures
from pipelines.serving.replicas.front import ReplicaLost

ASK_SECONDS = 10.0
"""A replica tells its figures in milliseconds."""

WAKE_SECONDS = 1.0
"""How long it is believed that there are replicas."""


class ServeReplicas:
    """Asks through a handle. ``refuses``: requests are refused while there is no replica."""

    def __init__(self, handle: DeploymentHandle[Any], refuses: bool) -> None:
        self._handle = handle
        self._refuses = refuses
        self._seen = 0.0
        self._waking: asyncio.Task[Any] | None = None

    async def answer(self, asked: Asked) -> AsyncGenerator[Sequence[Message], None]:
        """Yield what one of the replicas sends in answer; ReplicaLost where it ends meanwhile.

        Ray brings it to another by itself where the replica had not begun with it.
        """
        said = self._handle.options(stream=True).answer.remote(asked)
        answer = cast("DeploymentResponseGenerator[Any]", said)
        try:
            async for messages in answer:
                yield messages
        except RayActorError as error:
            raise ReplicaLost(str(error)) from error
        except BackPressureError as error:
            raise Overloaded(
                "all replicas are busy; try again in a moment", code="queue_full"
            ) from error
        except DeploymentUnavailableError as error:
            raise Unavailable("no replica could be started; its log tells more") from error
        finally:
            answer.cancel()  # type: ignore[no-untyped-call]

    async def awake(self) -> None:
        """Return at once if requests may wait for a replica, or there is one; else start one."""
        now = asyncio.get_running_loop().time()
        if not self._refuses or now - self._seen < WAKE_SECONDS:
            return
        if await self.states():
            self._seen = now
            return
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake())
        raise Asleep("the model is not loaded, and is being loaded now; try again in a while")

    async def states(self) -> Sequence[Health]:
        """Return how each replica is that answers."""
        return await self._all("health")

    async def figures(self) -> Sequence[Figures]:
        """Return the figures of each replica that answers."""
        return await self._all("figures")

    async def _wake(self) -> None:
        """Wait for a replica, which is what Ray starts one for."""
        await self._handle.health.remote()

    async def _all(self, method: str) -> list[Any]:
        """Return what every replica says; an empty list where there is none."""
        try:
            said = await self._handle.broadcast(method).results_async(
                timeout_s=ASK_SECONDS, return_exceptions=True
            )
        except (DeploymentUnavailableError, TimeoutError):
            return []
        return [each for each in said if not isinstance(each, BaseException)]

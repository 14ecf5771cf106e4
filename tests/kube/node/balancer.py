"""The address of a service: every new connection goes to one of the pods that are ready then."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.kube.node.network import GATEWAY

_CHUNK = 2**16

Endpoints = Callable[[], list[str]]


@contextmanager
def balanced(endpoints: Endpoints, port: int) -> Iterator[list[str]]:
    """Listen where pods and this machine reach it; yield to which pods connections went.

    A connection without a pod that is ready is closed, as a service refuses it.
    """
    went: list[str] = []
    loop = asyncio.new_event_loop()
    turns = itertools.count()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there = await loop.run_in_executor(None, endpoints)
            if not there:
                return
            address = there[next(turns) % len(there)]
            went.append(address)
            far, near = await asyncio.open_connection(address, port)
            with contextlib.closing(near):
                await asyncio.gather(_pump(reader, near), _pump(far, writer))

    server = loop.run_until_complete(asyncio.start_server(connected, GATEWAY, port))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield went
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()

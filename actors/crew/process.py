"""One rank in a process of its own, commanded through a pipe: no Ray.

The process is forked from a server that has imported torch and the code of a rank, and nothing
else of the parent: a rank starts in milliseconds, not in the seconds that the imports take. It has
the environment that its parent has when it starts. It ends when the parent ends it, or when the
parent is gone.
"""

import gc
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from actors.calls import Answer
from actors.epochs.environment import prepare
from actors.rank.imports import LATE
from actors.rank.queues import COMMANDS, QUEUES, THREADS
from actors.rank.rank import Rank
from moe.errors import RankDied, RankLost, RaymoeError

PRELOADED = [Rank.__module__, *LATE]
"""Imported once, by the server."""

MakeRank = Callable[[int], Any]
"""Makes what answers the commands, in the new process; a class or function of a module."""


class RankProcess:
    """A rank number, its process, and the answers that are still to come."""

    def __init__(self, number: int, make: MakeRank = Rank) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pipe, theirs = context.Pipe()
        given = (number, make, theirs, dict(os.environ))
        self._process = context.Process(target=_host, args=given, daemon=True)
        self._process.start()
        theirs.close()
        self._sending = threading.Lock()
        self._table = threading.Lock()
        self._waiting: dict[int, Answer] = {}
        self._tickets = count()
        self._end: str | None = None
        threading.Thread(target=self._read, name=f"answers of rank {number}", daemon=True).start()

    @property
    def end(self) -> str | None:
        """How the process ended; None while it lives."""
        return self._end

    @property
    def pid(self) -> int | None:
        """Process number of the rank."""
        return self._process.pid

    def tell(self, method: str, *arguments: Any) -> Answer:
        """Give the rank a command and return its answer to come."""
        answer = Answer()
        with self._table:
            if self._end is not None:
                answer.set_exception(RankDied(self._end))
                return answer
            ticket = next(self._tickets)
            message = pickle.dumps((ticket, method, arguments))
            self._waiting[ticket] = answer
        try:
            with self._sending:
                self._pipe.send_bytes(message)
        except OSError:
            pass  # the process has ended, and the thread that reads fails all that waits
        return answer

    def kill(self) -> None:
        """End the process at once and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def _read(self) -> None:
        """Settle answers as they come; when the process ends, fail those that will not."""
        while True:
            try:
                ticket, value, error = pickle.loads(self._pipe.recv_bytes())
            except (EOFError, OSError):
                break
            with self._table:
                answer = self._waiting.pop(ticket)
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)
        self._process.join()
        with self._table:
            self._end = f"its process ended with code {self._process.exitcode}"
            waiting = list(self._waiting.values())
        for answer in waiting:
            answer.set_exception(RankDied(self._end))


def _host(number: int, make: MakeRank, pipe: Connection, environment: dict[str, str]) -> None:
    """Answer commands until the pipe closes, each in its queue."""
    gc.freeze()  # what the server imported is alive for good, and takes long to look through
    os.environ.clear()  # the server's, which is as old as the first rank
    os.environ.update(environment)
    prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when ranks end
    rank, sending = make(number), threading.Lock()
    queues = {name: ThreadPoolExecutor(THREADS.get(name, 1)) for name in (COMMANDS, *THREADS)}

    def answer(ticket: int, method: str, arguments: tuple[Any, ...]) -> None:
        message = _answer(rank, ticket, method, arguments)
        with sending:
            pipe.send_bytes(message)

    while True:
        try:
            ticket, method, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            os._exit(0)
        queues[QUEUES.get(method, COMMANDS)].submit(answer, ticket, method, arguments)


def _answer(rank: Any, ticket: int, method: str, arguments: tuple[Any, ...]) -> bytes:
    """Run one command and return its answer as bytes, whatever came of it."""
    try:
        return pickle.dumps((ticket, getattr(rank, method)(*arguments), None))
    except RaymoeError as error:
        return pickle.dumps((ticket, None, error))
    except Exception as error:
        return pickle.dumps((ticket, None, RankLost(f"a rank failed: {error!r}")))

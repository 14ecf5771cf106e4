"""Tensors of one size between the stages of a replica, each over the line of its route.

Senders and receivers know the schedule, so nothing is said beside the tensors: each receive is
posted in the order in which its sender sends, a few of them before they are needed
(``messages_ahead``). Buffers are kept from step to step.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from actors.device import GLOO
from actors.epochs.lines import Line, Route
from actors.step.clock import Clock

AHEAD = 2
"""Messages of one sender that are asked for over gloo before the one that is needed has come."""

Key = tuple[int, int]
"""The chunk and the micro-batch that a message is for."""


@dataclass(slots=True)
class Letter:
    """A message under way, and the tensor that must not change until it has arrived."""

    work: dist.Work
    tensor: Tensor

    def wait(self) -> None:
        """Wait until the message has arrived."""
        self.work.wait()


@dataclass(slots=True)
class _Sender:
    """What one stage sends one way: all of a step in its order, and what was asked for of it."""

    keys: tuple[Key, ...]
    coming: deque[Key] = field(default_factory=deque)
    posted: dict[Key, Letter] = field(default_factory=dict)


class Mail:
    """The messages of one stage over its ``lines``; ``shape`` is that of every tensor.

    ``expected`` says what others send to this stage, by route and in their order.
    """

    def __init__(
        self,
        lines: Mapping[Route, Line],
        shape: Sequence[int],
        device: torch.device,
        expected: Mapping[Route, Sequence[Key]],
        ahead: int,
        clock: Clock,
    ) -> None:
        self._lines = lines
        self._shape = tuple(shape)
        self._device = device
        self._senders = {route: _Sender(tuple(keys)) for route, keys in expected.items()}
        self._ahead = ahead
        self._clock = clock
        self._free: list[Tensor] = []
        self._sent: list[Letter] = []

    def begin(self) -> None:
        """Start a step: all its messages are still to come."""
        for sender in self._senders.values():
            sender.coming = deque(sender.keys)
            sender.posted.clear()
        self._sent.clear()

    def send(self, route: Route, key: Key, tensor: Tensor) -> Letter:
        """Send a tensor; it must not change until ``arrived`` or ``finish``."""
        tensor = tensor.contiguous()
        letter = Letter(self._lines[route].send(tensor, _tag(key)), tensor)
        self._sent.append(letter)
        return letter

    def receive(self, route: Route, key: Key) -> Tensor:
        """Return what is sent under a key; ask for the next few messages of the route as well."""
        sender = self._senders[route]
        while key not in sender.posted:
            self._post(route, sender)
        found = sender.posted.pop(key)
        while sender.coming and len(sender.posted) < self._ahead:
            self._post(route, sender)
        with self._clock.waiting("stages"):
            found.wait()
        return found.tensor

    def arrived(self, letter: Letter | None) -> None:
        """Let go of a message whose answer has come."""
        if letter is not None:
            with self._clock.waiting("stages"):
                letter.wait()
            self._sent = [other for other in self._sent if other is not letter]

    def give_back(self, tensor: Tensor) -> None:
        """Take a received tensor back as a buffer for another."""
        self._free.append(tensor.detach())

    def finish(self) -> None:
        """Wait until everything sent has arrived."""
        for letter in self._sent:
            with self._clock.waiting("stages"):
                letter.wait()
        self._sent.clear()

    def _post(self, route: Route, sender: _Sender) -> None:
        key = sender.coming.popleft()
        buffer = self._free.pop() if self._free else torch.empty(self._shape, device=self._device)
        work = self._lines[route].receive(buffer, _tag(key))
        sender.posted[key] = Letter(work, buffer)


def messages_ahead(backend: str) -> int:
    """Return how many messages of a sender are asked for beyond the one that is needed.

    A receive over gloo waits in a queue and costs nothing. One over NCCL is a kernel that spins on
    the GPU until the sender's kernel runs, and those of a communicator wait for each other: one is
    enough for a message to travel while the stage works.
    """
    return AHEAD if backend == GLOO else 1


def _tag(key: Key) -> int:
    """Return a number for a message; gloo finds messages by it, other backends by their order."""
    chunk, micro_batch = key
    return chunk * 2**16 + micro_batch

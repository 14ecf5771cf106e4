"""Tensors of one size between the stages of a replica, each way in a process group of its own.

Senders and receivers know the schedule, so nothing is said beside the tensors: each receive is
posted in the order in which its sender sends, at most ``AHEAD`` of them before they are needed.
Buffers are kept from step to step.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from actors.epochs.groups import Groups

DOWN = "down"
UP = "up"
AHEAD = 2
"""Messages of one sender that are asked for before the one that is needed has come."""

Key = tuple[int, int]
"""The chunk and the micro-batch that a message is for."""


@dataclass(slots=True)
class Letter:
    """A message under way, and the tensor that must not change until it has arrived."""

    work: dist.Work | None
    tensor: Tensor

    def wait(self) -> None:
        """Wait until the message has arrived."""
        if self.work is not None:
            self.work.wait()


@dataclass(slots=True)
class _Sender:
    """What one stage sends one way: all of a step in its order, and what was asked for of it."""

    keys: tuple[Key, ...]
    coming: deque[Key] = field(default_factory=deque)
    posted: dict[Key, Letter] = field(default_factory=dict)


class Mail:
    """The messages of one stage in one epoch; ``shape`` is that of every tensor."""

    def __init__(
        self,
        groups: Groups,
        shape: Sequence[int],
        device: torch.device,
        expected: Mapping[tuple[str, int], Sequence[Key]],
    ) -> None:
        self._groups = groups
        self._shape = tuple(shape)
        self._device = device
        self._senders = {who: _Sender(tuple(keys)) for who, keys in expected.items()}
        self._free: list[Tensor] = []
        self._sent: list[Letter] = []

    def begin(self) -> None:
        """Start a step: all its messages are still to come."""
        for sender in self._senders.values():
            sender.coming = deque(sender.keys)
            sender.posted.clear()
        self._sent.clear()

    def send(self, way: str, stage: int, key: Key, tensor: Tensor) -> Letter:
        """Send a tensor to a stage; it must not change until ``arrived`` or ``finish``."""
        tensor = tensor.contiguous()
        to = self._groups.membership.at(stage=stage)
        work = dist.isend(tensor, to, group=self._group(way), tag=_tag(key))
        letter = Letter(work, tensor)
        self._sent.append(letter)
        return letter

    def receive(self, way: str, stage: int, key: Key) -> Tensor:
        """Return what a stage sends under a key; ask for the next few messages from it as well."""
        sender = self._senders[way, stage]
        while key not in sender.posted:
            self._post(way, stage, sender)
        found = sender.posted.pop(key)
        while sender.coming and len(sender.posted) < AHEAD:
            self._post(way, stage, sender)
        found.wait()
        return found.tensor

    def arrived(self, letter: Letter | None) -> None:
        """Let go of a message whose answer has come."""
        if letter is not None:
            letter.wait()
            self._sent = [other for other in self._sent if other is not letter]

    def give_back(self, tensor: Tensor) -> None:
        """Take a received tensor back as a buffer for another."""
        self._free.append(tensor.detach())

    def finish(self) -> None:
        """Wait until everything sent has arrived."""
        for letter in self._sent:
            letter.wait()
        self._sent.clear()

    def _post(self, way: str, stage: int, sender: _Sender) -> None:
        key = sender.coming.popleft()
        buffer = self._free.pop() if self._free else torch.empty(self._shape, device=self._device)
        source = self._groups.membership.at(stage=stage)
        work = dist.irecv(buffer, source, group=self._group(way), tag=_tag(key))
        sender.posted[key] = Letter(work, buffer)

    def _group(self, way: str) -> dist.ProcessGroup:
        group = self._groups.down if way == DOWN else self._groups.up
        assert group is not None
        return group


def _tag(key: Key) -> int:
    """Return a number for a message; gloo finds messages by it, other backends by their order."""
    chunk, micro_batch = key
    return chunk * 2**16 + micro_batch

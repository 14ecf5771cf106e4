"""Plays the order of a schedule on one stage: forward, backward, and what travels in between.

The order is the planner's own (``moe.planning.schedules.schedule``), of which the simulator makes
its timeline. Hidden states go to the stage of the next chunk, gradients to that of the one before.
Receives are posted a few messages ahead of their use and sends are not waited for until they must
have arrived, so a message travels while its stage works.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from actors.epochs.lines import DOWN, UP, Route
from actors.step.clock import Clock
from actors.step.mail import Key, Letter, Mail
from moe.nn.later import Later
from moe.planning.schedules.schedule import FORWARD, INPUT, WEIGHT, Action, Order


class Turn(NamedTuple):
    """One micro-batch's forward pass through a chunk.

    ``later`` takes what the backward pass puts off. ``final`` says that the backward pass of no
    other micro-batch follows on this chunk.
    """

    chunk: int
    micro_batch: int
    later: Later | None
    final: bool


class Chunks(Protocol):
    """What a pipeline asks of the stage it works for."""

    def forward(self, turn: Turn, x: Tensor | None) -> Tensor:
        """Return hidden states, or the loss of the last chunk; the first chunk takes no x."""
        ...

    def backward(self, output: Tensor, gradient: Tensor | None) -> None:
        """Go back from what ``forward`` returned; a loss has no gradient yet."""
        ...

    def whole(self, chunk: int) -> None:
        """Take note that a chunk's weights have their gradients, which had been put off."""
        ...


@dataclass(slots=True)
class _Held:
    """What a stage keeps of a micro-batch in one chunk until it is through backward."""

    x: Tensor | None
    output: Tensor | None
    later: Later | None
    sent: Letter | None = None
    gradient: Tensor | None = None


class Pipeline:
    """The work of one stage in every step: its place among all orders, and its mail."""

    def __init__(self, orders: Sequence[Order], stage: int, mail: Mail, clock: Clock) -> None:
        self._order = orders[stage]
        self._mail = mail
        self._clock = clock
        self._home = {a.chunk: s for s, order in enumerate(orders) for a in order}
        self._stage = stage
        self._last = max(self._home)
        self._split = any(action.kind == WEIGHT for action in self._order)
        backward = [action for action in self._order if action.kind != FORWARD]
        self._final = {action.chunk: action.micro_batch for action in backward}
        self._answers = answers(orders, stage)
        self._held: dict[Key, _Held] = {}
        self._here: dict[tuple[str, int, int], Tensor] = {}
        self._unanswered: dict[Key, Letter] = {}

    def run(self, chunks: Chunks) -> None:
        """Take every micro-batch of a step through the chunks of this stage and back."""
        self._held.clear()
        self._here.clear()
        self._unanswered.clear()
        self._mail.begin()
        for action in self._order:
            if action.kind == FORWARD:
                self._forward(action, chunks)
            elif action.kind == WEIGHT:
                self._weights(action, chunks)
            else:
                self._backward(action, chunks)
        self._mail.finish()

    def _forward(self, action: Action, chunks: Chunks) -> None:
        _, chunk, micro_batch = action
        x = self._arrived(DOWN, chunk, micro_batch, chunk - 1) if chunk > 0 else None
        if x is not None:
            x = x.detach().requires_grad_()
        turn = Turn(
            chunk,
            micro_batch,
            Later() if self._split else None,
            self._final[chunk] == micro_batch,
        )
        with self._clock.working(action):
            output = chunks.forward(turn, x)
        held = _Held(x, output, turn.later)
        if chunk < self._last:
            held.sent = self._leave(DOWN, chunk + 1, micro_batch, output.detach())
        self._held[chunk, micro_batch] = held

    def _backward(self, action: Action, chunks: Chunks) -> None:
        kind, chunk, micro_batch = action
        held = self._held[chunk, micro_batch]
        if chunk < self._last:
            held.gradient = self._arrived(UP, chunk, micro_batch, chunk + 1)
            self._mail.arrived(held.sent)
        assert held.output is not None
        with self._clock.working(action):
            chunks.backward(held.output, held.gradient)
        held.output = None
        if chunk > 0:
            assert held.x is not None
            assert held.x.grad is not None
            letter = self._leave(UP, chunk - 1, micro_batch, held.x.grad)
            if letter is not None:
                self._unanswered[chunk - 1, micro_batch] = letter
            held.x.grad = None
        if kind != INPUT:
            self._release(chunk, micro_batch)

    def _weights(self, action: Action, chunks: Chunks) -> None:
        _, chunk, micro_batch = action
        later = self._held[chunk, micro_batch].later
        assert later is not None
        with self._clock.working(action):
            later.run()
        self._release(chunk, micro_batch)
        if self._final[chunk] == micro_batch:
            chunks.whole(chunk)

    def _release(self, chunk: int, micro_batch: int) -> None:
        """Give the buffers of a micro-batch back: nothing of its passes is left."""
        held = self._held.pop((chunk, micro_batch))
        for tensor, neighbour in ((held.x, chunk - 1), (held.gradient, chunk + 1)):
            if tensor is not None and self._home[neighbour] != self._stage:
                self._mail.give_back(tensor)

    def _leave(self, way: str, chunk: int, micro_batch: int, tensor: Tensor) -> Letter | None:
        """Send a tensor to a chunk, or lay it down where the chunk is on this stage."""
        if self._home[chunk] == self._stage:
            self._here[way, chunk, micro_batch] = tensor
            return None
        route = Route(way, self._stage, self._home[chunk])
        return self._mail.send(route, (chunk, micro_batch), tensor)

    def _arrived(self, way: str, chunk: int, micro_batch: int, source: int) -> Tensor:
        """Return what the chunk ``source`` sent to a chunk of this stage."""
        home, key = self._home[source], (chunk, micro_batch)
        if home == self._stage:
            return self._here.pop((way, chunk, micro_batch))
        route = Route(way, home, self._stage)
        tensor = self._mail.receive(route, key)
        for answered in self._answers.get((route, key), ()):
            self._mail.arrived(self._unanswered.pop(answered))
        return tensor


def expected(orders: Sequence[Order], stage: int) -> dict[Route, list[Key]]:
    """Return what other stages send to this one, by route, in the order in which it is sent.

    Messages are named by the chunk and the micro-batch that they are for.
    """
    found: dict[Route, list[Key]] = {}
    for sender in range(len(orders)):
        for _, message in _messages(orders, sender, stage):
            if message is not None:
                way, key = message
                found.setdefault(Route(way, sender, stage), []).append(key)
    return found


def answers(orders: Sequence[Order], stage: int) -> dict[tuple[Route, Key], list[Key]]:
    """Return which gradients sent by this stage have been used when a message comes.

    A message is named by route and key. What its sender did before it sent, it must have
    had: so a gradient need not be kept until the step ends.
    """
    home = {action.chunk: s for s, order in enumerate(orders) for action in order}
    found: dict[tuple[Route, Key], list[Key]] = {}
    for sender in range(len(orders)):
        used: list[Key] = []
        for action, message in _messages(orders, sender, stage):
            if action.kind != FORWARD and home.get(action.chunk + 1) == stage:
                used.append((action.chunk, action.micro_batch))
            if message is not None and used:
                way, key = message
                found[Route(way, sender, stage), key] = used
                used = []
    return found


def _messages(
    orders: Sequence[Order], sender: int, stage: int
) -> Iterator[tuple[Action, tuple[str, Key] | None]]:
    """Yield what another stage does, and the message to this stage that follows from it."""
    home = {action.chunk: s for s, order in enumerate(orders) for action in order}
    for action in orders[sender] if sender != stage else ():
        kind, chunk, micro_batch = action
        if kind == WEIGHT:
            continue
        way, target = (DOWN, chunk + 1) if kind == FORWARD else (UP, chunk - 1)
        yield action, (way, (target, micro_batch)) if home.get(target) == stage else None

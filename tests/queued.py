"""A backend of torch.distributed that works as NCCL does, as far as the order of messages goes.

All stages run in one process, one after the other. Their groups move nothing and note what they are
asked for; ``unfinished`` then plays the notes of all stages at once:

    a message is given to the communicator of its group and its pair of ranks; tags do not count
    a communicator takes what it is asked for in the order in which it was asked
    a send is done when the receiver's turn has come too, and no sooner: nothing is buffered
    a stage that waits for a message is held up; what it asks for later is asked later
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

BACKEND = "queued"


@dataclass(eq=False)
class Asked:
    """A message that a stage asks for: its queue, and how many waits come before it."""

    queue: tuple[str, int, int]
    sends: bool
    tag: int
    after: int
    done: bool = False


@dataclass(eq=False)
class Stage:
    """What one stage asks for, and in what order it waits."""

    asked: list[Asked] = field(default_factory=list)
    waited: list[list[Asked]] = field(default_factory=list)

    def wait_for_all(self) -> None:
        """Wait for all messages so far, as whoever waits for the whole GPU does."""
        self.waited.append(list(self.asked))


class _Work(dist.Work):
    def __init__(self, wait: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._wait = wait

    def wait(self, timeout: Any = None) -> bool:
        self._wait()
        return True


class _Group(dist.ProcessGroup):
    def __init__(self, store: dist.Store, rank: int, size: int, timeout: Any) -> None:
        super().__init__(rank, size)
        self._stage = STAGES[-1]

    def send(self, tensors: list[torch.Tensor], to: int, tag: int) -> dist.Work:
        return self._note(to, True, tag)

    def recv(self, tensors: list[torch.Tensor], source: int, tag: int) -> dist.Work:
        tensors[0].zero_()
        return self._note(source, False, tag)

    def allreduce(self, tensors: list[torch.Tensor], options: Any = None) -> dist.Work:
        return _Work()

    def abort(self) -> None:
        """Do nothing: nothing is under way."""

    def _note(self, other: int, sends: bool, tag: int) -> dist.Work:
        name = dist.distributed_c10d._get_process_group_name(self)
        stage = self._stage
        asked = Asked((name, self.rank(), other), sends, tag, len(stage.waited))
        stage.asked.append(asked)
        return _Work(lambda: stage.waited.append([asked]))


STAGES: list[Stage] = []
"""The stages of the run that is noted now; a new group belongs to the last."""

dist.Backend.register_backend(BACKEND, _Group, devices=["cpu"])


def unfinished(stages: list[Stage]) -> list[Asked]:
    """Play what the stages noted and return the messages that never arrive.

    A receive that gets another message than it was asked for is an AssertionError.
    """
    queues: Mapping[tuple[str, int, int], list[tuple[int, Asked]]] = defaultdict(list)
    for number, stage in enumerate(stages):
        for asked in stage.asked:
            queues[asked.queue].append((number, asked))
    waits = [0] * len(stages)
    moved = True
    while moved:
        moved = False
        for number, stage in enumerate(stages):
            while waits[number] < len(stage.waited) and all(
                asked.done for asked in stage.waited[waits[number]]
            ):
                waits[number] += 1
                moved = True
        for (name, own, other), queue in queues.items():
            across = queues.get((name, other, own), [])
            while own < other and queue and across:
                ends = [queue[0], across[0]]
                began = all(asked.after <= waits[number] for number, asked in ends)
                (_, one), (_, two) = ends
                if not began or one.sends == two.sends:
                    break
                assert one.tag == two.tag, f"{two} meets {one}"
                one.done = two.done = moved = True
                del queue[0], across[0]
    return [asked for stage in stages for asked in stage.asked if not asked.done]

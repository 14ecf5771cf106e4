"""The checkpoint of a run with DeepSpeed, in raymoe's form: the first worker writes it.

What a worker holds is a part of every tensor, so all workers gather each tensor that the first one
is about to write. Memory holds one tensor more.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from moe.checkpoint.drafts import prune
from moe.checkpoint.manifest import step_directory
from moe.checkpoint.training import About, SaveContext, WholeState, write_training_checkpoint
from moe.config.tensors import TensorSlice
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan
from pipelines.training.deepspeed.trainer import WEIGHT, DeepSpeedTrainer
from pipelines.training.saving import Saved

Read = Callable[[TensorSlice, str], Tensor]


def save(trainer: DeepSpeedTrainer, context: SaveContext, plan: Plan) -> Saved | None:
    """Write the checkpoint of the steps done; all workers must. The first returns what it wrote."""
    began, step = time.monotonic(), trainer.steps_done
    location = context.run.checkpoint.location
    with _gathering(trainer) as read:
        if read is None:
            return None
        directory = step_directory(location, step)
        state = WholeState(lambda tensor: read(tensor, WEIGHT), read, trainer.balancer.states)
        write_training_checkpoint(directory, About(context, to_dict(plan), step), state)
    prune(location, context.run.checkpoint.keep)
    seconds = time.monotonic() - began
    return Saved(step, str(directory), seconds, seconds)


@contextmanager
def _gathering(trainer: DeepSpeedTrainer) -> Iterator[Read | None]:
    """Yield what reads tensors to the first worker; the others gather what it reads until it has
    ended, and get None.
    """
    if dist.get_rank():
        while (asked := _told(None)) is not None:
            trainer.state(*asked)
        yield None
        return

    gathers = False

    def read(tensor: TensorSlice, state: str) -> Tensor:
        nonlocal gathers
        _told((tensor, state))
        gathers = True
        found = trainer.state(tensor, state)
        gathers = False
        return found

    try:
        yield read
    except BaseException:
        if not gathers:  # the others wait to be told, and not for this worker's part
            _told(None)
        raise
    _told(None)


def _told(asked: tuple[TensorSlice, str] | None) -> tuple[TensorSlice, str] | None:
    """Return what the first worker tells all."""
    objects = [asked]
    dist.broadcast_object_list(objects, src=0)
    return objects[0]

"""A process that saves checkpoints and is killed with SIGKILL in the middle of it.

``python -m tests.saving_process conversion PLACE MOMENT`` writes step 1, then kills itself while it
writes step 2, at the moment named. ``... ranks PLACE`` lets the ranks of a plan write step after
step until somebody kills it.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moe.checkpoint.drafts import drafted
from moe.checkpoint.manifest import step_directory
from moe.checkpoint.training import WholeState, write_training_checkpoint
from moe.config.tensors import TensorSlice
from moe.storage import Location, location
from tests import plans, runs, saves
from tests.routed import routed

SMALL = routed(layers=2)
LARGE = replace(SMALL, hidden_size=384, ffn_size=1024, vocab_size=4000)
MOMENTS = ("first weight", "middle weight", "last moment", "plan", "manifest")
"""When to die: at tensors of weights or moments, at the plan, at the manifest."""


class Fatal(Mapping[Any, Any]):
    """A table that nobody survives reading."""

    def __init__(self, table: Mapping[Any, Any]) -> None:
        self._table = table

    def __getitem__(self, key: Any) -> Any:
        die()

    def __iter__(self) -> Iterator[Any]:
        die()
        return iter(())

    def __len__(self) -> int:
        return len(self._table)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def convert(to: Location, moment: str, steps: Sequence[int] = (1, 2)) -> None:
    """Write checkpoints of steps, and die while writing step 2, unless the moment is none."""
    tokenizer = Path("nowhere")
    plan = plans.single(SMALL)
    for step in steps:
        whole = saves.Whole.of(SMALL, seed=step)
        about = saves.about(SMALL, tokenizer, plan, step)
        at = moment if step == 2 else ""
        if at == "plan":
            about = replace(about, plan=Fatal(about.plan))
        balance = Fatal({}) if at == "manifest" else whole.state().balance
        weights, moments = Counted(len(whole.weights), at), Counted(len(whole.moments), at)

        def weight(part: TensorSlice, whole: Any = whole, count: Any = weights) -> Tensor:
            count.one("weight")
            return whole.weight(part)

        def moment_of(
            part: TensorSlice, name: str, whole: Any = whole, count: Any = moments
        ) -> Tensor:
            count.one("moment")
            return whole.moment(part, name)

        state = WholeState(weight, moment_of, balance)
        write_training_checkpoint(step_directory(to, step), about, state, 10_000)


class Counted:
    """Counts calls and dies at the one that a moment names."""

    def __init__(self, total: int, moment: str) -> None:
        self._fatal = {"first": 1, "middle": total // 2, "last": total}
        self._moment = moment
        self._seen = 0

    def one(self, kind: str) -> None:
        self._seen += 1
        which, _, own = self._moment.partition(" ")
        if own == kind and self._seen == self._fatal[which]:
            die()


def train(to: Location) -> None:
    """Let two stages of two ranks, twice, write step after step."""
    plan = runs.plan(LARGE, (1, 1), (1, 2), (2, 2))
    for step in range(1, 100):
        whole = saves.Whole.of(LARGE, seed=step)
        with drafted(step_directory(to, step)) as draft:
            saves.write(whole, plan, saves.Cuts(2, step), draft, Path("nowhere"), step)


if __name__ == "__main__":
    to = location(sys.argv[2])
    if sys.argv[1] == "conversion":
        convert(to, sys.argv[3])
    else:
        train(to)

"""A run that grows between two checkpoints: weights, AdamW's moments, and the balance of layers.

A copy begins with the moments of its parent. Where the function is kept, each of r copies of an
expert gets 1 / r of the gradient that the expert had, so its first moment is divided by r and the
second by r squared: the next update of a copy is the update that the expert would have had. At an
unchanged top-k the tokens of an expert divide among its copies in a way that nobody knows before,
and moments are copied as they are. The count of steps stays.
"""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MOMENTS
from moe.checkpoint.training import About, SaveContext, WholeState, write_training_checkpoint
from moe.config.balance_state import BalanceState
from moe.config.run import parse_run
from moe.config.tensors import TensorSlice
from moe.errors import ConfigError
from moe.planning.plan.file import to_dict
from moe.staging import check_room, refuse_existing
from moe.storage import Location
from moe.surgery.growing.expand import GrowthReceipt, compare, growth_receipt, made_by
from moe.surgery.growing.expansion import Expansion, expansion
from moe.surgery.growing.options import ExpandOptions, growth
from moe.surgery.growing.parents import Parents
from moe.surgery.lineage import finite
from moe.surgery.one_rank import one_rank
from moe.surgery.output import Progress
from moe.surgery.receipt import hashes_below, write_receipt
from moe.surgery.text import Texts
from moe.surgery.trained import Counted, TrainingCheckpoint


def expand_checkpoint(
    source: Path,
    to: Path,
    options: ExpandOptions,
    texts: Texts | None = None,
    progress: Progress = lambda done, total: None,
) -> GrowthReceipt:
    """Write a training checkpoint that a run resumes, and a receipt, which is returned."""
    training = TrainingCheckpoint.open(source, "leave --with-optimizer out")
    manifest = training.manifest
    run = parse_run(manifest.run, f"the run in {source}")
    if run.train.orthogonal is not None:
        raise ConfigError(
            f"the run of {source} has projectors (train.orthogonal), which say what other experts "
            "are given and not what copies will be; leave --with-optimizer out, or grow a run "
            "without train.orthogonal"
        )
    if run.train.freeze:
        raise ConfigError(
            f"the run of {source} has frozen parts (train.freeze), which have no moments; leave "
            "--with-optimizer out"
        )
    grown = growth(training.weights.config, options)
    refuse_existing(to)
    made = expansion(training.weights, grown, texts)
    writing = _Writing(training, made, progress)
    check_room(to, writing.counted.total)
    receipts = list[GrowthReceipt]()
    about = About(
        SaveContext(grown.after, run, source, manifest.data),
        plan=to_dict(one_rank(grown.after, "expand")),
        step=manifest.step,
        made=made_by(made, texts),
    )

    def beside(directory: Location) -> None:
        assert isinstance(directory, Path)
        after = Checkpoint.open(directory)
        compared = compare(training.weights, after, grown, texts)
        files = hashes_below(source), hashes_below(directory)
        receipts.append(growth_receipt(training.weights, made, texts, files, compared))
        write_receipt(directory, asdict(receipts[0]))

    write_training_checkpoint(to, about, writing.state(), beside=beside)
    return receipts[0]


class _Writing:
    """Makes each tensor of the larger checkpoint when it is its turn, and counts the bytes."""

    def __init__(self, training: TrainingCheckpoint, made: Expansion, progress: Progress) -> None:
        self._training = training
        self._made = made
        self.counted = Counted(made.grown.after, progress)

    def state(self) -> WholeState:
        """Return readers of tensors, and the balance of layers."""
        parents = self._made.parents
        balance = {
            layer: _divided(state, parents[layer])
            for layer, state in self._training.manifest.balance.items()
        }
        return WholeState(self._weight, self._moment, balance)

    def _weight(self, child: TensorSlice) -> Tensor:
        parent = finite(self._training.weights, self._made.parent_of(child))
        return self.counted.passed(torch.cat(list(self._made.values(child, parent).blocks)))

    def _moment(self, child: TensorSlice, moment: str) -> Tensor:
        found = self._training.moments.read(self._made.parent_of(child), moment).float()
        role, grown = child.role, self._made.grown
        if role.part != "router" and role.expert is None:
            return self.counted.passed(found)
        assert role.layer is not None
        if role.part == "router":
            found = found[list(self._made.parents[role.layer])]
        if grown.options.keep == "function":
            assert grown.copies is not None
            found = found / grown.copies ** (1 + MOMENTS.index(moment))
        return self.counted.passed(found)


def _divided(state: BalanceState, parents: Parents) -> BalanceState:
    """Divide shares and probabilities of an expert evenly among its copies."""
    counts = Counter(parents)

    def among(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[parent] / counts[parent] for parent in parents) if values else ()

    return replace(state, shares=among(state.shares), probabilities=among(state.probabilities))

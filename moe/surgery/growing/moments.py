"""A run that grows between two checkpoints: weights, AdamW's moments, and the balance of layers.

A copy begins with the moments of its parent. Where the function is kept, each of r copies of an
expert gets 1 / r of the gradient that the expert had, so its first moment is divided by r and the
second by r squared: the next update of a copy is the update that the expert would have had. At an
unchanged top-k the tokens of an expert divide among its copies in a way that nobody knows before,
and moments are copied as they are. The count of steps stays.
"""

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from moe.checkpoint.manifest import MANIFEST, Manifest, load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.records import MASTER, MOMENTS
from moe.checkpoint.training import About, SaveContext, WholeState, write_training_checkpoint
from moe.config.balance_state import BalanceState
from moe.config.run import parse_run
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError, ConfigError
from moe.planning.plan.file import to_dict
from moe.staging import check_room, refuse_existing
from moe.storage import Location
from moe.surgery.growing.expand import GrowthReceipt, growth_receipt
from moe.surgery.growing.expansion import Expansion, expansion
from moe.surgery.growing.options import ExpandOptions, growth
from moe.surgery.growing.parents import Parents
from moe.surgery.lineage import finite
from moe.surgery.one_rank import one_rank
from moe.surgery.output import Progress
from moe.surgery.receipt import hashes_below, write_receipt
from moe.surgery.text import Texts

_FLOAT_BYTES = 4


def expand_checkpoint(
    source: Path,
    to: Path,
    options: ExpandOptions,
    texts: Texts | None = None,
    progress: Progress = lambda done, total: None,
) -> GrowthReceipt:
    """Write a training checkpoint that a run resumes, and a receipt, which is returned."""
    training = _Training.open(source)
    grown = growth(training.weights.config, options)
    refuse_existing(to)
    made = expansion(training.weights, grown, texts)
    writing = _Writing(training, made, progress)
    check_room(to, writing.total)
    manifest, receipts = training.manifest, list[GrowthReceipt]()
    run = parse_run(manifest.run, f"the run in {source}")
    if run.train.orthogonal is not None:
        raise ConfigError(
            f"the run of {source} has projectors (train.orthogonal), which say what other experts "
            "are given and not what copies will be; leave --with-optimizer out, or grow a run "
            "without train.orthogonal"
        )
    about = About(
        SaveContext(grown.after, run, source, manifest.data),
        plan=to_dict(one_rank(grown.after, "expand")),
        step=manifest.step,
    )

    def beside(directory: Location) -> None:
        assert isinstance(directory, Path)
        after = Checkpoint.open(directory)
        files = hashes_below(source), hashes_below(directory)
        receipts.append(growth_receipt(training.weights, after, made, texts, files))
        write_receipt(directory, asdict(receipts[0]))

    write_training_checkpoint(to, about, writing.state(), beside=beside)
    return receipts[0]


class _Exact(Checkpoint):
    """A training checkpoint in all its digits: of a bf16 run, the masters."""

    moments: Moments

    def read(self, tensor: TensorSlice) -> Tensor:
        """Return a slice of a tensor in float32."""
        if self.moments.has(tensor, MASTER):
            return self.moments.read(tensor, MASTER)
        return super().read(tensor).float()

    def dtype_of(self, tensor: TensorSlice) -> torch.dtype:
        """The dtype of what is read."""
        return torch.float32


@dataclass(frozen=True, slots=True)
class _Training:
    """What a checkpoint holds: weights in all digits, moments, and the rest in its manifest."""

    weights: _Exact
    moments: Moments
    manifest: Manifest

    @classmethod
    def open(cls, source: Path) -> "_Training":
        """Open a directory; CheckpointError if it is a model and not a training checkpoint."""
        if not (source / MANIFEST).is_file():
            raise CheckpointError(
                f"{source} is no training checkpoint: it has no {MANIFEST}, so there are no "
                "moments to carry over; give a step-... directory of a run, or leave "
                "--with-optimizer out"
            )
        manifest = load_manifest(source)
        weights, moments = _Exact.open(source, manifest), Moments.open(source, manifest)
        weights.moments = moments
        return cls(weights, moments, manifest)


class _Writing:
    """Makes each tensor of the larger checkpoint when it is its turn, and counts the bytes."""

    def __init__(self, training: _Training, made: Expansion, progress: Progress) -> None:
        self._training = training
        self._made = made
        self._progress = progress
        each = (
            (1 + len(MOMENTS) * tensor.role.trained) * tensor.elements
            for tensor in tensors(made.grown.after)
        )
        self.total = _FLOAT_BYTES * sum(each)
        self._done = 0

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
        return self._counted(torch.cat(list(self._made.values(child, parent).blocks)))

    def _moment(self, child: TensorSlice, moment: str) -> Tensor:
        found = self._training.moments.read(self._made.parent_of(child), moment).float()
        role, grown = child.role, self._made.grown
        if role.part != "router" and role.expert is None:
            return self._counted(found)
        assert role.layer is not None
        if role.part == "router":
            found = found[list(self._made.parents[role.layer])]
        if grown.options.keep == "function":
            assert grown.copies is not None
            found = found / grown.copies ** (1 + MOMENTS.index(moment))
        return self._counted(found)

    def _counted(self, value: Tensor) -> Tensor:
        self._done += _FLOAT_BYTES * value.numel()
        self._progress(self._done, self.total)
        return value


def _divided(state: BalanceState, parents: Parents) -> BalanceState:
    """Divide shares and probabilities of an expert evenly among its copies."""
    counts = Counter(parents)

    def among(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(values[parent] / counts[parent] for parent in parents) if values else ()

    return replace(state, shares=among(state.shares), probabilities=among(state.probabilities))

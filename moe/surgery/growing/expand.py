"""A mixture of experts to one with more experts, tensor by tensor.

Each tensor of the source is mapped, the tensors made from it are written a block of rows at a time
and hashed meanwhile; logits are computed from the files of both models. Memory holds a few blocks.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe.checkpoint.card.body import SOURCE, THIS, Measured
from moe.checkpoint.card.card import write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.writer import TensorSpec
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError
from moe.staging import check_room, refuse_existing, staged
from moe.storage import local
from moe.surgery.calibration import probe
from moe.surgery.cores import one_core_spared
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.growing.expansion import Expansion, expansion
from moe.surgery.growing.options import ExpandOptions, Growth, growth
from moe.surgery.held_out import HeldOut, held_out
from moe.surgery.lineage import finite
from moe.surgery.output import Progress, Values, write_model, write_small_files
from moe.surgery.receipt import hashes_of, write_receipt, written
from moe.surgery.streamed import logits
from moe.surgery.text import Texts

MAX_RELATIVE = 1e-4
"""Relative difference of logits above which an exact expansion is refused; rounding is 1e-6."""


@dataclass(frozen=True, slots=True)
class GrowthReceipt:
    """What was asked, read and written; how far the function moved, and why.

    ``parents`` has, for each layer with experts, the number of the expert that each is a copy of.
    ``held_out`` is None if no text was given.
    """

    method: str
    options: dict[str, Any]
    source: str
    source_files: dict[str, str]
    files: dict[str, str]
    parents: dict[int, tuple[int, ...]]
    distance: LogitDistance
    held_out: HeldOut | None
    notes: tuple[str, ...]


def expand(
    source: Path,
    to: Path,
    options: ExpandOptions,
    texts: Texts | None = None,
    progress: Progress = lambda done, total: None,
) -> GrowthReceipt:
    """Write the larger model; return its receipt. ``progress``: bytes written, and the total."""
    checkpoint = Checkpoint.open(source)
    grown = growth(checkpoint.config, options)
    refuse_existing(to)
    made = expansion(checkpoint, grown, texts)
    specs = _specs(checkpoint, made)
    check_room(to, sum(spec.bytes for spec in specs))
    with one_core_spared(), staged(to) as staging:
        write_small_files(staging, checkpoint, grown.after)
        shards = write_model(staging, specs, _values(checkpoint, made), progress)
        after = Checkpoint.open(staging)
        compared = compare(checkpoint, after, grown, texts)
        write_card(staging, [source], grown.after, made_by(made, texts), compared.losses)
        files = hashes_of(checkpoint), written(staging, shards)
        receipt = growth_receipt(checkpoint, made, texts, files, compared)
        write_receipt(staging, asdict(receipt))
    return receipt


@dataclass(frozen=True, slots=True)
class Compared:
    """How far the larger model is from the smaller; ``held_out`` is None if no text was given."""

    distance: LogitDistance
    held_out: HeldOut | None

    @property
    def losses(self) -> tuple[Measured, ...]:
        """The losses in the form of a card."""
        if self.held_out is None:
            return ()
        before = Measured(SOURCE, self.held_out.loss_before, self.held_out.source)
        return before, Measured(THIS, self.held_out.loss_after, self.held_out.source)


def compare(before: Checkpoint, after: Checkpoint, grown: Growth, texts: Texts | None) -> Compared:
    """Compare the models; CheckpointError if an exact expansion changed the function."""
    text = texts.held_out if texts else None
    distance = measured(before, after, grown)
    return Compared(distance, held_out(before, after, text) if text else None)


def made_by(made: Expansion, texts: Texts | None) -> Made:
    """Return what a card tells of an expansion."""
    read = texts.calibration.record() if texts else None
    data = {} if read is None else {str(read["source"]): str(read["sha256"])}
    return Made("expand", made.grown.record(), data)


def growth_receipt(
    before: Checkpoint,
    made: Expansion,
    texts: Texts | None,
    files: tuple[dict[str, str], dict[str, str]],
    compared: Compared,
) -> GrowthReceipt:
    """Return the receipt; ``files`` are the hashes of what was read and of what was written."""
    grown = made.grown
    return GrowthReceipt(
        method="expand",
        options=grown.record() | {"calibration": texts.calibration.record() if texts else None},
        source=local(before.path).resolve().name,
        source_files=files[0],
        files=files[1],
        parents=dict(made.parents),
        distance=compared.distance,
        held_out=compared.held_out,
        notes=(*before.notes, *why(grown)),
    )


def measured(before: Checkpoint, after: Checkpoint, grown: Growth) -> LogitDistance:
    """Compare the logits on random tokens; CheckpointError if an exact expansion changed them."""
    tokens = probe(grown.before, grown.options.seed, grown.options.probe_tokens)
    distance = logit_distance(logits(before, tokens), logits(after, tokens))
    if not distance.finite or (grown.exact and distance.relative >= MAX_RELATIVE):
        raise CheckpointError(
            f"the logits of {before.path} and of the model with more experts differ by "
            f"{distance.relative:.1e} of the largest, and should be equal; nothing was written: "
            "check the source with `raymoe evaluate`"
            if grown.exact
            else f"the logits of {before.path} with more experts are not finite; nothing was "
            "written: check the source with `raymoe evaluate`"
        )
    return distance


def why(grown: Growth) -> tuple[str, ...]:
    """Return the sentence that says why the function moved; none if it did not."""
    moe, options = grown.before.moe, grown.options
    assert moe is not None
    if grown.exact:
        return ()
    if options.apart:
        return (
            "the function moves for tokens near the boundary between two copies, about one in "
            "twenty: there the copies of one expert push another out of the top-k",
        )
    if moe.top_k == 1:
        return (f"the function moves because of the noise of {grown.noise:g} on the copies alone",)
    return (
        f"a token still takes {moe.top_k} experts and copies of an expert have nearly equal "
        "logits, so copies of its best experts take the places of its others: no weights keep the "
        f"function at this top-k; --keep function keeps it at a larger one, --apart nearly, at "
        f"{moe.top_k}",
    )


def _specs(source: Checkpoint, made: Expansion) -> list[TensorSpec]:
    """Return the tensors of the larger model in file order, as they are grouped by parent."""
    family = made.grown.after.family
    return [
        TensorSpec(disk_name(family, child.name), child.shape, source.dtype_of(parent))
        for parent, children in _lines(source, made)
        for child in children
    ]


def _values(source: Checkpoint, made: Expansion) -> Iterator[Values]:
    for parent, children in _lines(source, made):
        weight = finite(source, parent)
        for child in children:
            yield made.values(child, weight)


def _lines(source: Checkpoint, made: Expansion) -> list[tuple[TensorSlice, list[TensorSlice]]]:
    """Return each tensor of the source and what is made from it, wide dtypes first."""
    found: dict[TensorSlice, list[TensorSlice]] = {}
    for child in tensors(made.grown.after):
        found.setdefault(made.parent_of(child), []).append(child)
    return sorted(found.items(), key=lambda line: -source.dtype_of(line[0]).itemsize)

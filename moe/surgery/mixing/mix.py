"""Dense models of one architecture to one mixture of experts, tensor by tensor.

Each expert is the feed-forward of one model; the rest is of one model or the mean. Tensors are
mapped, written a block of rows at a time and hashed meanwhile, as an upcycling is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moe.checkpoint.card.card import write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.writer import TensorSpec
from moe.config.model import ModelConfig
from moe.config.tensors import TensorSlice
from moe.errors import CheckpointError, ConfigError
from moe.staging import check_room, refuse_existing, staged
from moe.storage import local
from moe.surgery.calibration import probe
from moe.surgery.cores import one_core_spared
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.lineage import Lineage, finite, lineages
from moe.surgery.mixing.alike import check_alike
from moe.surgery.mixing.options import MixOptions
from moe.surgery.mixing.rows import prompt_rows
from moe.surgery.mixing.trunk import trunk
from moe.surgery.options import upcycled_config
from moe.surgery.output import Progress, Values, write_model, write_small_files
from moe.surgery.part import Cut, Part
from moe.surgery.receipt import hashes_of, write_receipt, written
from moe.surgery.routers import gate_of, new_tensor
from moe.surgery.seeds import generator
from moe.surgery.streamed import logits


@dataclass(frozen=True, slots=True)
class MixSource:
    """A model that was read: the SHA-256 of its files, and how far the logits of the mixture are
    from its own; ``distance`` is None for a base that is no expert.
    """

    source: str
    source_files: dict[str, str]
    distance: LogitDistance | None


@dataclass(frozen=True, slots=True)
class MixReceipt:
    """What was mixed into what; ``sources`` in the order of the experts, then the base."""

    method: str
    options: dict[str, Any]
    seed: int
    sources: tuple[MixSource, ...]
    files: dict[str, str]
    notes: tuple[str, ...]


def mix(
    models: Sequence[Path],
    to: Path,
    options: MixOptions,
    progress: Progress = lambda done, total: None,
) -> MixReceipt:
    """Write the mixture; return its receipt. ``progress``: bytes written, and the total."""
    if len(models) < 2:
        raise ConfigError("a mixture needs at least two models; for one, choose the method copy")
    mixing = _Mixing.of([Checkpoint.open(path) for path in models], options)
    refuse_existing(to)
    check_room(to, sum(spec.bytes for spec in mixing.specs))
    rows = mixing.prompted()
    with one_core_spared(), staged(to) as staging:
        write_small_files(staging, mixing.head, mixing.config)
        write_card(staging, mixing.sources, mixing.config, mixing.made)
        shards = write_model(staging, mixing.specs, mixing.values(rows), progress)
        mixed = logits(Checkpoint.open(staging), mixing.probe)
        receipt = mixing.receipt(written(staging, shards), mixed)
        write_receipt(staging, asdict(receipt))
    return receipt


@dataclass(frozen=True, slots=True)
class _Mixing:
    """``head`` is the model whose format, types and tokenizer the mixture has; ``trunk`` are the
    models whose mean is the trunk.
    """

    models: Sequence[Checkpoint]
    head: Checkpoint
    trunk: Sequence[Checkpoint]
    config: ModelConfig
    options: MixOptions
    lineages: list[Lineage]

    @classmethod
    def of(cls, models: Sequence[Checkpoint], options: MixOptions) -> "_Mixing":
        """Check the models against each other and against the options."""
        head = models[0] if options.base is None else Checkpoint.open(options.base)
        check_alike([head, *models])
        config = upcycled_config(head.config, options.upcycle)
        shared = models if options.average else [head]
        return cls(models, head, shared, config, options, lineages(head, config))

    @property
    def specs(self) -> list[TensorSpec]:
        """The tensors of the mixture in file order."""
        family = self.config.family
        return [
            TensorSpec(disk_name(family, child.name), child.shape, lineage.dtype)
            for lineage in self.lineages
            for child in lineage.children
        ]

    @property
    def sources(self) -> list[Path]:
        """The directories that were read, that of the head first."""
        return list(dict.fromkeys(local(each.path) for each in (self.head, *self.models)))

    @property
    def made(self) -> Made:
        """What the card tells of this mixture."""
        return Made("mix", self.options.record(self.config))

    @property
    def probe(self) -> Tensor:
        """The tokens [1, S] on which the models are compared."""
        options = self.options.upcycle
        return probe(self.config, options.seed, options.probe_tokens)

    def prompted(self) -> Mapping[int, Tensor]:
        """Return the routers by layer, if they come from prompts.

        The base reads the prompts of all experts. A mean of models is not made to be run without
        experts, so there each model reads its own.
        """
        if not self.options.prompts:
            return {}
        readers = self.models if self.options.average else [self.head] * len(self.models)
        return prompt_rows(readers, self.options.prompts, self.options.upcycle.deviation)

    def values(self, rows: Mapping[int, Tensor]) -> Iterator[Values]:
        """Yield the blocks of every tensor, grouped by the dense tensor that they come from."""
        for lineage in self.lineages:
            for child in lineage.children:
                yield self._made(child, lineage, rows)

    def receipt(self, files: dict[str, str], mixed: Tensor) -> MixReceipt:
        """Return the receipt; ``mixed`` are the logits of the mixture."""
        apart = [] if self.options.base is None else [_source(self.head, None)]
        read = (*self.models, *([self.head] if apart else []))
        experts = [_source(model, self._distance(model, mixed)) for model in self.models]
        return MixReceipt(
            method="mix",
            options=self.options.record(self.config),
            seed=self.options.upcycle.seed,
            sources=(*experts, *apart),
            files=files,
            notes=tuple(dict.fromkeys(note for each in read for note in each.notes)),
        )

    def _distance(self, model: Checkpoint, mixed: Tensor) -> LogitDistance:
        """Compare logits; CheckpointError if some are not finite."""
        found = logit_distance(logits(model, self.probe), mixed)
        if not found.finite:
            raise CheckpointError(
                f"the logits of {model.path} or of the mixture are not finite; nothing was "
                "written: check the models with `raymoe evaluate`"
            )
        return found

    def _made(self, child: TensorSlice, lineage: Lineage, rows: Mapping[int, Tensor]) -> Values:
        role, parent = child.role, lineage.parent
        if parent is None:
            assert role.layer is not None
            value = rows.get(role.layer) if role.part == "router" else None
            return Values([(self._new(child) if value is None else value).to(lineage.dtype)])
        if role.expert is None:
            return trunk(self.trunk, parent, lineage.dtype)
        assert self.config.moe is not None
        gain = self.options.upcycle.method.gain(self.config.moe) / self.config.moe.scale
        part, weight = Part(gain=gain), finite(self.models[role.expert], parent)
        blocks = part.blocks(role, weight, generator(self.options.upcycle.seed, child.name))
        same = weight.dtype == lineage.dtype
        return Values((block.to(lineage.dtype) for block in blocks), same and part.copies(role))

    def _new(self, child: TensorSlice) -> Tensor:
        layer = child.role.layer
        assert layer is not None
        return new_tensor(child, Cut(()), gate_of(self.head, layer), self.options.upcycle)


def _source(model: Checkpoint, distance: LogitDistance | None) -> MixSource:
    return MixSource(local(model.path).resolve().name, hashes_of(model), distance)

"""An adapter out of the checkpoint of a run with LoRA, and an adapter into its model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from moe.checkpoint.adapters.files import WEIGHTS, AdapterFiles
from moe.checkpoint.adapters.saved import SavedFactors
from moe.checkpoint.adapters.settings import NAME
from moe.checkpoint.adapters.writing import write_adapter
from moe.checkpoint.card.card import write_card
from moe.checkpoint.card.steps import Made
from moe.checkpoint.manifest import MANIFEST, load_manifest
from moe.checkpoint.names import disk_name
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.writer import TensorSpec
from moe.config.adapters import Group, groups, outputs
from moe.config.families import read_config
from moe.config.json_file import read_json
from moe.config.run import parse_run, tuned_model
from moe.config.share import whole
from moe.config.tensors import TensorSlice, tensors
from moe.errors import CheckpointError, ConfigError
from moe.staging import check_room, refuse_existing, staged
from moe.surgery.blocks import spans
from moe.surgery.calibration import probe
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.lineage import finite
from moe.surgery.output import Progress, Values, write_model, write_small_files
from moe.surgery.receipt import Receipt, hashes, hashes_of, written
from moe.surgery.streamed import logits

_METHOD = "merge-adapter"
_PROBE_TOKENS = 64
"""Tokens on which the logits of the model before and after are compared."""


class _Added(NamedTuple):
    """A group of weights to which an adapter adds, and the rows of one of them within it."""

    group: Group
    first: int
    rows: int


def export_adapter(checkpoint: Path, to: Path) -> None:
    """Write what a run with LoRA has trained, a step-... directory, as an adapter of ``peft``."""
    if not (checkpoint / MANIFEST).is_file():
        raise CheckpointError(
            f"{checkpoint} is no checkpoint of a run: it has no {MANIFEST}; give a step-... "
            "directory of a run with [train.lora]"
        )
    manifest = load_manifest(checkpoint)
    run = parse_run(manifest.run, f"the run in {checkpoint}")
    if run.train.lora is None:
        raise ConfigError(
            f"{checkpoint} is of a run without [train.lora], which has trained the model itself: "
            "the directory is a model, take it as it is"
        )
    config = tuned_model(run, read_config(read_json(checkpoint / "config.json")))
    refuse_existing(to)
    with staged(to) as staging:
        read = SavedFactors(checkpoint, manifest, config.family).read
        write_adapter(staging, config, read, str(run.model.path))


def merge_adapter(
    model: Path, adapter: Path, to: Path, progress: Progress = lambda done, total: None
) -> LogitDistance:
    """Write a model with what an adapter adds to its weights, and a receipt; return how far the
    logits have moved.

    A sum is made in float32 and rounded once to the type of the weight. ``progress`` is called with
    the bytes written and the total.
    """
    base = Checkpoint.open(model)
    files = AdapterFiles(adapter, base.config)
    added = dict(_added(base, files))
    parts = sorted(tensors(base.config), key=lambda each: -base.dtype_of(each).itemsize)
    names = [disk_name(base.config.family, each.name) for each in parts]
    specs = [
        TensorSpec(name, each.shape, base.dtype_of(each))
        for name, each in zip(names, parts, strict=True)
    ]
    refuse_existing(to)
    check_room(to, sum(spec.bytes for spec in specs))
    with staged(to) as staging, ThreadPoolExecutor(1) as thread:
        write_small_files(staging, base, base.config)
        values = (_values(base, files, each, added.get(each.name)) for each in parts)
        shards = write_model(staging, specs, values, progress)
        inputs = thread.submit(hashes_of, base)
        tokens = probe(base.config, 0, _PROBE_TOKENS)
        moved = logit_distance(logits(base, tokens), logits(Checkpoint.open(staging), tokens))
        if not moved.finite:
            raise CheckpointError(
                f"{model} with what {adapter} adds to it computes NaN or infinity; give an adapter "
                "whose numbers are not that large"
            )
        name = adapter.resolve().name
        write_card(staging, [model], base.config, Made(_METHOD, {"adapter": name}))
        of_adapter = hashes((adapter / NAME, adapter / WEIGHTS))
        Receipt(
            method=_METHOD,
            options={"adapter": name, "adapter_files": of_adapter},
            seed=0,
            source=model.resolve().name,
            source_files=inputs.result(),
            files=written(staging, shards),
            distance=moved,
            notes=base.notes,
        ).save(staging)
    return moved


def _added(base: Checkpoint, files: AdapterFiles) -> Iterator[tuple[str, _Added]]:
    """Yield the weights that an adapter adds to, by name."""
    for group in groups(base.config, whole(base.config)):
        if files.rank(group):
            for number, member in enumerate(group):
                yield member.name, _Added(group, outputs(group[:number]), member.shape[0])


def _values(
    base: Checkpoint, files: AdapterFiles, part: TensorSlice, added: _Added | None
) -> Values:
    weight = finite(base, part)
    if added is None:
        return Values((weight[start:stop] for start, stop in spans(weight)), mapped=True)
    return Values(_sums(files, part, weight, added))


def _sums(
    files: AdapterFiles, part: TensorSlice, weight: Tensor, added: _Added
) -> Iterator[Tensor]:
    """Yield the blocks of rows of a weight with what is added to it."""
    factors = files.read(added.group)
    assert factors is not None
    down_RK, up_NR = factors
    own_NR = up_NR[added.first : added.first + added.rows]
    for start, stop in spans(weight):
        block = torch.addmm(weight[start:stop].float(), own_NR[start:stop], down_RK)
        if not block.isfinite().all():
            raise CheckpointError(
                f"{part.name} with what {files.directory} adds to it has NaN or infinity; give an "
                "adapter whose numbers are finite"
            )
        yield block.to(weight.dtype)

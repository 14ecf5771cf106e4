"""A dense model to a mixture of experts, tensor by tensor (Skywork-MoE section 3).

A method chooses for every expert its columns of the dense feed-forward, a factor and a change
(``moe.surgery.part``); routers are new; all other tensors are kept. The new tensors are streamed:
each dense tensor is mapped once, the tensors made from it are written a block of rows at a time and
hashed meanwhile, and the logits of both models are computed from their files, those of the dense
model in a second thread. Memory holds a few blocks.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from math import frexp
from pathlib import Path

import torch
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
from moe.surgery.calibration import Calibration, calibrated, probe
from moe.surgery.cores import one_core_spared
from moe.surgery.cutter import Cutter
from moe.surgery.distance import LogitDistance, logit_distance
from moe.surgery.lineage import Lineage, finite, lineages
from moe.surgery.options import UpcycleOptions, upcycled_config
from moe.surgery.output import Progress, Values, write_model, write_small_files
from moe.surgery.receipt import Receipt, hashes_of, written
from moe.surgery.routers import gate_of, new_tensor
from moe.surgery.seeds import generator
from moe.surgery.streamed import logits

__all__ = ["UpcycleOptions", "upcycle"]

MAX_RELATIVE = 1e-4
"""Relative difference of logits above which an exact conversion is refused.

float32 rounding leaves about 1e-6. One bound serves every dtype: weights are copied bit for bit and
both models are computed in float32, so the dtype on disk does not matter.
"""


def upcycle(
    source: Path,
    to: Path,
    options: UpcycleOptions,
    progress: Progress = lambda done, total: None,
    calibration: Calibration | None = None,
) -> Receipt:
    """Write the mixture-of-experts form of a dense model directory; return its receipt.

    ``progress`` is called with the bytes written and the total. ``calibration`` is for methods that
    measure activity; the default is random tokens.
    """
    dense = Checkpoint.open(source)
    config = upcycled_config(dense.config, options)
    calibration = calibrated(dense.config, options, calibration)
    job = _Upcycling(dense, config, options, calibration, lineages(dense, config))
    job.check_gain()
    refuse_existing(to)
    check_room(to, job.bytes)
    cores = nullcontext() if options.method.measures else one_core_spared()
    with cores, staged(to) as staging, ThreadPoolExecutor(1) as thread:
        shards = job.write(staging, progress)
        before = thread.submit(logits, dense, job.probe)
        inputs = thread.submit(hashes_of, dense)
        after = logits(Checkpoint.open(staging), job.probe)
        distance = job.distance(before.result(), after)
        receipt = job.receipt(inputs.result(), written(staging, shards), distance)
        receipt.save(staging)
    return receipt


@dataclass(frozen=True, slots=True)
class _Upcycling:
    """One conversion: its source, its result and its options."""

    dense: Checkpoint
    config: ModelConfig
    options: UpcycleOptions
    calibration: Calibration | None
    lineages: list[Lineage]

    @property
    def bytes(self) -> int:
        """Size of the weights of the new model, in bytes."""
        return sum(spec.bytes for spec in self._specs)

    def check_gain(self) -> None:
        """Raise ConfigError if an exact method would have to round multiplied weights."""
        assert self.config.moe is not None
        gain = self.options.method.gain(self.config.moe) / self.config.moe.scale
        rounds = self.dense.dtype != torch.float32 and frexp(gain)[0] != 0.5
        if self._exact and rounds:
            raise ConfigError(
                f"down projections would be multiplied by {gain:g}, which {self.dense.dtype} "
                "rounds; choose a power of two, or --family raymoe, which scales routed sums"
            )

    def write(self, directory: Path, progress: Progress) -> dict[str, Future[str]]:
        """Write everything but the receipt; return a future of the SHA-256 of each shard."""
        write_small_files(directory, self.dense, self.config)
        write_card(directory, [local(self.dense.path)], self.config, self.made)
        return write_model(directory, self._specs, self._values(), progress)

    @property
    def made(self) -> Made:
        """What the card tells of this conversion."""
        read = self.calibration.record() if self.calibration else None
        data = {} if read is None else {str(read["source"]): str(read["sha256"])}
        method = f"upcycle ({self.options.method.name})"
        return Made(method, self.options.record(self.config), data)

    @property
    def probe(self) -> Tensor:
        """The tokens [1, S] on which both models are compared."""
        return probe(self.config, self.options.seed, self.options.probe_tokens)

    def distance(self, before: Tensor, after: Tensor) -> LogitDistance:
        """Compare the logits; CheckpointError if an exact method changed them."""
        distance = logit_distance(before, after)
        _check(distance, local(self.dense.path), self.options, self._exact)
        return distance

    def receipt(
        self, inputs: dict[str, str], files: dict[str, str], distance: LogitDistance
    ) -> Receipt:
        """Return the receipt."""
        measured = self.calibration.record() if self.calibration else None
        return Receipt(
            method=self.options.method.name,
            options=self.options.record(self.config) | {"calibration": measured},
            seed=self.options.seed,
            source=local(self.dense.path).resolve().name,
            source_files=inputs,
            files=files,
            distance=distance,
            notes=self.dense.notes,
        )

    @property
    def _exact(self) -> bool:
        assert self.config.moe is not None
        return self.options.method.exact(self.config.moe, self.options.router)

    @property
    def _specs(self) -> list[TensorSpec]:
        family = self.config.family
        return [
            TensorSpec(disk_name(family, child.name), child.shape, lineage.dtype)
            for lineage in self.lineages
            for child in lineage.children
        ]

    def _values(self) -> Iterator[Values]:
        """Yield the blocks of every tensor of the new model, grouped by parent."""
        cutter = Cutter(self.dense, self.config, self.options, self.calibration)
        for lineage in self.lineages:
            if lineage.parent is None:
                yield from (Values([self._new(child, cutter)]) for child in lineage.children)
                continue
            weight = finite(self.dense, lineage.parent)
            for child in lineage.children:
                part, seed = cutter.part(child), generator(self.options.seed, child.name)
                yield Values(part.blocks(child.role, weight, seed), part.copies(child.role))

    def _new(self, tensor: TensorSlice, cutter: Cutter) -> Tensor:
        layer = tensor.role.layer
        assert layer is not None
        gate = gate_of(self.dense, layer)
        value = new_tensor(tensor, cutter.cut(layer), gate, self.options)
        return value.to(self.dense.dtype)


def _check(distance: LogitDistance, source: Path, options: UpcycleOptions, exact: bool) -> None:
    """Raise CheckpointError unless the logits are finite and, for exact methods, equal."""
    asked = f"router_std = {options.deviation} and gate_norm = {options.gate_norm}"
    if not distance.finite:
        raise CheckpointError(
            f"the logits of {source} or of its mixture-of-experts form with {asked} are not "
            f"finite (largest difference {distance.max_absolute}); lower these two, or check the "
            "source with `raymoe evaluate`"
        )
    if exact and distance.relative >= MAX_RELATIVE:
        raise CheckpointError(
            f"the mixture-of-experts form of {source} with {asked} computes different logits: "
            f"they differ by {distance.relative:.1e} of the largest and rounding explains less "
            "than "
            f"{MAX_RELATIVE:.0e}; nothing was written, lower these two"
        )

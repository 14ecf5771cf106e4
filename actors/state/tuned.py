"""The source of a run that trains a part of its model, or factors beside it.

Frozen tensors never change, so they are read from the directory of the model at all times: when a
run begins, resumes, heals or changes its plan. No rank sends, copies or takes snapshots of them.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from actors.state.sources import CheckpointSource, ModelSource, Opened, Progress, Source
from moe.checkpoint.adapters.saved import SavedFactors
from moe.checkpoint.adapters.start import Start
from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.moments import Moments
from moe.checkpoint.overlaps import narrowed
from moe.checkpoint.reader import Checkpoint
from moe.config.model import ModelConfig
from moe.config.ranges import TensorRange
from moe.config.run import RunConfig, tuned_model
from moe.config.tensors import TensorSlice
from moe.nn.build import ReadTensor
from moe.storage import Location
from moe.surgery.initialise import initial_factor


def source_of(run: RunConfig, saved: Location | None) -> Source:
    """Return where the ranks of a run read: its newest checkpoint, if there is one, its model."""
    if run.train.tuning is not None:
        return TunedSource(run, saved)
    return _of_all(run, saved)


@dataclass(frozen=True, slots=True)
class TunedSource:
    """The model of a run and, once some steps are ``saved``, what has changed since."""

    run: RunConfig
    saved: Location | None = None

    def config(self) -> ModelConfig:
        """Return the architecture with what of it is trained."""
        return tuned_model(self.run, Checkpoint.open(self.run.model.path).config)

    def open(self) -> Opened:
        """Open the model, and the checkpoint if there is one."""
        model = Checkpoint.open(self.run.model.path)
        config = tuned_model(self.run, model.config)
        factors = self.run.train.lora is not None
        opened = self._factors(config) if factors else _of_all(self.run, self.saved).open()

        def read_weight(part: TensorSlice) -> Tensor:
            return model.read(part) if part.role.frozen else opened.read_weight(part)

        def read_master(own: TensorRange) -> Tensor | None:
            return None if own.part.role.frozen else opened.read_master(own)

        return replace(
            opened,
            config=config,
            read_weight=read_weight,
            read_master=read_master,
            frozen=self.run.model.path,
        )

    def _factors(self, config: ModelConfig) -> Opened:
        """Open the factors alone, which are float32 and have no masters."""
        if self.saved is None:
            return Opened(config, self._beginning(config), _no_master)
        manifest = load_manifest(self.saved)
        moments = Moments.open(self.saved, manifest)
        read = SavedFactors(self.saved, manifest, config.family).read
        progress = Progress(manifest.step, manifest.balance, moments.read_range)
        return Opened(config, read, _no_master, progress, manifest.products)

    def _beginning(self, config: ModelConfig) -> ReadTensor:
        section = self.run.train.lora
        assert section is not None
        if section.start is not None:
            return Start(config, section.start).read

        def drawn(part: TensorSlice) -> Tensor:
            return narrowed(initial_factor(part, section.seed), part)

        return drawn


def _of_all(run: RunConfig, saved: Location | None) -> ModelSource | CheckpointSource:
    return ModelSource(run.model.path) if saved is None else CheckpointSource(saved)


def _no_master(own: TensorRange) -> Tensor | None:
    return None

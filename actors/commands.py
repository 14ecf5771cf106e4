"""Values that travel between the engine and its actors: commands down, reports up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.config.run import RunConfig
from moe.config.sampling import Sampling
from moe.config.share import Share
from moe.planning.plan import Plan
from moe.storage import Place


@dataclass(frozen=True, slots=True)
class BuildCommand:
    """What a rank is made of: its part of the plan.

    ``rank`` counts the ranks of all replicas. ``run`` is None where the actors only serve.
    ``checkpoint`` is a model directory; with ``resume`` it is one a run wrote, and optimiser,
    balance and step are taken from it too.
    """

    name: str
    checkpoint: Place
    plan: Plan
    rank: int
    sequence_length: int
    run: RunConfig | None = None
    resume: bool = False

    @property
    def replica(self) -> int:
        """The replica of this rank."""
        return self.rank // self.plan.ranks

    @property
    def place(self) -> int:
        """Its number among the ranks of its replica."""
        return self.rank % self.plan.ranks

    @property
    def stage(self) -> int:
        """Its stage."""
        return self.place // self.plan.gang_size

    @property
    def share(self) -> Share:
        """The share of this rank."""
        return self.plan.share(self.place)

    @property
    def threads(self) -> int:
        """CPU threads that this rank computes with."""
        return self.plan.rank(self.place).threads

    @property
    def unlike(self) -> bool:
        """Whether the members of its gang differ in kind or threads, and so may round differently.

        A gang is on one node, so CPUs of one kind are the same CPU.
        """
        ranks = self.plan.stages[self.stage].ranks
        return len({(rank.kind, rank.threads) for rank in ranks}) > 1

    @property
    def recompute(self) -> frozenset[int]:
        """Layers whose activations training makes again instead of keeping them."""
        return frozenset(self.plan.stages[self.stage].recompute)


@dataclass(frozen=True, slots=True)
class StepInput:
    """A global batch, or a replica's part of it: tokens [B, S] to embed, labels [B, S] to predict.

    A model that hashes tokens to experts needs them on every stage. Labels of -100 do not count;
    ``label_count`` is how many do in the whole global batch.
    """

    step: int
    tokens: NDArray[np.int32] | None
    labels: NDArray[np.int32] | None
    label_count: int


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Routing of one layer over one step. ``load`` counts assignments by expert.

    Losses are without their coefficients, None where they have none.
    """

    load: tuple[int, ...]
    drop_rate: float
    coefficient: float
    balance_loss: float
    sharpness: float
    z_loss: float | None = None
    device_loss: float | None = None


@dataclass(frozen=True, slots=True)
class StageReport:
    """One rank's account of one step; ``loss``, that of all replicas, is None but with the head.

    ``busy_seconds`` is the time of the whole step on this rank, ``peak_bytes`` the most memory its
    process ever held.
    """

    rank: int
    step: int
    loss: float | None
    gradient_norm: float
    learning_rate: float
    layers: dict[int, LayerReport]
    busy_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of the whole run. Loss in nats per token; ``seconds`` as the driver saw it."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    layers: dict[int, LayerReport]
    peak_bytes: tuple[int, ...]

    @property
    def drop_rate(self) -> float:
        """Mean drop rate over the layers; 0 without experts."""
        rates = [layer.drop_rate for layer in self.layers.values()]
        return sum(rates) / len(rates) if rates else 0.0


@dataclass(frozen=True, slots=True)
class InferInput:
    """New tokens of one sequence; ``sampling`` chooses the token that follows them.

    Tokens are appended to what the ranks hold of ``sequence``; ``position`` is how many they must
    hold before, so that a lost or repeated command is noticed.
    """

    sequence: str
    tokens: tuple[int, ...]
    position: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class RankStatus:
    """What a rank holds now: its epoch, the last step it finished, and the report of that step.

    ``built`` is false while its weights are not there yet, ``joined`` while it is in no epoch.
    ``busy`` tells that a command runs, ``torn`` that one failed with its weights half updated, and
    ``saving`` is the step of a snapshot taken, or asked for, and not written. ``replicas`` is of
    how many its plan has; ``needs_tokens`` tells that its training steps take token numbers.
    """

    rank: int
    built: bool
    epoch: int
    joined: bool
    step: int
    report: StageReport | None
    pid: int
    replicas: int = 1
    needs_tokens: bool = False
    busy: bool = False
    torn: bool = False
    saving: int | None = None

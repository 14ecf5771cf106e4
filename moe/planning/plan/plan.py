"""The Plan: who holds which layers, heads and experts, and which layers are recomputed. A value.

Everything downstream is built from it: actors, placement, checkpoints, manifests, reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.errors import PlanError
from moe.planning import tables
from moe.planning.devices.inventory import CPU, check_one_backend
from moe.planning.devices.needs import Labels, Resources, check_needs
from moe.planning.plan import checks
from moe.planning.plan.chunks import check_fits, chunk_homes, is_folded
from moe.planning.plan.seats import Seat, Seats
from moe.planning.schedules.schedule import check_schedule

SIZES = (
    "layers",
    "hidden_size",
    "heads",
    "kv_heads",
    "ffn_size",
    "experts",
    "shared_size",
    "vocab_size",
)


@dataclass(frozen=True, slots=True)
class RankPlan:
    """One member of a gang: its devices, by their names in the inventory, and its slice of a layer.

    ``devices`` has one name for every replica of the pipeline, all of one ``kind`` (``cpu`` or a
    GPU model) and used with as many CPU ``threads``. ``kv_heads`` and ``ffn`` are half-open spans,
    ``experts`` expert numbers. ``vocabulary`` are rows of embedding and head; None is all of them.
    ``memory_bytes`` of its node, 0 for none, ``resources`` and ``labels``
    (``moe.planning.devices.needs``) are what it asks of a cluster beside its threads and its GPU,
    which is on a node that Ray marks with ``accelerator``; empty: with the usual word for the kind.
    """

    devices: tuple[str, ...]
    kv_heads: tuple[int, int]
    ffn: tuple[int, int]
    experts: tuple[int, ...]
    threads: int = 1
    kind: str = CPU
    vocabulary: tuple[int, int] | None = None
    memory_bytes: int = 0
    resources: Resources = ()
    labels: Labels = ()
    accelerator: str = ""

    @property
    def device(self) -> str:
        """The device in the first replica."""
        return self.devices[0]


@dataclass(frozen=True, slots=True)
class LayerExperts:
    """The experts that each gang member holds of one layer, instead of its rank's ``experts``."""

    layer: int
    experts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Consecutive layers ``(start, stop)`` and the gang of ranks that holds them.

    ``more`` are further spans of layers that the gang holds, in the order of the model, where the
    model goes through the stages more than once. ``recompute`` are the layers whose activations are
    made again in the backward pass instead of being kept. ``seconds`` is the predicted time of one
    micro-batch, forward and backward; 0 if not predicted.
    """

    layers: tuple[int, int]
    ranks: tuple[RankPlan, ...]
    seconds: float = 0.0
    recompute: tuple[int, ...] = ()
    expert_layout: tuple[LayerExperts, ...] = ()
    more: tuple[tuple[int, int], ...] = ()

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """All spans of layers, in the order of the model."""
        return (self.layers, *self.more)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """Numbers of the layers held, in order."""
        return tuple(chain.from_iterable(range(*span) for span in self.spans))


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in pipeline order for one model; ``model`` repeats the sizes it was made for.

    Every replica has the same stages, so what a rank holds is said once, for all of them.
    """

    model: Mapping[str, int]
    stages: tuple[StagePlan, ...]

    def __post_init__(self) -> None:
        tables.check_keys("the plan's model", self.model, SIZES)
        if not self.stages or not self.stages[0].ranks:
            raise PlanError("the plan has no stage or no rank; give it at least one of each")
        checks.check_layers([stage.spans for stage in self.stages], self.model["layers"])
        for number, stage in enumerate(self.stages):
            self._check_gang(number, stage)
            self._check_layers_of(number, stage)
        self._check_replicas()

    @property
    def gang_size(self) -> int:
        """Ranks of each stage."""
        return len(self.stages[0].ranks)

    @property
    def replicas(self) -> int:
        """Copies of the whole pipeline, each on devices of its own."""
        return len(self.stages[0].ranks[0].devices)

    @property
    def seats(self) -> Seats:
        """Where the ranks of all replicas sit, in the order of their numbers."""
        return Seats(self.replicas, len(self.stages), self.gang_size)

    @property
    def ranks(self) -> int:
        """Ranks of one replica."""
        return len(self.stages) * self.gang_size

    @property
    def chunks(self) -> int:
        """Spans of layers of each stage; the model goes through the stages as many times."""
        return len(self.stages[0].spans)

    @property
    def folded(self) -> bool:
        """Whether chunks lie on a V (stage s holds s and 2p - 1 - s); on one stage any two do."""
        return is_folded([stage.spans for stage in self.stages], self.model["layers"])

    @property
    def chunk_homes(self) -> tuple[tuple[int, int], ...]:
        """The stage of each chunk, and which of its spans it is, along the model."""
        return chunk_homes(len(self.stages), self.chunks, self.folded)

    @property
    def chunk_spans(self) -> tuple[tuple[int, int], ...]:
        """The layers of each chunk, along the model."""
        return tuple(self.stages[stage].spans[span] for stage, span in self.chunk_homes)

    @property
    def homes(self) -> tuple[int, ...]:
        """The stage of each chunk, along the model."""
        return tuple(stage for stage, _ in self.chunk_homes)

    def home(self, chunk: int) -> int:
        """Return the stage of a chunk; -1 is the last chunk."""
        return self.chunk_homes[chunk][0]

    def chunks_of(self, stage: int) -> tuple[int, ...]:
        """Return the numbers of a stage's chunks, in the order of its spans."""
        homes = enumerate(self.chunk_homes)
        return tuple(chunk for chunk, (home, _) in homes if home == stage)

    def of_replicas(self, count: int) -> "Plan":
        """Return the same plan for its first ``count`` replicas."""
        if not 1 <= count <= self.replicas:
            raise PlanError(
                f"asked for {count} replicas of a plan of {self.replicas}; make a plan with more"
            )
        stages = tuple(
            replace(
                stage,
                ranks=tuple(replace(rank, devices=rank.devices[:count]) for rank in stage.ranks),
            )
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def anywhere(self) -> "Plan":
        """Return the same plan for devices that are on no node in particular."""
        stages = tuple(
            replace(
                stage,
                ranks=tuple(
                    replace(rank, devices=("any",) * self.replicas) for rank in stage.ranks
                ),
            )
            for stage in self.stages
        )
        return replace(self, stages=stages)

    def rank(self, seat: Seat) -> RankPlan:
        """Return the rank at a seat; PlanError if there is no such seat."""
        self.seats.check(seat)
        return self.stages[seat.stage].ranks[seat.member]

    def share(self, seat: Seat) -> Share:
        """Return what the rank at a seat holds; PlanError if there is no such seat."""
        self.seats.check(seat)
        stage = self.stages[seat.stage]
        part = stage.ranks[seat.member]
        return Share(
            layers=stage.layers,
            embedding=seat.stage == self.home(0),
            head=seat.stage == self.home(-1),
            kv_heads=part.kv_heads,
            ffn=part.ffn,
            experts=part.experts,
            leader=seat.member == 0,
            vocabulary=part.vocabulary,
            layer_experts=tuple(
                (each.layer, each.experts[seat.member]) for each in stage.expert_layout
            ),
            more=stage.more,
        )

    def check_model(self, config: ModelConfig) -> None:
        """Raise PlanError where the plan was made for a model of other sizes.

        Or where it holds a tied embedding in other rows than the head.
        """
        for key, size in config.summary().items():
            if self.model.get(key) != size:
                raise PlanError(
                    f"the plan was made for {key} = {self.model.get(key)}, the model has {size}; "
                    "make a plan for this model with `raymoe plan`"
                )
        if config.tie_embeddings and self.home(0) != self.home(-1):
            ends = (self.stages[self.home(0)], self.stages[self.home(-1)])
            first, last = ([rank.vocabulary for rank in stage.ranks] for stage in ends)
            checks.check_tied_vocabulary(first, last, config.vocab_size)

    def check_schedule(self, schedule: str, micro_batches: int) -> None:
        """Raise PlanError where the stages cannot work in this order.

        ``micro_batches`` are those of one replica in a step.
        """
        check_fits(schedule, len(self.stages), self.chunks, self.folded)
        check_schedule(schedule, len(self.stages), micro_batches, self.chunks)

    def check_kinds(self) -> None:
        """Raise PlanError where kinds of devices cannot work together: GPUs speak nccl, CPUs gloo.

        The members of a gang may be of unlike kinds: they take their leader's choice of experts.
        """
        ranks = [rank for stage in self.stages for rank in stage.ranks]
        check_one_backend("the plan", ((rank.device, rank.kind) for rank in ranks))

    def _check_gang(self, number: int, stage: StagePlan) -> None:
        if len(stage.ranks) != self.gang_size:
            raise PlanError(
                f"stage {number} has {len(stage.ranks)} ranks, stage 0 has {self.gang_size}; "
                "all gangs of a plan are of one size"
            )
        columns = [rank.ffn for rank in stage.ranks]
        heads = [rank.kv_heads for rank in stage.ranks]
        checks.check_spans(number, "kv_heads", heads, self.model["kv_heads"])
        checks.check_spans(number, "ffn", columns, self.model["ffn_size"])
        checks.check_shared(number, columns, self.model["ffn_size"], self.model["shared_size"])
        rows = [rank.vocabulary for rank in stage.ranks]
        checks.check_vocabulary(number, rows, self.model["vocab_size"])
        if not (isfinite(stage.seconds) and stage.seconds >= 0):
            raise PlanError(
                f"stage {number} has seconds = {stage.seconds}; give a finite number, 0 if unknown"
            )
        held = [expert for rank in stage.ranks for expert in rank.experts]
        checks.check_experts(f"stage {number}", held, self.model["experts"])

    def _check_layers_of(self, number: int, stage: StagePlan) -> None:
        """Check what a stage says of single layers: recomputed ones, experts of their own."""
        named = [each.layer for each in stage.expert_layout]
        checks.check_own_layers(number, "recompute", stage.recompute, stage.spans)
        checks.check_own_layers(number, "placement", named, stage.spans)
        for each in stage.expert_layout:
            label = f"stage {number} layer {each.layer}"
            if len(each.experts) != self.gang_size:
                raise PlanError(
                    f"{label} has experts for {len(each.experts)} ranks, the gang has "
                    f"{self.gang_size}; give each rank its experts"
                )
            held = [expert for experts in each.experts for expert in experts]
            checks.check_experts(label, held, self.model["experts"])

    def _check_replicas(self) -> None:
        for number, stage in enumerate(self.stages):
            for rank in stage.ranks:
                if not rank.devices or len(rank.devices) != self.replicas:
                    raise PlanError(
                        f"stage {number} names {len(rank.devices)} devices for a rank, the plan "
                        f"has {self.replicas} replicas; name one device for each"
                    )
                if rank.threads < 1:
                    raise PlanError(
                        f"stage {number}: device {rank.device} computes with no thread; give it 1"
                    )
                if rank.memory_bytes < 0:
                    raise PlanError(
                        f"stage {number}: device {rank.device} has memory_bytes = "
                        f"{rank.memory_bytes}; give what its rank reserves, 0 for nothing"
                    )
                check_needs(f"stage {number} {rank.device}", rank.resources, rank.labels)

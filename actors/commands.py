"""Values that travel between the engine and its ranks: commands down, reports up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moe.config.answering import CacheKind, WeightKind
from moe.config.run import RunConfig
from moe.config.sampling import SampledToken, Sampling
from moe.config.share import Share
from moe.errors import RaymoeError
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from moe.planning.schedules.simulate import Event
from moe.storage import Location


@dataclass(frozen=True, slots=True)
class BuildCommand:
    """What a rank is built as: its seat in a plan.

    ``sequence_length`` is that of a training step. ``run`` is None where the ranks only serve.
    """

    plan: Plan
    seat: Seat
    sequence_length: int
    run: RunConfig | None = None

    @property
    def share(self) -> Share:
        """The share of this rank."""
        return self.plan.share(self.seat)

    @property
    def threads(self) -> int:
        """CPU threads that this rank computes with."""
        return self.plan.rank(self.seat).threads

    @property
    def kind(self) -> str:
        """Kind of the device that this rank computes on."""
        return self.plan.rank(self.seat).kind

    @property
    def recompute(self) -> frozenset[int]:
        """Layers whose activations training computes again instead of keeping them."""
        return frozenset(self.plan.stages[self.seat.stage].recompute)


@dataclass(frozen=True, slots=True)
class StepInput:
    """A global batch, or a replica's part of it: tokens [B, S] to embed, labels [B, S] to predict.

    ``tokens`` is None on ranks that need no token numbers, ``labels`` on ranks without the LM head.
    A model that hashes tokens to experts needs the tokens on every stage. Labels of -100 do not
    count; ``label_count`` is the number of labels that count in the whole global batch.
    ``documents`` [B, S] has the number of the document of each position, from 0 in each row, and -1
    for padding; every rank needs it. None: a row is one document without padding.
    """

    step: int
    tokens: NDArray[np.int32] | None
    labels: NDArray[np.int32] | None
    label_count: int
    documents: NDArray[np.int32] | None = None

    @property
    def token_count(self) -> int:
        """Number of tokens that are no padding; 0 on ranks that have neither."""
        if self.documents is not None:
            return int((self.documents >= 0).sum())
        return 0 if self.tokens is None else self.tokens.size


@dataclass(frozen=True, slots=True)
class LayerReport:
    """Routing of one layer over one step. ``load`` counts the (token, expert) pairs of each expert.

    Losses are before multiplication by their coefficients; None for a loss that the run does not
    use. ``similarity``, in steps that look at weights, is the mean cosine of all pairs of experts,
    ``closest`` the most similar pair and its cosine (``moe.nn.sketch``).
    """

    load: tuple[int, ...]
    drop_rate: float
    coefficient: float
    balance_loss: float
    sharpness: float
    z_loss: float | None = None
    device_loss: float | None = None
    similarity: float | None = None
    closest: tuple[int, int, float] | None = None


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds of a step in which a rank waited: for messages of other ``stages``, for sums over its
    ``gang`` and over the ``replicas``, and for the last rank at the ``end``.
    """

    stages: float = 0.0
    gang: float = 0.0
    replicas: float = 0.0
    end: float = 0.0


@dataclass(frozen=True, slots=True)
class RankReport:
    """What one rank reports of one step.

    ``loss`` is summed over the replicas; it is None on ranks without the LM head. ``busy_seconds``
    is the time of the whole step on this rank, ``waits`` are included; ``peak_bytes`` is the
    largest memory that its process has held so far. ``events`` say when it worked on what, in
    seconds since it began with the step, if the step is traced.
    """

    rank: int
    step: int
    loss: float | None
    gradient_norm: float
    learning_rate: float
    layers: dict[int, LayerReport]
    busy_seconds: float
    peak_bytes: int
    waits: Waits = Waits()
    events: tuple[Event, ...] = ()

    @property
    def compute_seconds(self) -> float:
        """Seconds of the step in which the rank waited for nobody."""
        waits = self.waits
        waited = waits.stages + waits.gang + waits.replicas + waits.end
        return max(self.busy_seconds - waited, 0.0)


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step of the whole run. Loss in nats per token; ``seconds`` as the driver measured it.

    ``tokens`` are the labels that count, ``computed_tokens`` all that is no padding; 0 if unknown.
    By rank: ``peak_bytes`` and ``compute_seconds``. ``bubble`` is the mean part of the step in
    which ranks waited for other stages or for the last rank, ``communication`` the mean part in
    sums over gangs and replicas, as far as they are not hidden. ``timeline`` has, of a step that is
    traced, the events of one rank of each stage of the first replica, in the order of stages.
    Reports of a step that is done again are equal whatever it took.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: float
    layers: dict[int, LayerReport]
    peak_bytes: tuple[int, ...]
    compute_seconds: tuple[float, ...] = field(default=(), compare=False)
    bubble: float = field(default=0.0, compare=False)
    communication: float = field(default=0.0, compare=False)
    timeline: tuple[tuple[Event, ...], ...] = field(default=(), compare=False)
    computed_tokens: int = field(default=0, compare=False)

    @property
    def drop_rate(self) -> float:
        """Mean drop rate over the layers; 0 without experts."""
        rates = [layer.drop_rate for layer in self.layers.values()]
        return sum(rates) / len(rates) if rates else 0.0


@dataclass(frozen=True, slots=True)
class Answering:
    """How a rank answers: weights are packed as ``weights``, keys and values of ``blocks`` blocks
    are kept in memory in the type ``cache``.
    """

    blocks: int
    weights: WeightKind = "fp32"
    cache: CacheKind = "fp32"


@dataclass(frozen=True, slots=True)
class Answerable:
    """What a rank says once it can answer: bytes of its weights and of its keys and values."""

    weight_bytes: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class AdapterSource:
    """An adapter that ranks take up, under a ``number`` that no other of the engine ever has.

    ``digest`` is that of its files when they were checked.
    """

    number: int
    directory: Location
    digest: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """How the tokens of a sequence are drawn, and its tokens so far: prompt and generated."""

    sampling: Sampling
    prompt: tuple[int, ...]
    generated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Feed:
    """New tokens of one sequence in a batch, at ``position`` and after.

    ``tokens`` None is the one token that was drawn last, which only the ranks know yet. ``table``
    lists the blocks of the sequence, those of the new positions among them. With ``draws``, the
    token after the new ones is drawn, out of the tokens of the bit mask ``allowed`` where there is
    one. ``targets`` are the tokens that follow the first new ones, where their log-probabilities
    are wanted, with ``alternatives`` likeliest ones each. ``adapter`` is the number of the one that
    the sequence uses; 0 is the model itself. The positions before ``prompt`` are those of the
    prompt; None: all of them.
    """

    sequence: int
    tokens: tuple[int, ...] | None
    position: int
    table: tuple[int, ...]
    draws: bool
    allowed: NDArray[np.int32] | None = None
    targets: tuple[int, ...] = ()
    alternatives: int = 0
    adapter: int = 0
    prompt: int | None = None

    @property
    def count(self) -> int:
        """Number of new positions."""
        return 1 if self.tokens is None else len(self.tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """One iteration: what each sequence is fed, the ``begun`` ones, and those that have ``ended``.

    Ranks keep no tables. A rank that draws keeps how from the batch in which a sequence begins, and
    until it has ended. ``step`` is the number of steps done of ranks that train: the weights that
    answer. With ``watched``, the output says what the routers did.
    """

    number: int
    feeds: tuple[Feed, ...]
    begun: Mapping[int, Drawing] = field(default_factory=dict)
    ended: tuple[int, ...] = ()
    step: int | None = None
    watched: bool = False


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What the router of a layer did with the rows of a batch: the (row, expert) pairs of each
    expert, and the mean ratio of the two largest scores of a row.
    """

    load: tuple[int, ...]
    sharpness: float


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """The token drawn for each sequence of a batch, and log-probabilities of tokens of prompts.

    ``routers`` by layer, where the batch is watched; the engine joins those of all stages. With an
    ``error`` nothing could be drawn, and the ranks go on. ``step`` is that of the batch, and
    ``seconds`` what the batch took, where the engine knows.
    """

    number: int
    drawn: Mapping[int, SampledToken]
    scored: Mapping[int, tuple[SampledToken, ...]] = field(default_factory=dict)
    error: RaymoeError | None = None
    step: int | None = None
    seconds: float | None = None
    routers: Mapping[int, RouterReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What one rank did in an exchange of copies: bytes of tensors sent and received.

    Nothing is sent to a holder that has the copy already.
    """

    step: int
    sent: int
    received: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the ranks of a new epoch go back to the boundary after ``step`` steps.

    ``gives`` says by the seat of each rank that lost what it held who holds its copy.
    """

    step: int
    gives: Mapping[Seat, Seat] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RankStatus:
    """What a rank holds now: its epoch, the last step it finished, and the report of that step.

    ``built``: the rank has its weights. ``joined``: the rank is in the process groups of ``epoch``.
    ``busy``: a command is running. ``torn``: a step failed when some weights were already updated.
    ``saving``: the step of a snapshot that was taken or asked for and is not written yet.
    ``replicas``: number of replicas in the plan this rank was built from. ``copies`` and
    ``holds``: the steps of which this rank has a whole copy of its own, and of others by their
    seats. ``seat``: where it sits in the plan that it was built from; None before. ``staged``: the
    seat whose share waits to be taken, in the new plan of a resize. ``between``: it has taken such
    a share and keeps the one before, because the resize is not yet over. ``freed``: when a command
    last failed and the rank let go of its groups, in seconds since 1970 by its own clock; 0 never.
    """

    rank: int
    built: bool
    epoch: int
    joined: bool
    step: int
    report: RankReport | None
    pid: int
    replicas: int = 1
    busy: bool = False
    torn: bool = False
    saving: int | None = None
    copies: frozenset[int] = frozenset()
    holds: Mapping[Seat, frozenset[int]] = field(default_factory=dict)
    seat: Seat | None = None
    staged: Seat | None = None
    freed: float = 0.0
    between: bool = False

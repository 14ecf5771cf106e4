"""The workload of a plan: sequences, micro-batches, the schedule, and the bytes of a number."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from moe.config.quantised import Quantised
from moe.errors import PlanError

if TYPE_CHECKING:
    from moe.config.run import TrainSection

PASS_TOKENS = 512
"""Default number of prompt tokens that a server reads at once."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """Bytes of a parameter's weight, gradient and optimiser states, of an activation, of a message.

    ``message`` is the bytes of one hidden value, in the residual stream and sent to another rank;
    ``gathered`` those of a parameter that a replica gets back once its owner has updated it.
    ``exact`` are the bytes of weight and optimiser states of norms, biases and gates
    (``moe.config.role.Role.exact``).
    """

    name: str
    weight: int
    gradient: int
    optimizer: int
    activation: int
    message: int
    gathered: int
    exact: tuple[int, int]

    @property
    def sixteen_bit(self) -> bool:
        """Whether products are of 16-bit numbers."""
        return self.activation < 4

    @property
    def narrow(self) -> bool:
        """Whether the weights of matrices have fewer bytes than their masters, and others not."""
        return self.weight < self.exact[0]

    @property
    def stretch(self) -> float:
        """Bytes of a number of the residual stream, in activations."""
        return self.message / self.activation


FLOAT32 = Numerics("float32", 4, 4, 8, 4, 4, gathered=4, exact=(4, 8))
BF16 = Numerics("bf16", 2, 4, 12, 2, 4, gathered=2, exact=(4, 8))
MEGATRON = Numerics("megatron", 2, 4, 12, 2, 2, gathered=4, exact=(2, 12))
NUMERICS = {each.name: each for each in (FLOAT32, BF16, MEGATRON)}
"""``float32`` and ``bf16`` are what our actors do: bf16 has bfloat16 weights, float32 gradients,
masters beside the moments, and a float32 residual stream. ``megatron`` has that stream in bfloat16
and sums float32 gradients all over: for comparison with published runs."""
OF_PRECISION = {"fp32": FLOAT32, "bf16": BF16}
"""By ``train.precision`` of a run."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sequences of one length, in micro-batches of each replica, for one step.

    ``training`` False means forward only, with a key-value cache in place of gradients; a prompt is
    then read ``pass_tokens`` at a time, and a pass computes only the logits of its last token.
    ``imbalance`` is the load of the fullest rank of a gang over the mean, measured or assumed; it
    cannot exceed ``capacity_factor``. ``zero`` is the ZeRO stage: optimiser states (1), also
    gradients (2) and also weights (3) are divided over the replicas. ``snapshots`` is True if
    devices also hold the snapshots of checkpoints, as training CPUs do; for a GPU, its host holds
    them. ``copies``: the host of a rank also holds copies, from which lost ranks come back.
    ``gpus``: the ranks are on GPUs, and a part of each on its host. ``weights``, of a server, is
    the form in which it holds matrices; other tensors, keys and values then have 16 bits.
    ``orthogonal``: the optimiser has projectors for the experts.
    """

    sequence_length: int
    micro_batch: int
    micro_batches: int
    training: bool = True
    pass_tokens: int = PASS_TOKENS
    schedule: str = "1f1b"
    numerics: Numerics = FLOAT32
    zero: int = 1
    imbalance: float = 1.0
    capacity_factor: float | None = None
    snapshots: bool = False
    copies: bool = False
    gpus: bool = False
    weights: Quantised | None = None
    orthogonal: bool = False

    @classmethod
    def of_run(
        cls, train: "TrainSection", sequence_length: int, micro_batches: int, gpus: bool
    ) -> "Workload":
        """Return the workload of a step of a run: its schedule, and numbers of its precision.

        CPUs hold the snapshots of their ranks themselves.
        """
        return cls(
            sequence_length,
            train.micro_batch,
            micro_batches,
            schedule=train.schedule,
            numerics=OF_PRECISION[train.precision],
            snapshots=not gpus,
            gpus=gpus,
            orthogonal=train.orthogonal is not None,
        )

    def __post_init__(self) -> None:
        for key in ("sequence_length", "micro_batch", "micro_batches", "pass_tokens"):
            if getattr(self, key) < 1:
                raise PlanError(
                    f"the workload has {key} = {getattr(self, key)}; give a whole number above 0"
                )
        if self.zero not in (0, 1, 2, 3):
            raise PlanError(f"the workload has zero = {self.zero}; ZeRO has stages 0 to 3")
        if self.training and self.weights is not None:
            raise PlanError(
                f"the workload trains with weights in {self.weights.name}; only a server holds them"
            )
        factor = self.capacity_factor
        if not (isfinite(self.imbalance) and self.imbalance >= 1) or (factor or 1) <= 0:
            raise PlanError(
                f"the workload has imbalance {self.imbalance} and capacity factor {factor}; "
                "an imbalance is max over mean, at least 1, and a capacity factor above 0"
            )

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.sequence_length * self.micro_batch

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a micro-batch that pass a block together: all, or a part of a prompt."""
        if self.training:
            return self.tokens
        return min(self.pass_tokens, self.sequence_length) * self.micro_batch

    @property
    def stored(self) -> Numerics:
        """Numerics of what a rank holds beside matrices in few bits; a server without such holds
        float32, whatever it is planned for.
        """
        if self.weights is not None:
            return BF16
        return self.numerics if self.training else FLOAT32

    @property
    def cached(self) -> int:
        """Bytes of a number of keys and values, and of those that pass a block in serving."""
        return 4 if self.weights is None else 2

    @property
    def exchanged(self) -> float:
        """Bytes of a parameter, each way, that replicas exchange once a step: gradients to their
        owners and weights back, or without owners sums of gradients.
        """
        back = self.numerics.gathered if self.zero else self.numerics.gradient
        return (self.numerics.gradient + back) / 2

    @property
    def overload(self) -> float:
        """Load of the fullest rank of a gang over the mean."""
        return min(self.imbalance, self.capacity_factor or self.imbalance)

    def cut(self, micro_batch: int, micro_batches: int) -> "Workload":
        """Return the same workload with other micro-batches."""
        return replace(self, micro_batch=micro_batch, micro_batches=micro_batches)

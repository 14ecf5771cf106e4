"""Work of each kind of layer: embedding, dense block, MoE block, head with loss, the optimiser.

Work is counted, not measured: FLOPs and bytes. ``moe.planning.devices.pace`` turns it into seconds
of a device. Per token, with H hidden, Q and K query and key-value columns held, S the sequence
length, F feed-forward columns held, E experts held of N, each X wide, G columns held of the shared
expert, and V rows held of the vocabulary:

    attention      2 H (2 Q + 2 K)  +  2 Q S           projections; causal scores and values
    dense block    6 H F                               gate, up, down
    MoE block      6 H X k E / N  +  6 H G             the fullest rank's routing; the shared expert
                   +  2 H N  (+  2 H)                  router and shared gate, whole on each rank
    merged experts 6 H F  +  2 H N                     as dense, and the router; beside merging
    head           2 H V

A model may have blocks of both kinds (``dense_layers``). A hash has no router. Where a gang splits
the experts, its fullest rank has ``Workload.overload`` times the mean.

Those are forward FLOPs; backward takes twice as many. The head computes its gradients together
with its loss, forward. Merging has its own page (``moe.planning.counts.merging``). Some terms are
bound by memory instead:

    loss           3 passes over the V float32 logits of each token
    gradients      3 of each parameter and micro-batch: read the sum, read the new, write
    optimiser      10 numbers of a parameter a step: norm, clip, AdamW over weight and two moments

The second is nearly all that an embedding costs, and why more experts cost time at equal top-k.
SmolLM2-135M, sequences of 512, one thread, measured and (counted) milliseconds of a micro-batch:
dense block 84 (88), 4 experts top-2 149 (154), 8 experts 169 (164), head with loss 654 (672).
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from math import ceil
from typing import NamedTuple

from moe.config.model import ModelConfig, MoeConfig
from moe.config.projectors import has_projector, projector_shape
from moe.config.quantised import quantises
from moe.config.share import Share, shared_span
from moe.config.tensors import EMBEDDING, HEAD, TensorSlice, held_by
from moe.planning.counts.merging import merging_work
from moe.planning.counts.passes import Passes, Work
from moe.planning.counts.workload import Numerics, Workload

PARTS = ("embedding", "dense", "moe", "head", "optimizer")
"""Kinds of work that are counted and measured separately."""

_FLOAT_BYTES = 4
_LOSS_PASSES = 3
_GRADIENT_PASSES = 3
_OPTIMIZER_PASSES = 10
_BACKWARD = 2


def part_of(config: ModelConfig, layer: int) -> str:
    """Return the kind of a block: dense or MoE."""
    return "moe" if config.has_experts(layer) else "dense"


def layer_work(config: ModelConfig, share: Share, layer: int, workload: Workload) -> Passes:
    """Return the work of the slice of one block that a share holds."""
    query, key_value = attention_columns(config, share)
    flops: float = 2 * config.hidden_size * 2 * (query + key_value)
    flops += 2 * query * workload.sequence_length
    flops += 6 * config.hidden_size * feed_forward_columns(config, share, layer)
    if config.moe is not None and config.has_experts(layer):
        routes = routed(config, share, layer) * _overload(config, share, layer, workload)
        flops += 6 * config.hidden_size * config.moe.expert_size * routes
        flops += 2 * config.hidden_size * _gate_rows(config.moe)
    work = _passes(flops, layer_parameters(config, share, layer), workload)
    return work.plus(merging_work(config, share, layer, workload))


def layers_like(config: ModelConfig, share: Share) -> tuple[int, ...]:
    """Return for each layer the first layer of the same kind of which the share holds equally
    much.
    """
    return _layers_like(config, tuple((layer, len(held)) for layer, held in share.layer_experts))


@lru_cache(maxsize=256)
def _layers_like(config: ModelConfig, by_layer: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    counts, first = dict(by_layer), dict[tuple[bool, int | None], int]()
    return tuple(
        first.setdefault((config.has_experts(layer), counts.get(layer)), layer)
        for layer in range(config.layers)
    )


def embedding_work(config: ModelConfig, share: Share, workload: Workload) -> Passes:
    """Return the work of the embedding: almost none forward, a dense gradient backward."""
    return _passes(0, end_parameters(config, share, True, False), workload)


def head_work(config: ModelConfig, share: Share, workload: Workload) -> Passes:
    """Return the work of the logits and, in training, of the loss."""
    rows = vocabulary_rows(config, share)
    held = end_parameters(config, share, False, True)
    work = _passes(2 * config.hidden_size * rows, held, workload)
    if not workload.training:
        return work
    loss_bytes = _LOSS_PASSES * _FLOAT_BYTES * rows * workload.tokens
    return Passes(Work(work.flops, loss_bytes), Work(0.0, work.backward.bytes))


def optimizer_work(parameters: float, numerics: Numerics) -> Work:
    """Return the work of one optimiser step over ``parameters`` parameters."""
    return Work(0.0, _OPTIMIZER_PASSES * numerics.gradient * parameters)


def attention_columns(config: ModelConfig, share: Share) -> tuple[int, int]:
    """Return the columns of queries, and of keys (values have equally many), that a share holds."""
    key_value = (share.kv_heads[1] - share.kv_heads[0]) * config.head_size
    return key_value * config.heads_per_kv, key_value


def feed_forward_columns(config: ModelConfig, share: Share, layer: int) -> int:
    """Return the feed-forward columns that every token uses in a block: dense, merged, or of the
    shared expert.
    """
    placed = config.has_experts(layer) and config.placed_experts
    start, stop = shared_span(config, share.ffn) if placed else share.ffn
    return stop - start


def routed(config: ModelConfig, share: Share, layer: int) -> float:
    """Return how many of a token's top-k experts a share holds, on average under even load."""
    if config.moe is None:
        return 0.0
    return config.moe.top_k * len(share.experts_of(layer)) / config.moe.experts


def vocabulary_rows(config: ModelConfig, share: Share) -> int:
    """Return the number of vocabulary rows of a share."""
    start, stop = share.vocabulary or (0, config.vocab_size)
    return stop - start


def trained_rows(config: ModelConfig, share: Share) -> tuple[int, int]:
    """Return the rows of the embedding and of the head that a share would have gradients of."""
    rows, tuning = vocabulary_rows(config, share), config.tuning
    names = EMBEDDING, EMBEDDING if config.tie_embeddings else HEAD
    first, last = (tuning is None or not tuning.freezes(name) for name in names)
    return rows * first, rows * last


class Parameters(NamedTuple):
    """A number of parameters, and how many of them are exact: norms, biases and gates; and how many
    are of matrices that have fewer bits in a quantised model.

    ``projected`` are the numbers of the projectors of experts, if the optimiser has them: a square
    of the width for the inputs of gate and up, and one for those of down. ``frozen`` of the total
    do not change, ``frozen_exact`` of these are exact.
    """

    total: int
    exact: int
    matrices: int = 0
    projected: int = 0
    frozen: int = 0
    frozen_exact: int = 0

    @classmethod
    def of(cls, parts: Iterable[TensorSlice]) -> "Parameters":
        """Count those of some tensors."""
        held = list(parts)
        return cls(
            sum(part.elements for part in held),
            sum(part.elements for part in held if part.role.exact),
            sum(part.elements for part in held if quantises(part.role)),
            sum(projector_shape(part)[0] ** 2 for part in held if has_projector(part)),
            sum(part.elements for part in held if part.role.frozen),
            sum(part.elements for part in held if part.role.frozen and part.role.exact),
        )

    @property
    def changing(self) -> "Parameters":
        """Those that are not frozen."""
        total, exact = self.total - self.frozen, self.exact - self.frozen_exact
        return Parameters(total, exact, self.matrices, self.projected)

    def plus(self, other: "Parameters") -> "Parameters":
        """Return the sum."""
        return Parameters(*(one + two for one, two in zip(self, other, strict=True)))

    def less(self, other: "Parameters") -> "Parameters":
        """Return the difference."""
        return Parameters(*(one - two for one, two in zip(self, other, strict=True)))


def whole_states(parameters: Parameters, workload: Workload) -> tuple[int, int]:
    """Return the bytes of weights and of optimiser states, undivided; frozen ones have none."""
    numerics = workload.stored
    narrow, exact = parameters.total - parameters.exact, parameters.exact
    weights = numerics.weight * narrow + numerics.exact[0] * exact
    if workload.weights is not None:
        saved = numerics.weight - workload.weights.bytes_per_number
        weights = ceil(weights - saved * parameters.matrices)
    changing = parameters.changing
    narrow, exact = changing.total - changing.exact, changing.exact
    moments = numerics.optimizer * narrow + numerics.exact[1] * exact
    projectors = _FLOAT_BYTES * parameters.projected if workload.orthogonal else 0
    return weights, moments + projectors


def layer_parameters(config: ModelConfig, share: Share, layer: int) -> Parameters:
    """Return the number of parameters of one layer that a share holds."""
    experts = share.experts_of(layer)
    block = replace(
        share, layers=(0, 1), embedding=False, head=False, experts=experts, layer_experts=()
    )
    return _block_parameters(config, block, config.has_experts(layer))


def end_parameters(config: ModelConfig, share: Share, embedding: bool, head: bool) -> Parameters:
    """Return the number of parameters of embedding, or head and final norm, that a share holds."""
    ends = replace(share, layers=(0, 0), embedding=embedding, head=head, layer_experts=())
    return _end_parameters(config, ends)


@lru_cache(maxsize=1024)
def _end_parameters(config: ModelConfig, ends: Share) -> Parameters:
    return Parameters.of(held_by(replace(config, layers=1, moe=None), ends))


@lru_cache(maxsize=4096)
def _block_parameters(config: ModelConfig, block: Share, experts: bool) -> Parameters:
    """Return the parameters of one layer; of layers that are frozen differently, of that with the
    most to train.
    """
    if config.tuning is not None and config.tuning.freeze:
        alike = (layer for layer in range(config.layers) if config.has_experts(layer) == experts)
        own = (replace(block, layers=(layer, layer + 1)) for layer in alike)
        counts = [Parameters.of(held_by(config, each)) for each in own]
        return max(counts, key=lambda found: found.changing.total)
    moe = config.moe and replace(config.moe, dense_layers=())
    alone = replace(config, layers=1, moe=moe if experts else None)
    return Parameters.of(held_by(alone, block))


def _overload(config: ModelConfig, share: Share, layer: int, workload: Workload) -> float:
    """Return the load of a rank over the mean; 1 for a rank that holds all experts."""
    return workload.overload if len(share.experts_of(layer)) < config.experts else 1.0


def _passes(flops: float, parameters: Parameters, workload: Workload) -> Passes:
    """Return the passes over some parameters; a frozen one has no gradient, its inputs have."""
    forward = Work(flops * workload.tokens, 0.0)
    if not workload.training:
        return Passes(forward)
    trained = parameters.changing.total
    gradient_bytes = _GRADIENT_PASSES * workload.numerics.gradient * trained
    backward = _BACKWARD * forward.flops
    if parameters.frozen:
        backward = forward.flops * (1 + trained / parameters.total)
    return Passes(forward, Work(backward, float(gradient_bytes)))


def _gate_rows(moe: MoeConfig) -> int:
    """Return the rows of the products that weigh experts: the router's, the shared gate's."""
    return (0 if moe.hashed else moe.experts) + moe.shared_gate

"""Bytes that one rank needs: weights, gradients, AdamW states, activations, buffers, the process.

Weights, gradients and the optimiser's states are counted from the tensor table; ZeRO spreads them
over replicas. Activations are what autograd keeps of each block per token
(``moe.planning.counts.activations``), of a recomputed block its input alone and one such block
whole for a while, and of the head 3 H: norm, its input and gradient (H hidden, V vocabulary).

In addition to what is kept, a backward pass makes: as much again as the largest block keeps of a
micro-batch (its gradients), a second gradient of embedding or head, a third set of logits; and
freed activations leave fragments (``working``). Resident memory of actors was 0.98 to 1.05 of the
sum (``benchmarks/recompute.py``). The head keeps, whatever the number of tokens, 2 V of at most
``LOGITS_AT_ONCE`` / V tokens, and the V H gradient of a micro-batch before it is added to that of
the step. How many micro-batches a stage keeps at once is the schedule's: under 1F1B, stage s of p
keeps min(p - s, micro-batches). A stage of several spans of layers keeps a different number for
each span; the fullest moment of the schedule counts, by what each span holds. The head is done with
each before the next. A snapshot is what a checkpoint copies, kept from one to the next; GPUs have
it on their host. Buffers are those of messages: hidden states with their gradients from the stage
before, gradients from the stage after, both for every span of layers whose neighbour is on another
stage. Without training there are no gradients, AdamW states or kept activations: one block's at a
time, for the tokens of one pass (a prompt is read in parts); one row of logits per sequence; and
the key-value cache of one micro-batch of sequences of the workload's length. The cache grows with
each sequence, so a plan must have memory for that length, not for the longest context of the model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

from moe.config.merging import gate_bytes
from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import held_by
from moe.planning.counts.activations import block_activations, block_floats
from moe.planning.counts.copies import all_copies
from moe.planning.counts.fixed import PROCESS_BYTES, fixed_bytes, host_bytes
from moe.planning.counts.merging import merged_bytes
from moe.planning.counts.work import (
    Parameters,
    attention_columns,
    trained_rows,
    vocabulary_rows,
    whole_states,
)
from moe.planning.counts.workload import Workload

LOGITS_AT_ONCE = 2**25
"""Logits that the loss holds at a time; the same as in ``moe.nn.loss``."""

MESSAGES_AHEAD = 2
"""Messages of one sender that are requested ahead; the same as in ``actors.step.mail``."""

_FLOAT_BYTES = 4
_WASTE = 0.12
"""Fragments of freed activations, as a fraction of the activations; from measured resident
memory.
"""


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Bytes of one rank at its peak, by purpose.

    ``process`` is all beside tensors (``moe.planning.counts.fixed``). ``host`` is what a rank on a
    GPU takes of its host, and no part of the total, which is the GPU's. ``copies`` are kept for the
    case that ranks are lost (``moe.planning.counts.copies``); those of a GPU are part of ``host``.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    working: int = 0
    buffers: int = 0
    snapshot: int = 0
    process: int = PROCESS_BYTES
    host: int = 0
    copies: int = 0

    @property
    def total(self) -> int:
        """The total."""
        states = self.weights + self.gradients + self.optimizer
        passing = self.activations + self.working + self.buffers
        return states + passing + self.snapshot + self.copies + self.process


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a stage in its pipeline: it keeps ``in_flight`` micro-batches at once.

    ``ends`` says whether the stage has the embedding, and whether it has the head. With several
    spans of layers, ``peaks`` are the numbers of micro-batches kept of each span, at each peak of
    the schedule, and ``received`` are the numbers of spans whose input, and whose gradient, come
    from another stage.
    """

    in_flight: int = 1
    ends: tuple[bool, bool] = (True, True)
    peaks: tuple[tuple[int, ...], ...] = ()
    received: tuple[int, int] | None = None

    def most_kept(self, spans: Sequence[float]) -> float:
        """Return the most kept at once, from what one micro-batch keeps in each span."""
        if not self.peaks:
            return sum(spans) * self.in_flight
        return max(
            sum(count * kept for count, kept in zip(peak, spans, strict=True))
            for peak in self.peaks
        )

    @property
    def arrivals(self) -> tuple[int, int]:
        """Number of inputs and gradients that come from other stages per micro-batch."""
        first, last = self.ends
        return self.received or (int(not first), int(not last))


def rank_bytes(
    config: ModelConfig,
    share: Share,
    position: Position,
    workload: Workload,
    recompute: Collection[int] = (),
    replicas: int = 1,
) -> RankBytes:
    """Return the bytes of a rank that recomputes the activations of the layers in ``recompute``."""
    parameters = Parameters.of(held_by(config, share))
    weights, gradients, optimizer = state_bytes(parameters, workload, replicas)
    fixed = fixed_bytes(config, share, sum(position.arrivals), workload, replicas)
    host = host_bytes(parameters, workload, replicas)
    if not workload.training:
        widest = max(block_floats(config, share, layer) for layer in share.layer_numbers)
        passing = serving_bytes(config, share, workload, widest)
        return RankBytes(weights, 0, 0, passing, process=fixed, host=host)
    activations = activation_bytes(config, share, position, workload, recompute)
    working = working_bytes(config, share, position, workload) + wasted_bytes(activations)
    buffers = buffer_bytes(config, position, workload)
    snapshot = snapshot_bytes(parameters, workload, replicas)
    states = (weights, gradients, optimizer)
    copies = 0 if workload.gpus else all_copies(parameters, workload, replicas)
    return RankBytes(*states, activations, working, buffers, snapshot, fixed, host, copies)


def activation_bytes(
    config: ModelConfig,
    share: Share,
    position: Position,
    workload: Workload,
    recompute: Collection[int],
) -> int:
    """Return the bytes of all that is kept for backward passes at the fullest moment."""
    floats = {
        layer: block_activations(config, share, layer, workload) for layer in share.layer_numbers
    }
    input_only = workload.numerics.stretch * config.hidden_size
    kept = {layer: input_only if layer in recompute else floats[layer] for layer in floats}
    again = max((floats[layer] for layer in floats if layer in recompute), default=0.0)
    spans = [sum(kept[layer] for layer in range(*span)) for span in share.spans]
    numbers = (position.most_kept(spans) + again) * workload.tokens
    if position.ends[1]:
        numbers += head_floats(config, share, workload)
    return ceil(workload.numerics.activation * numbers)


def state_bytes(parameters: Parameters, workload: Workload, replicas: int) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients and optimiser states; ZeRO divides them over
    replicas.
    """
    weights, optimizer = whole_states(parameters, workload)
    sizes = (
        (weights, workload.zero >= 3),
        (workload.numerics.gradient * parameters.changing.total, workload.zero >= 2),
        (optimizer, workload.zero >= 1),
    )
    weights, gradients, optimizer = (
        -(-size // (replicas if spread else 1)) for size, spread in sizes
    )
    return weights, gradients, optimizer


def snapshot_bytes(parameters: Parameters, workload: Workload, replicas: int) -> int:
    """Return the bytes of a snapshot of weights, moments and masters; one replica writes each.

    What is frozen is copied from the model's files.
    """
    if not (workload.training and workload.snapshots):
        return 0
    return -(-sum(whole_states(parameters.changing, workload)) // replicas)


def working_bytes(config: ModelConfig, share: Share, position: Position, workload: Workload) -> int:
    """Return the bytes of temporary tensors in a backward pass."""
    layers = {config.has_experts(layer): layer for layer in range(config.layers)}.values()
    numerics = workload.numerics
    widest = max(block_activations(config, share, layer, workload) for layer in layers)
    passing = numerics.activation * widest * workload.tokens
    passing += max(merged_bytes(config, share, layer, workload) for layer in layers)
    rows = vocabulary_rows(config, share)
    first, last = position.ends
    gradients = trained_rows(config, share)
    passing += numerics.gradient * config.hidden_size * (first * gradients[0] + last * gradients[1])
    passing += _FLOAT_BYTES * rows * _logits_at_once(config, workload) * last
    return ceil(passing)


def wasted_bytes(activations: int) -> int:
    """Return the bytes lost to fragments of freed activations."""
    return ceil(_WASTE * activations)


def buffer_bytes(config: ModelConfig, position: Position, workload: Workload) -> int:
    """Return the bytes of messages in transit, and of received messages that are still needed.

    Inputs stay in buffers until the backward pass of their micro-batch, and the gradients sent for
    them until the receiver answers; outputs stay until their gradient arrives. A few messages of
    each kind are requested ahead.
    """
    inputs, gradients = position.arrivals
    tensors = 2 * (position.in_flight + MESSAGES_AHEAD * inputs) if inputs else 0
    tensors += position.in_flight + (MESSAGES_AHEAD + 1) * gradients if gradients else 0
    return tensors * workload.tokens * config.hidden_size * workload.numerics.message


def cache_bytes_per_token(config: ModelConfig, share: Share, workload: Workload) -> int:
    """Return the bytes of keys and values of one position in all layers of a share, and of gates
    where experts are merged.
    """
    values = workload.cached * 2 * attention_columns(config, share)[1] * len(share.layer_numbers)
    return values + gate_bytes(config, share.layer_numbers)


def serving_bytes(config: ModelConfig, share: Share, workload: Workload, widest: float) -> int:
    """Return the bytes of a pass over prompts, of the key-value cache, and of one row of logits per
    sequence.

    ``widest`` is the count of numbers per token in the largest block.
    """
    floats = widest * workload.tokens_at_once
    floats += vocabulary_rows(config, share) * workload.micro_batch if share.head else 0
    cache = cache_bytes_per_token(config, share, workload) * workload.tokens
    merged = max(merged_bytes(config, share, layer, workload) for layer in share.layer_numbers)
    return ceil(workload.cached * floats) + cache + merged


def head_floats(config: ModelConfig, share: Share, workload: Workload) -> float:
    """Return the activations that the head and its loss keep of one micro-batch.

    The input of the norm, one set of logits and the gradient of the head are float32 always.
    """
    rows = vocabulary_rows(config, share)
    gradient = trained_rows(config, share)[1] * config.hidden_size
    logits = rows * _logits_at_once(config, workload)
    hidden = config.hidden_size * workload.tokens
    return 2 * hidden + logits + workload.numerics.stretch * (hidden + logits + gradient)


def _logits_at_once(config: ModelConfig, workload: Workload) -> int:
    """Return the number of tokens whose logits the loss holds at a time."""
    return min(workload.tokens, max(1, LOGITS_AT_ONCE // config.vocab_size))

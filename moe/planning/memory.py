"""Bytes that one rank needs: weights, gradients, AdamW states, activations, the process itself.

Weights, gradients and the two AdamW moments are float32, counted from the tensor table. Activations
are an estimate of what autograd keeps per token, in floats, with H hidden, Q and K query and
key-value columns held, F feed-forward columns held, E experts held of N, each X wide, k E / N of
them routed to, and G columns held of the shared expert:

    block          6 H + 2 Q + 2 K                     norms, products' inputs, attention
      q-k norms    2 Q + 2 K                           their inputs, brought to unit size
      dense        4 F                                 gate, silu, up, their product
      MoE          2 X k E / N  +  N                   gate and up, the rest made again; router
        shared     4 G  (+ H)                          as dense (and its output, if gated)
    head           3 H                                 norm, its input and gradient

A block of SmolLM2-135M keeps 11147 floats per token, counted 11136; with 4 experts 11161 (11140);
with 16 fine-grained ones, top-3, and half a feed-forward shared and gated 10982 (10960).
The head keeps, whatever the number of tokens, 2 V of at most ``LOGITS_AT_ONCE`` / V tokens, and
the V H gradient of a micro-batch before it is added to that of the step.
Under 1F1B, stage s of p keeps the activations of min(p - s, micro-batches) micro-batches. The head
is done with each before the next. bf16 training needs less; no lower estimate is made for it.
Without training there are no gradients, AdamW states or kept activations: one block's at a time,
for the tokens of one pass (a prompt is read in parts); one row of logits per sequence; and the
key-value cache of one micro-batch of sequences of the workload's length. The cache grows with each
sequence, so that length is what a plan must have room for, not the longest the model can read.
"""

from dataclasses import dataclass
from math import ceil

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.config.tensors import held_by
from moe.planning.costs import (
    Workload,
    attention_columns,
    feed_forward_columns,
    routed,
)

PROCESS_BYTES = 512 * 2**20
"""What an actor takes beside its tensors: interpreter, torch and Ray 0.35 GB, then buffers."""

LOGITS_AT_ONCE = 2**25
"""Logits that the loss holds at a time; the same as in ``moe.nn.loss``."""

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class RankBytes:
    """Bytes of one rank at its peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    process: int = PROCESS_BYTES

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.process


def rank_bytes(config: ModelConfig, share: Share, in_flight: int, workload: Workload) -> RankBytes:
    """Return what a rank needs that keeps ``in_flight`` micro-batches at once."""
    weights = _FLOAT_BYTES * sum(part.elements for part in held_by(config, share))
    blocks = [_block_floats(config, share, layer) for layer in share.layer_numbers]
    if workload.training:
        floats = sum(blocks) * in_flight * workload.tokens + _head_floats(config, share, workload)
        return RankBytes(weights, weights, 2 * weights, ceil(_FLOAT_BYTES * floats))
    floats = max(blocks) * workload.tokens_at_once
    floats += 2 * attention_columns(config, share)[1] * len(blocks) * workload.tokens
    floats += config.vocab_size * workload.micro_batch if share.head else 0
    return RankBytes(weights, 0, 0, ceil(_FLOAT_BYTES * floats))


def in_flight(stage: int, stages: int, micro_batches: int) -> int:
    """Return how many micro-batches a stage keeps at once under 1F1B."""
    return min(stages - stage, micro_batches)


def _head_floats(config: ModelConfig, share: Share, workload: Workload) -> float:
    """Return the floats that the head and its loss keep of one micro-batch."""
    if not share.head:
        return 0.0
    at_once = min(workload.tokens, max(1, LOGITS_AT_ONCE // config.vocab_size))
    gradient = config.vocab_size * config.hidden_size
    return 3 * config.hidden_size * workload.tokens + 2 * config.vocab_size * at_once + gradient


def _block_floats(config: ModelConfig, share: Share, layer: int) -> float:
    """Return the floats that one block keeps per token."""
    query, key_value = attention_columns(config, share)
    floats: float = 6 * config.hidden_size + 2 * query + 2 * key_value
    if config.query_key_norm is not None:
        floats += 2 * (query + key_value)
    floats += 4 * feed_forward_columns(config, share, layer)
    moe = config.moe
    if moe is None or not config.has_experts(layer):
        return floats
    floats += 2 * moe.expert_size * routed(config, share)
    floats += config.hidden_size if moe.shared_gate else 0
    return floats if moe.hashed else floats + moe.experts

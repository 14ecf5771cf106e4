"""Bytes that one rank needs: weights, gradients, AdamW states, activations, the process itself.

Weights, gradients and the two AdamW moments are float32, counted from the tensor table. Activations
are an estimate of what autograd keeps per token, in floats, with H hidden, Q and K query and
key-value columns held, F feed-forward columns, E experts held of N and k E / N of them routed to:

    block          6 H + 2 Q + 2 K                     norms, products' inputs, attention
      dense        4 F                                 gate, silu, up, their product
      MoE          (4 F + 3 H) k E / N  +  3 N         that and its way there and back; router
    head           3 H + 3 V                           norm; logits, log-probabilities, gradient

A block of SmolLM2-135M keeps 11147 floats per token, counted 11136; with 4 experts 20768 (20748).
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
from moe.planning.costs import Workload, attention_columns, routed

PROCESS_BYTES = 512 * 2**20
"""What an actor takes beside its tensors: interpreter, torch and Ray 0.35 GB, then buffers."""

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
    layers = len(share.layer_numbers)
    block = _block_floats(config, share)
    head = 3 * config.hidden_size + 3 * config.vocab_size if share.head else 0
    if workload.training:
        floats = (block * layers * in_flight + head) * workload.tokens
        return RankBytes(weights, weights, 2 * weights, ceil(_FLOAT_BYTES * floats))
    floats = block * workload.tokens_at_once
    floats += 2 * attention_columns(config, share)[1] * layers * workload.tokens
    floats += config.vocab_size * workload.micro_batch if share.head else 0
    return RankBytes(weights, 0, 0, ceil(_FLOAT_BYTES * floats))


def in_flight(stage: int, stages: int, micro_batches: int) -> int:
    """Return how many micro-batches a stage keeps at once under 1F1B."""
    return min(stages - stage, micro_batches)


def _block_floats(config: ModelConfig, share: Share) -> float:
    """Return the floats that one block keeps per token."""
    query, key_value = attention_columns(config, share)
    floats = 6 * config.hidden_size + 2 * query + 2 * key_value
    if config.moe is None:
        return floats + 4 * (share.ffn[1] - share.ffn[0])
    expert = 4 * config.moe.expert_size + 3 * config.hidden_size
    return floats + expert * routed(config, share) + 3 * config.moe.experts

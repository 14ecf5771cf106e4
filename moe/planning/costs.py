"""Seconds of each kind of layer on a device: embedding, dense block, MoE block, head with loss.

A cost is counted, not measured: FLOPs and bytes, divided by the rates of one CPU thread and the
device's speed relative to it. The rates below are an assumption that callers may replace; a profile
measured on each device takes their place later. Per token, with H hidden, Q and K query and
key-value columns held, S the sequence length, F feed-forward columns held, E experts held of N,
each X wide, and G columns held of the shared expert:

    attention      2 H (2 Q + 2 K)  +  2 Q S           projections; causal scores and values
    dense block    6 H F                               gate, up, down
    MoE block      6 H X k E / N  +  6 H G             balanced routing; the shared expert
                   +  2 H N  (+  2 H)                  router and shared gate, whole on each rank
    head           2 H V

A block is one kind or the other, also in one model (``dense_layers``). A hash has no router.

Those are forward FLOPs; backward takes twice as many. Two terms are bound by memory instead:

    loss           3 passes over the V float32 logits of each token
    gradients      12 bytes per parameter and micro-batch: read the sum, read the new, write

The second is nearly all that an embedding costs, and why more experts cost time at equal top-k.
SmolLM2-135M, sequences of 512, one thread, measured and (counted) milliseconds of a micro-batch:
dense block 84 (88), 4 experts top-2 149 (154), 8 experts 169 (164), head with loss 654 (672).
"""

from dataclasses import dataclass, replace

from moe.config.model import ModelConfig, MoeConfig
from moe.config.share import Share, shared_span
from moe.config.tensors import held_by
from moe.errors import PlanError
from moe.planning.inventory import Device

PASS_TOKENS = 512
"""Tokens of a prompt that a server reads at once unless told otherwise."""

_FLOAT_BYTES = 4
_LOSS_PASSES = 3
_GRADIENT_PASSES = 3
_BACKWARD = 2


@dataclass(frozen=True, slots=True)
class Rates:
    """What one CPU thread, a device of speed 1, sustains; a device of speed 2 does twice both."""

    flops_per_second: float
    bytes_per_second: float


CPU_THREAD = Rates(flops_per_second=1.4e11, bytes_per_second=1.25e10)
"""One thread of a server CPU: float32 matrix products; passes over memory, fresh pages included."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a plan is to carry: sequences of one length, in micro-batches, for one step.

    ``training`` False means forward only, with a key-value cache in place of gradients; a prompt
    is then read ``pass_tokens`` at a time, and a pass gives the logits of its last token alone.
    """

    sequence_length: int
    micro_batch: int
    micro_batches: int
    training: bool = True
    pass_tokens: int = PASS_TOKENS

    def __post_init__(self) -> None:
        for key in ("sequence_length", "micro_batch", "micro_batches", "pass_tokens"):
            if getattr(self, key) < 1:
                raise PlanError(
                    f"the workload has {key} = {getattr(self, key)}; give a whole number above 0"
                )

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.sequence_length * self.micro_batch

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a micro-batch that are in the blocks together: all, or a part of a prompt."""
        if self.training:
            return self.tokens
        return min(self.pass_tokens, self.sequence_length) * self.micro_batch


@dataclass(frozen=True, slots=True)
class Work:
    """What one micro-batch asks of a rank: FLOPs, and bytes moved beyond those of the products."""

    flops: float
    bytes: float

    def seconds(self, device: Device, rates: Rates) -> float:
        """Return the time it takes on a device."""
        one_thread = self.flops / rates.flops_per_second + self.bytes / rates.bytes_per_second
        return one_thread / device.threads_worth


def layer_work(config: ModelConfig, share: Share, layer: int, workload: Workload) -> Work:
    """Return the work of one block, of the slice of it that a share holds."""
    query, key_value = attention_columns(config, share)
    flops: float = 2 * config.hidden_size * 2 * (query + key_value)
    flops += 2 * query * workload.sequence_length
    flops += 6 * config.hidden_size * feed_forward_columns(config, share, layer)
    if config.moe is not None and config.has_experts(layer):
        flops += 6 * config.hidden_size * config.moe.expert_size * routed(config, share)
        flops += 2 * config.hidden_size * _gate_rows(config.moe)
    return _work(flops, _layer_parameters(config, share, layer), workload)


def embedding_work(config: ModelConfig, share: Share, workload: Workload) -> Work:
    """Return the work of looking tokens up: hardly any forward, a dense gradient backward."""
    return _work(0, _end_parameters(config, share, "embedding"), workload)


def head_work(config: ModelConfig, share: Share, workload: Workload) -> Work:
    """Return the work of the logits, and of their loss where training. No gang splits it."""
    flops = 2 * config.hidden_size * config.vocab_size
    work = _work(flops, _end_parameters(config, share, "head"), workload)
    if not workload.training:
        return work
    loss_bytes = _LOSS_PASSES * _FLOAT_BYTES * config.vocab_size * workload.tokens
    return Work(work.flops, work.bytes + loss_bytes)


def attention_columns(config: ModelConfig, share: Share) -> tuple[int, int]:
    """Return the columns of queries, and of keys (as many again of values), that a share holds."""
    key_value = (share.kv_heads[1] - share.kv_heads[0]) * config.head_size
    return key_value * config.heads_per_kv, key_value


def feed_forward_columns(config: ModelConfig, share: Share, layer: int) -> int:
    """Return the columns that every token passes in a block: dense, or the shared expert's."""
    experts = config.has_experts(layer)
    start, stop = shared_span(config, share.ffn) if experts else share.ffn
    return stop - start


def routed(config: ModelConfig, share: Share) -> float:
    """Return how many of a token's top-k experts a share holds, on average under even load."""
    if config.moe is None:
        return 0.0
    return config.moe.top_k * len(share.experts) / config.moe.experts


def _work(flops: float, parameters: int, workload: Workload) -> Work:
    if not workload.training:
        return Work(flops * workload.tokens, 0.0)
    return Work(
        flops * workload.tokens * (1 + _BACKWARD),
        float(_GRADIENT_PASSES * _FLOAT_BYTES * parameters),
    )


def _gate_rows(moe: MoeConfig) -> int:
    """Return the rows of the products that weigh experts: the router's, the shared gate's."""
    return (0 if moe.hashed else moe.experts) + moe.shared_gate


def _layer_parameters(config: ModelConfig, share: Share, layer: int) -> int:
    """Count what a share holds of one layer, in a model of no other."""
    moe = config.moe and replace(config.moe, dense_layers=())
    alone = replace(config, layers=1, moe=moe if config.has_experts(layer) else None)
    block = replace(share, layers=(0, 1), embedding=False, head=False)
    return sum(part.elements for part in held_by(alone, block))


def _end_parameters(config: ModelConfig, share: Share, end: str) -> int:
    no_layer = replace(share, layers=(0, 0), embedding=end == "embedding", head=end == "head")
    return sum(part.elements for part in held_by(replace(config, layers=1, moe=None), no_layer))

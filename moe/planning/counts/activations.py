"""What autograd keeps of one block for the backward pass: numbers per token, an estimate.

With H hidden, Q and K query and key-value columns held, F feed-forward columns held, E experts held
of N, each X wide, k E / N of them routed to, and G columns held of the shared expert:

    block          6 H + 2 Q + 2 K                     norms, products' inputs, attention
      q-k norms    2 Q + 2 K                           their inputs, brought to unit size
      dense        4 F                                 gate, silu, up, their product
      MoE          2 X k E / N  +  N                   gate and up, the rest made again; router
        bf16, GPU  2 X k                               in place of the first, or what a capacity
                                                       lets through
        shared     4 G  (+ H)                          as dense (and its output, if gated)
      merged       2 F  +  N                           gate and up of the merged feed-forward

A block of SmolLM2-135M keeps 11147 floats per token, counted 11136; with 4 experts 11161 (11140);
with 16 fine-grained ones, top-3, and half a feed-forward shared and gated 10982 (10960).
"""

from moe.config.model import ModelConfig
from moe.config.share import Share
from moe.planning.counts.work import attention_columns, feed_forward_columns, routed
from moe.planning.counts.workload import Workload


def block_activations(config: ModelConfig, share: Share, layer: int, workload: Workload) -> float:
    """Return the activations that one block keeps per token: numbers that are float32 always, in
    bf16, count twice.

    Those are the inputs of norms and what they bring to unit size; and the input of router and
    shared gate, which in float32 is that of the experts.
    """
    numerics = workload.stored
    floats = block_floats(config, share, layer) + foreign_floats(config, share, layer, workload)
    more = numerics.stretch - 1
    if not more:
        return floats
    exact: float = 4 * config.hidden_size
    if config.query_key_norm is not None:
        exact += 2 * sum(attention_columns(config, share))
    moe = config.moe
    if moe is None or moe.hashed or not config.has_experts(layer):
        return floats + more * exact
    return floats + more * (exact + moe.experts) + numerics.stretch * config.hidden_size


def foreign_floats(config: ModelConfig, share: Share, layer: int, workload: Workload) -> float:
    """Return the numbers of gate and up that a member of a gang keeps for what others compute.

    In bf16 on GPUs its host does not know how many pairs of a token and an expert are its own. So
    there is room for all of them, or for as many as a capacity lets through (``moe.nn.experts``).
    """
    own, moe = routed(config, share, layer), config.moe
    grouped = workload.gpus and workload.training and workload.numerics.narrow
    if moe is None or not own or not config.has_experts(layer) or not grouped:
        return 0.0
    room = min(moe.top_k, own * (workload.capacity_factor or moe.experts))
    return 2 * moe.expert_size * max(room - own, 0.0)


def block_floats(config: ModelConfig, share: Share, layer: int) -> float:
    """Return the numbers that one block keeps per token, in float32."""
    query, key_value = attention_columns(config, share)
    floats: float = 6 * config.hidden_size + 2 * query + 2 * key_value
    if config.query_key_norm is not None:
        floats += 2 * (query + key_value)
    moe = config.moe
    merged = config.has_experts(layer) and not config.placed_experts
    floats += (2 if merged else 4) * feed_forward_columns(config, share, layer)
    if moe is None or not config.has_experts(layer):
        return floats
    floats += 2 * moe.expert_size * routed(config, share, layer)
    floats += config.hidden_size if moe.shared_gate else 0
    return floats if moe.hashed else floats + moe.experts

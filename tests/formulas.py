"""The papers' formulas said once more, one token at a time: what every other computation must meet.

Nothing here is taken from ``moe``. A model is its ``config.json`` and its tensors under the names
they have on disk; numbers are float64. Slow, so for tiny models only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Table = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
Choice = list[tuple[int, Tensor]]
"""The experts of one token, each with its weight."""


def logits(table: Table, tensors: Tensors, tokens: Tensor) -> Tensor:
    """Return the logits [B, S, V] of token numbers [B, S]."""
    return torch.stack([_sequence(table, tensors, row) for row in tokens.tolist()])


def _sequence(table: Table, tensors: Tensors, tokens: Sequence[int]) -> Tensor:
    embedding, epsilon = tensors["model.embed_tokens.weight"], table["rms_norm_eps"]
    x = torch.stack([embedding[token] for token in tokens])
    for layer in range(table["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        part = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        x = x + _attention(table, part, _norm(x, part["input_layernorm.weight"], epsilon))
        y = _norm(x, part["post_attention_layernorm.weight"], epsilon)
        x = x + torch.stack(
            [_feed_forward(table, part, layer, y[t], tokens[t]) for t in range(len(tokens))]
        )
    x = _norm(x, tensors["model.norm.weight"], epsilon)
    return x @ (embedding if table["tie_word_embeddings"] else tensors["lm_head.weight"]).T


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / ((x * x).mean(dim=-1, keepdim=True) + epsilon).sqrt() * weight


def _linear(part: Tensors, name: str, x: Tensor) -> Tensor:
    y = x @ part[f"{name}.weight"].T
    return y + part[f"{name}.bias"] if f"{name}.bias" in part else y


def _attention(table: Table, part: Tensors, x: Tensor) -> Tensor:
    """Scaled dot products with the positions before, at most ``sliding_window`` of them."""
    heads, sharers = table["num_attention_heads"], table["num_key_value_heads"]
    size, window = table["head_dim"], table.get("sliding_window") or len(x)
    kind, epsilon = table.get("query_key_norm"), table["rms_norm_eps"]
    projected = {name: _linear(part, f"self_attn.{name}_proj", x) for name in "qkv"}
    for name in "qk":
        if kind == "all":
            norm = part[f"self_attn.{name}_norm.weight"]
            projected[name] = _norm(projected[name], norm, epsilon)

    def head(name: str, number: int) -> Tensor:
        rows = projected[name][:, number * size : (number + 1) * size]
        if name != "v" and kind == "head":
            rows = _norm(rows, part[f"self_attn.{name}_norm.weight"], epsilon)
        if name == "v":
            return rows
        return torch.stack([_turned(table, rows[t], t) for t in range(len(x))])

    mixed = []
    for number in range(heads):
        query = head("q", number)
        key, value = (head(name, number * sharers // heads) for name in "kv")
        rows = []
        for t in range(len(x)):
            seen = slice(max(0, t - window + 1), t + 1)
            weights = (key[seen] @ query[t] / math.sqrt(size)).softmax(dim=0)
            rows.append(weights @ value[seen])
        mixed.append(torch.stack(rows))
    return _linear(part, "self_attn.o_proj", torch.cat(mixed, dim=-1))


def _turned(table: Table, x: Tensor, position: int) -> Tensor:
    """Turn each pair (i, i + half) by position * frequency_i: the half-rotation layout."""
    half = len(x) // 2
    first, second = [], []
    for i in range(half):
        angle = position * _frequency(table, table["rope_theta"] ** (-i / half))
        cos, sin = math.cos(angle), math.sin(angle)
        first.append(x[i] * cos - x[i + half] * sin)
        second.append(x[i + half] * cos + x[i] * sin)
    return torch.stack(first + second)


def _frequency(table: Table, plain: float) -> float:
    scaling = table.get("rope_scaling")
    if not scaling:
        return plain
    stretched = plain / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return stretched
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = min(1.0, max(0.0, (turns - low) / (high - low)))
    return kept * plain + (1 - kept) * stretched


def _swiglu(
    part: Tensors, prefix: str, x: Tensor, names: str = "gate_proj up_proj down_proj"
) -> Tensor:
    gate, up, down = (f"{prefix}.{name}" for name in names.split())
    inner = _linear(part, gate, x)
    return _linear(part, down, inner * inner.sigmoid() * _linear(part, up, x))


def _feed_forward(table: Table, part: Tensors, layer: int, x: Tensor, token: int) -> Tensor:
    """Dispatch on the format; each knows which of its layers are dense."""
    family = table["model_type"]
    if family == "skywork":
        return _swiglu(part, "mlp", x)
    if family == "skywork_moe":
        return _skywork(table, part, x)
    if family == "deepseek":
        first, every = table["first_k_dense_replace"], table["moe_layer_freq"]
        dense = layer < first or layer % every != 0
        return _swiglu(part, "mlp", x) if dense else _deepseek(table, part, x)
    if layer in table["dense_layers"]:
        return _swiglu(part, "mlp", x)
    return _raymoe(table, part, layer, x, token)


def _skywork(table: Table, part: Tensors, x: Tensor) -> Tensor:
    """Skywork-MoE section 4.1 and equation 2."""
    z = part["block_sparse_moe.gate.weight"] @ x
    if table.get("moe_use_logits_norm") and len(z) > 1:
        z = table["moe_gate_norm_std"] * (z - z.mean()) / z.std(unbiased=True)
    g = z.softmax(dim=0)
    chosen = _largest(g, table["num_experts_per_tok"])
    total = sum(g[j] for j in chosen)
    y = torch.zeros_like(x)
    for j in chosen:
        expert = f"block_sparse_moe.experts.{j}"
        y = y + g[j] * _swiglu(part, expert, x, "w1 w3 w2") / total
    return y


def _deepseek(table: Table, part: Tensors, x: Tensor) -> Tensor:
    """DeepSeekMoE section 3: raw softmax weights beside shared experts of weight 1."""
    s = (part["mlp.gate.weight"] @ x).softmax(dim=0)
    chosen = _largest(s, table["num_experts_per_tok"])
    total: Any = sum(s[j] for j in chosen) if table["norm_topk_prob"] and len(chosen) > 1 else 1.0
    y = sum(s[j] / total * _swiglu(part, f"mlp.experts.{j}", x) for j in chosen)
    return y + _swiglu(part, "mlp.shared_experts", x) if table["n_shared_experts"] else y + 0.0


def _raymoe(table: Table, part: Tensors, layer: int, x: Tensor, token: int) -> Tensor:
    if table["hashed"]:
        experts = _hashed(token, layer, table["n_routed_experts"])
        choice: Choice = [(experts, torch.ones((), dtype=x.dtype))]
    else:
        choice = _choice(table, part, part["mlp.gate.weight"] @ x)
    y = torch.zeros_like(x)
    for j, weight in choice:
        y = y + weight * _swiglu(part, f"mlp.experts.{j}", x)
    if not table["shared_expert_intermediate_size"]:
        return y
    shared = _swiglu(part, "mlp.shared_experts", x)
    if table["shared_gate"]:
        shared = shared * (part["mlp.shared_expert_gate.weight"][0] @ x).sigmoid()
    return y + shared


def _choice(table: Table, part: Tensors, z: Tensor) -> Choice:
    """Scores, then the bias and the groups for the choice alone, then weights."""
    if table["gate_norm"] is not None and len(z) > 1:
        z = table["gate_norm"] * (z - z.mean()) / z.std(unbiased=True)
    s = z.sigmoid() if table["scoring_func"] == "sigmoid" else z.softmax(dim=0)
    merit = s.detach()
    if table["balance_bias"]:
        merit = merit + part["mlp.gate.e_score_correction_bias"]
    chosen = _largest(_reachable(table, merit), table["num_experts_per_tok"])
    weights = [s[j] for j in chosen]
    if table["softmax_after"]:
        total = sum(z[j].exp() for j in chosen)
        weights = [z[j].exp() / total for j in chosen]
    if table["norm_topk_prob"]:
        total = sum(weights)
        weights = [weight / total for weight in weights]
    return [(j, table["routed_scaling_factor"] * w) for j, w in zip(chosen, weights, strict=True)]


def _reachable(table: Table, merit: Tensor) -> Tensor:
    """Leave the experts of the best groups, by the sum of the best few of each."""
    groups = merit.chunk(table["n_group"])
    few = table["group_best"]
    merits = torch.stack([group.sort(descending=True).values[:few].sum() for group in groups])
    best = _largest(merits, table["topk_group"])
    away = torch.full_like(groups[0], -math.inf)
    return torch.cat([group if g in best else away for g, group in enumerate(groups)])


def _largest(values: Tensor, k: int) -> list[int]:
    numbers: list[int] = values.argsort(descending=True)[:k].tolist()
    return numbers


def _hashed(token: int, layer: int, experts: int) -> int:
    mixed = (token * 2654435761 + (layer + 1) * 2246822519) % 2**32
    return (mixed // 2**16) % experts

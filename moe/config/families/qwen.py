"""What the Qwen models with experts have in common."""

from typing import Any

from moe.config.families.experts import dense_layers, expert_count
from moe.config.model import MoeConfig
from moe.config.values import Table, count, flag, require


def read_experts(table: Table, default: int, **shared: Any) -> MoeConfig:
    """Return the MoE part; without its key, the top-k is not renormalised."""
    require(table, "use_sliding_window", False)
    return MoeConfig(
        experts=expert_count(table, default),
        top_k=count(table, "num_experts_per_tok"),
        expert_size=count(table, "moe_intermediate_size"),
        renormalise=flag(table, "norm_topk_prob"),
        dense_layers=dense_layers(table),
        **shared,
    )


def experts_table(moe: MoeConfig) -> dict[str, Any]:
    """Return the keys of the MoE part; layers without experts are listed one by one."""
    return {
        "num_experts": moe.experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_size,
        "norm_topk_prob": moe.renormalise,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(moe.dense_layers),
        "use_sliding_window": False,
    }

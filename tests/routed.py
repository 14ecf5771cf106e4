"""A small model of our own family, which has every option of routing."""

from typing import Any

import torch

from moe.config.model import ModelConfig, MoeConfig
from moe.nn.balance import Balance, BalanceLoss, BalanceScope, Spread

KINDS: list[BalanceLoss] = ["skywork", "switch"]
SCALES = {0: 0.5, 1: 0.0, 2: 0.03}
SEEN = Spread(torch.tensor([[0.4, 0.3, 0.2, 0.1]]), torch.tensor([[0.1, 0.2, 0.4, 0.3]]))


def routed(layers: int = 3, **options: Any) -> ModelConfig:
    """Return the architecture; ``options`` are those of ``MoeConfig``."""
    return ModelConfig(
        family="raymoe",
        vocab_size=97,
        hidden_size=24,
        layers=layers,
        heads=6,
        kv_heads=3,
        head_size=8,
        ffn_size=40,
        norm_eps=1e-6,
        rope_theta=1e4,
        max_positions=256,
        tie_embeddings=True,
        moe=MoeConfig(**({"experts": 4, "top_k": 2, "expert_size": 20} | options)),
    )


def settings_of(kind: BalanceLoss, scope: BalanceScope = "micro-batch") -> Balance:
    """Return every loss on a router at once, with what is known of the step before."""
    before = dict.fromkeys(SCALES, SEEN) if scope == "global-batch" else {}
    return Balance(kind, scope, SCALES, z=0.02, device=0.3, device_groups=3, before=before)

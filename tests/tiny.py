"""Tiny random models of real families, made by transformers, for every test that needs one."""

from pathlib import Path
from typing import Any

import torch
import transformers

transformers.utils.logging.disable_progress_bar()

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "eager",
}


EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
SMALL_EXPERTS: dict[str, Any] = EXPERTS | {"num_experts": 4, "moe_intermediate_size": 12}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "mixtral": EXPERTS | {"num_local_experts": 4},
    "olmoe": EXPERTS | {"num_experts": 4, "head_dim": 4, "pad_token_id": None},
    "qwen2_moe": SMALL_EXPERTS | {"shared_expert_intermediate_size": 20},
    "qwen3_moe": SMALL_EXPERTS,
}
"""What each family needs beside the common sizes. A pad token's row would get no gradient."""


def model(family: str, seed: int = 0, **changes: Any) -> Any:
    """Return a random transformers model of a family."""
    torch.manual_seed(seed)
    table = SMALL | OF_FAMILY[family] | changes
    config = transformers.AutoConfig.for_model(family, **table)
    return _shaken(transformers.AutoModelForCausalLM.from_config(config))


def llama(seed: int = 0, **changes: Any) -> Any:
    """Return a random transformers Llama."""
    return model("llama", seed, **changes)


def mixtral(seed: int = 0, **changes: Any) -> Any:
    """Return a random transformers Mixtral."""
    return model("mixtral", seed, **changes)


def saved(model: Any, path: Path) -> Path:
    """Save a transformers model as a directory."""
    model.save_pretrained(path)
    return path


def tokens(vocab_size: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Return random token numbers."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def _shaken(model: Any) -> Any:
    """Make weights large enough that no error hides in a nearly linear model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if name.endswith("norm.weight"):
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(0.15 * noise)
    return model.eval()

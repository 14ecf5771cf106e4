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


def llama(seed: int = 0, **changes: Any) -> Any:
    """Return a random transformers Llama."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**(SMALL | changes))
    return _shaken(transformers.LlamaForCausalLM(config))


def mixtral(seed: int = 0, **changes: Any) -> Any:
    """Return a random transformers Mixtral."""
    torch.manual_seed(seed)
    sizes = SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2}
    sizes |= {"experts_implementation": "eager"}
    config = transformers.MixtralConfig(**(sizes | changes))
    return _shaken(transformers.MixtralForCausalLM(config))


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

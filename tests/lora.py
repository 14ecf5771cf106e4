"""Random adapters of tiny models, made and saved by peft, and what peft answers with them."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
STACKED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
ROUTER = ("mlp.gate.weight",)


@contextmanager
def quiet() -> Iterator[None]:
    """Let peft say that it converts settings of experts."""
    with warnings.catch_warnings(action="ignore"):
        yield


def adapter(model: Path, to: Path, seed: int = 0, **settings: Any) -> Path:
    """Save a random adapter of a model; both of its matrices have values."""
    torch.manual_seed(seed)
    options = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    with quiet():
        base = transformers.AutoModelForCausalLM.from_pretrained(model)
        made = peft.get_peft_model(base, peft.LoraConfig(**options | settings))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.copy_(0.2 * torch.randn_like(parameter))
        made.save_pretrained(to)
    return to


class Adapted:
    """A transformers model with an adapter, as peft reads it."""

    def __init__(self, model: Path, directory: Path | None) -> None:
        with quiet():
            self._model = transformers.AutoModelForCausalLM.from_pretrained(model)
            if directory is not None:
                self._model = peft.PeftModel.from_pretrained(self._model, directory)
        self._model.eval()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits after each token."""
        with torch.inference_mode():
            found: Tensor = self._model(torch.tensor([list(tokens)])).logits[0]
        return found

    def continued(self, prompt: Sequence[int], count: int) -> list[int]:
        """Return the likeliest tokens after a prompt."""
        out = self._model.generate(
            input_ids=torch.tensor([list(prompt)]),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return [int(token) for token in out[0, len(prompt) :]]

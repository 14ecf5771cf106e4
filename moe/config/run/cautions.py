"""Warnings about a run on a model."""

from moe.config.model import ModelConfig
from moe.config.run.balance import BiasCoefficient
from moe.config.run.config import RunConfig


def model_cautions(run: RunConfig, model: ModelConfig) -> list[str]:
    """Return warnings: where a run on a model loses work or learns less than expected."""
    found = []
    if not run.elastic.copies and run.checkpoint.every == 0:
        found.append(
            "elastic.copy_every is 0 and checkpoint.every is 0, so the loss of any rank sends the "
            "run back to its beginning."
        )
    moe = model.moe
    if moe is None or not moe.gated:
        return found
    if moe.balance_bias and not isinstance(run.balance.coefficient, BiasCoefficient):
        found.append(
            f"the balance bias does not change: balance.coefficient.type is "
            f'{run.balance.coefficient.type}, and only "bias" moves it.'
        )
    if moe.top_k == 1 and moe.sums_to_one and run.routing.choose == "tokens":
        found.append(
            "the weight of the one expert of a token is always 1, so routers get no gradient from "
            "the model's loss, only from the losses of [balance]."
        )
    if moe.gate_norm is not None and moe.experts == 2:
        found.append(
            "two gate logits normalised to one deviation are always the same two numbers, so "
            "routers "
            "get no gradient from the model's loss; use more experts or remove gate_norm."
        )
    return found

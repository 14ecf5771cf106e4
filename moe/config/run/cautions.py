"""What a person should know of a run on a model that is no error."""

from moe.config.model import ModelConfig
from moe.config.run.balance import BiasCoefficient
from moe.config.run.config import RunConfig


def model_cautions(run: RunConfig, model: ModelConfig) -> list[str]:
    """Return where a run on a model loses or learns less than one might think."""
    found = []
    if run.plan.least_replicas is not None and run.checkpoint.every == 0:
        found.append(
            "every change of replicas begins again at the last checkpoint, and checkpoint.every is "
            "0: that is the start."
        )
    moe = model.moe
    if moe is None or moe.hashed:
        return found
    if moe.balance_bias and not isinstance(run.balance.coefficient, BiasCoefficient):
        found.append(
            f"the balance bias stays as it is: balance.coefficient.type is "
            f'{run.balance.coefficient.type}, and only "bias" moves it.'
        )
    if moe.top_k == 1 and moe.sums_to_one and run.routing.choose == "tokens":
        found.append(
            "the weight of the one expert of a token is always 1, so routers get no gradient from "
            "the model's loss, only from those of [balance]."
        )
    if moe.gate_norm is not None and moe.experts == 2:
        found.append(
            "two gate logits brought to one deviation are always the same two numbers, so routers "
            "get no gradient from the model's loss; take more experts or leave out gate_norm."
        )
    return found

"""Upcycle or train from scratch: the verdict, its reasons, what each costs here, in lines."""

from moe.config.model import ModelConfig
from moe.planning.advice.upcycle_or_scratch import Advice, Cost, Fleet, Terms, advise_budget
from moe.planning.prediction.predict import Prediction
from moe.planning.search.search import Question
from pipelines.planning.capacity import flops_per_second

_VERDICTS = {
    "upcycle": "verdict: upcycle the dense checkpoint",
    "borderline": "verdict: borderline, upcycling and training from scratch cost about the same",
    "scratch": "verdict: train from scratch",
}
_HOURS_PER_DAY = 24


def verdict_lines(
    question: Question,
    predicted: Prediction | None,
    dense: ModelConfig | None,
    dense_tokens: float,
    moe_tokens: float,
) -> list[str]:
    """Return them; hours are those of the predicted training, where there is one."""
    terms = Terms(sequence_length=question.workload.sequence_length)
    fleet = None if predicted is None else _fleet(question.config, predicted, terms)
    advice = advise_budget(dense, question.config, dense_tokens, moe_tokens, terms, fleet)
    devices = fleet.devices if fleet else 1
    costs = [_cost("the MoE", advice.moe, devices)]
    if advice.dense is not None:
        costs.append(_cost("the dense model", advice.dense, devices))
        costs += _limits(advice)
    return [
        _VERDICTS[advice.verdict],
        *(f"  {reason}" for reason in advice.reasons),
        *(f"  {line}" for line in costs),
        *(f"  watch: {what}" for what in advice.watch),
    ]


def _fleet(config: ModelConfig, predicted: Prediction, terms: Terms) -> Fleet:
    """Return what the devices reach on a dense model, so that the MoE's hours are as predicted."""
    reached = terms.communication * flops_per_second(config, predicted)
    return Fleet(reached, len(predicted.rank_bytes) * predicted.replicas)


def _cost(what: str, cost: Cost, devices: int) -> str:
    line = (
        f"{what}: {cost.active_parameters / 1e9:.3g}B active parameters, {cost.tokens / 1e9:,.4g}B "
        f"tokens, {cost.flops:.3g} FLOPs"
    )
    if cost.device_hours is None:
        return line
    days = cost.device_hours / devices / _HOURS_PER_DAY
    shown = f"{days:,.0f}" if days >= 1000 else f"{days:.3g}"
    return f"{line}, {cost.device_hours:,.0f} device hours, {shown} days on {devices} devices"


def _limits(advice: Advice) -> list[str]:
    upcycle, scratch = (each / 1e9 for each in advice.break_even_tokens)
    if not scratch:
        return []
    return [
        f"upcycling pays up to {upcycle:,.4g}B tokens of the MoE, training from scratch from "
        f"{scratch:,.4g}B tokens on"
    ]

"""Cases of megatron's functions: routing, losses, capacity, dropping, the balance bias."""

import itertools

import torch
from megatron.core.transformer.moe import moe_utils
from torch import Tensor

from tests.oracles.cases import Cases, Draw, case, mask_of_padding, name, short


def routing(draw: Draw) -> Cases:
    options = [
        *({"topk": k, "use_pre_softmax": pre} for k in (1, 2, 4) for pre in (True, False)),
        {"topk": 2, "use_pre_softmax": True, "scaling_factor": 2.5},
        {"topk": 2, "use_pre_softmax": True, "num_groups": 4, "group_topk": 2},
        {"topk": 4, "use_pre_softmax": True, "num_groups": 4, "group_topk": 2},
        {"topk": 4, "num_groups": 4, "group_topk": 2},
        {"topk": 4, "num_groups": 2, "group_topk": 1},
        *({"topk": k, "score_function": "sigmoid"} for k in (1, 2, 4)),
        *({"topk": k, "score_function": "sigmoid", "bias": True} for k in (1, 2, 4)),
        {"topk": 4, "score_function": "sigmoid", "bias": True, "num_groups": 4, "group_topk": 2},
        {"topk": 4, "score_function": "sigmoid", "bias": True, "num_groups": 4, "group_topk": 1}
        | {"scaling_factor": 2.5},
    ]
    for given in options:
        option = _routing_options(given)
        experts = 16 if option["num_groups"] else 8
        logits = torch.cat((draw.logits(6, experts), draw.logits(6, experts, skewed=True)))
        cotangent = draw.normal(12, experts)
        bias = draw.normal(experts, scale=0.2) if given.get("bias") else None
        leaf = logits.clone().requires_grad_()
        probs, chosen = moe_utils.topk_routing_with_score_function(leaf, expert_bias=bias, **option)
        (probs * cotangent).sum().backward()
        yield (
            name(given, None),
            case(
                option,
                {"logits": logits, "expert_bias": bias, "cotangent": cotangent},
                {"probs": probs, "map": chosen, "gradient": leaf.grad},
            ),
        )


def balance(draw: Draw) -> Cases:
    kinds = itertools.product(("softmax", "sigmoid"), (1, 2, 4), (False, True), (False, True))
    for score, topk, skewed, padded in kinds:
        if topk != 2 and (padded or not skewed):
            continue
        option = {"topk": topk, "score_function": score, "coefficient": 0.01}
        logits, padding = draw.logits(12, 8, skewed=skewed), mask_of_padding(12) if padded else None
        leaf = logits.clone().requires_grad_()
        chosen, scores = moe_utils.compute_routing_scores_for_aux_loss(
            leaf, topk, score, padding_mask=padding
        )
        counts = chosen.sum(dim=0)
        loss = moe_utils.switch_load_balancing_loss_func(
            scores, counts, counts.sum() / topk, topk, 8, moe_aux_loss_coeff=0.01
        )
        loss.backward()
        yield (
            name({"topk": topk, "score_function": score, "padded": padded}, skewed),
            case(
                option,
                {"logits": logits, "padding": padding},
                {"tokens_per_expert": counts, "loss": loss, "gradient": leaf.grad},
            ),
        )


def z_loss(draw: Draw) -> Cases:
    for padded, skewed in itertools.product((False, True), (False, True)):
        logits = short(draw.logits(12, 8, skewed=skewed) * 3)
        padding = mask_of_padding(12) if padded else None
        leaf = logits.clone().requires_grad_()
        loss = moe_utils.z_loss_func(leaf, 0.001, padding_mask=padding)
        loss.backward()
        yield (
            name({"padded": padded}, skewed),
            case(
                {"coefficient": 0.001},
                {"logits": logits, "padding": padding},
                {"loss": loss, "gradient": leaf.grad},
            ),
        )


def capacity(draw: Draw) -> Cases:
    rows = [
        *itertools.product((0, 1, 24, 32, 200), (4, 8), (0.5, 1.0, 1.1, 1.25), (None,)),
        *((tokens, 8, 1.0, 4) for tokens in (0, 24, 64)),
    ]
    for tokens, experts, factor, least in rows:
        option = {"num_tokens": tokens, "num_experts": experts, "capacity_factor": factor}
        option["min_capacity"] = least
        yield (
            "-".join(map(str, (tokens, experts, factor, least or "none"))),
            case(option, {}, {"capacity": moe_utils.get_capacity(**option)}),
        )


def dropping(draw: Draw) -> Cases:
    choices = [{"topk": k, "use_pre_softmax": True} for k in (1, 2, 4)]
    choices += [{"topk": 2}, {"topk": 4}]
    choices += [{"topk": k, "score_function": "sigmoid"} for k in (1, 2)]
    limits = [("probs", factor, False) for factor in (0.5, 1.0, 1.25, 8.0)]
    limits += [("position", 0.5, False), ("position", 1.0, False), ("probs", 1.0, True)]
    for given, (policy, factor, pad), skewed in itertools.product(choices, limits, (False, True)):
        if not skewed and (given["topk"], policy, factor, pad) != (2, "probs", 1.0, False):
            continue
        if factor in (1.25, 8.0) and given["topk"] != 2:
            continue
        if (policy == "position" or pad) and not given.get("use_pre_softmax"):
            continue
        option = _routing_options(given)
        logits = draw.logits(12, 8, skewed=skewed)
        before, chosen = moe_utils.topk_routing_with_score_function(logits, **option)
        limit = {"capacity_factor": factor, "drop_policy": policy, "pad_to_capacity": pad}
        slots = moe_utils.get_capacity(12 * option["topk"], 8, factor)
        if policy == "probs":
            _refuse_ties(before, slots)
        probs, kept = moe_utils.apply_router_token_dropping(before, chosen, option["topk"], **limit)
        outputs = {"capacity": slots, "routed_per_expert": chosen.sum(dim=0)}
        outputs["kept_per_expert"] = kept.sum(dim=0)
        if policy == "probs":
            outputs["probs"] = probs
        if policy == "probs" and not pad:
            outputs["map"] = kept
        used = ("topk", "use_pre_softmax", "score_function")
        yield (
            name(given | limit, skewed),
            case({key: option[key] for key in used} | limit, {"logits": logits}, outputs),
        )


def bias(draw: Draw) -> Cases:
    for experts, rate in itertools.product((4, 8), (0.001, 0.1)):
        steps = torch.randint(0, 20, (4, experts), generator=draw.generator).float()
        steps[1] = 5.0
        steps[2] = torch.tensor([4.0, 8.0] + [6.0] * (experts - 2))  # most stand at the mean
        start = draw.normal(experts, scale=0.2)
        after = [start]
        for counts in steps:
            after.append(moe_utils.get_updated_expert_bias(counts.clone(), after[-1], rate))
        yield (
            f"{experts}-{rate}",
            case(
                {"rate": rate},
                {"tokens_per_expert": steps, "expert_bias": start},
                {"expert_bias": torch.stack(after[1:])},
            ),
        )


def _routing_options(given: dict) -> dict:
    defaults = {"use_pre_softmax": False, "num_groups": None, "group_topk": None}
    defaults |= {"scaling_factor": None, "score_function": "softmax"}
    return defaults | {key: value for key, value in given.items() if key != "bias"}


def _refuse_ties(probs: Tensor, slots: int) -> None:
    """Raise where the last weight kept and the first dropped are equal: the case says nothing."""
    ranked = probs.sort(dim=0, descending=True).values
    if slots < len(ranked):
        last, first = ranked[slots - 1], ranked[slots]
        if ((first > 0) & (last - first < 1e-5)).any():
            raise ValueError(f"weights tie at place {slots}; draw other logits")

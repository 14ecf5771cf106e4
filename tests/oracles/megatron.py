"""Golden values of the routing, loss and upcycling maths, computed by megatron-core 0.16.1.

Run by an environment of its own (``requirements.txt`` beside this file), never by ours::

    python -W ignore tests/oracles/megatron.py --to tests/oracles/megatron.json
    python -W ignore tests/oracles/megatron.py --check tests/oracles/megatron.json

Every number comes out of a function or module of ``megatron.core.transformer.moe``, run on one
CPU process in float32. Inputs are stored beside the outputs, so a test needs no seed.

The file is ``{group: {case: {"options": .., "inputs": .., "outputs": ..}}}``, and ``"versions"``.
Floats give back the float32 exactly. Maps are dense, 0 or 1. Legend: T
tokens, N experts, K chosen per token, H hidden, F width, S positions, B sequences, M micro-batches.
``null`` is an option or input not given. Logits are ``even``, standard normal, or ``skewed``, that
plus a slope from +2 at the first expert to -2 at the last; a name that tells neither means skewed,
in ``routing`` six tokens of the first and six of the second, in ``layer`` what the router makes of
the hidden states. No two drawn logits of a token are closer than 1e-3, so the choice of experts
never hangs on a tie.

``routing``: ``topk_routing_with_score_function``
    options topk, use_pre_softmax, num_groups, group_topk, scaling_factor, score_function
    inputs  logits [T, N], expert_bias [N], cotangent [T, N]
    outputs probs [T, N] (weights of the chosen, zero elsewhere), map [T, N],
            gradient [T, N] of sum(probs * cotangent) with respect to the logits
    - softmax: pre is softmax over all, then top-k, *not* renormalised; post is top-k of the
      logits, then softmax over the chosen. The bias is ignored with softmax.
    - sigmoid: top-k of sigmoid + bias, weights are the sigmoids without bias, divided by their sum
      + 1e-20 if topk > 1. With topk 1 the sigmoid is left as it is.
    - groups: consecutive experts. A group scores the sum of its (topk // group_topk) largest
      selection scores (bias included; raw logits for post softmax), the best group_topk groups
      are open. DeepSeek-V2 takes the largest score instead, which this equals if topk is
      group_topk; DeepSeek-V3 the sum of two, which this equals if topk is 2 * group_topk.
    - scaling_factor multiplies last.

``balance``: ``compute_routing_scores_for_aux_loss``, then ``switch_load_balancing_loss_func``
    options topk, score_function, coefficient
    inputs  logits [T, N], padding [T] (1 = padding)
    outputs tokens_per_expert [N], loss (with coefficient), gradient [T, N] of it
    coefficient * N * sum_j f_j P_j with f_j = tokens_j / (T topk), P_j = mean_t score_tj, T without
    padding. Scores are the softmax over all experts, or sigmoids divided by their sum over *all*
    experts. The counts come from a top-k of these plain scores: without bias, groups or capacity.

``z_loss``: ``z_loss_func``
    options coefficient; inputs logits [T, N], padding [T]; outputs loss, gradient [T, N]
    coefficient * mean over tokens without padding of logsumexp(logits)^2. All padding: 0.

``router_loss``: a whole ``TopKRouter`` in training, each loss as megatron attaches it
    options kind (aux_loss, seq_aux_loss, global_aux_loss, z_loss), topk, score_function,
            pre_softmax, coefficient
    inputs  logits [M, S, B, N], padding [S, B] (1 = padding, the same in each micro-batch)
    outputs loss [M] (without coefficient), gradient [M, S, B, N] (with it)
    - seq_aux_loss: the mean over sequences of the loss of each. With padding T in its formula is
      the mean number of tokens per sequence, not each sequence's own.
    - global_aux_loss: the m-th loss takes its counts from the mean over the first m micro-batches,
      its probabilities from its own. Gradients flow through the probabilities alone.
    Softmax scores of the losses are those of ``balance`` whatever pre_softmax says.

``capacity``: ``get_capacity``
    options num_tokens, num_experts, capacity_factor, min_capacity; outputs capacity
    ceil((num_tokens / num_experts) * factor) in doubles, so 200 / 4 * 1.1 is 56. Callers pass
    num_tokens = T * topk.

``dropping``: ``topk_routing_with_score_function``, then ``apply_router_token_dropping``
    options topk, use_pre_softmax, score_function, capacity_factor, drop_policy, pad_to_capacity
    inputs  logits [T, N]
    outputs capacity, routed_per_expert [N], kept_per_expert [N], and where it is well defined
            probs [T, N], map [T, N]
    An expert keeps at most ``capacity`` of T tokens; nothing is dropped if capacity > T. Survivors
    are *not* reweighted. Policy probs keeps the largest *weights* (after renormalisation and
    scaling), not the largest probabilities. Where the last kept and first dropped weight are equal
    the winner is whatever torch.topk finds; no case here has such a tie. Policy position is a
    torch.topk of a column of zeros and ones: on CPU it does *not* keep the first tokens but an
    unspecified choice, so only kept_per_expert is stored. With pad_to_capacity the map gains tokens
    of weight zero, chosen just as arbitrarily: only probs and kept_per_expert (padding included)
    are stored.

``bias``: ``get_updated_expert_bias`` (gloo, one process)
    options rate; inputs tokens_per_expert [M, N], expert_bias [N]; outputs expert_bias [M, N]
    after each of M updates: bias + rate * sign(mean count - count); a count at the mean stays.

``upcycling``: ``upcycle_state_dict`` from an ``MLP`` to a ``MoELayer`` of ``SequentialMLP``
    options experts, topk, granularity, pre_softmax, activation (swiglu, squared_relu, gelu)
    inputs  fc1 [2F, H] (rows of the gate, then of the linear half; [F, H] if not gated),
            fc2 [H, F], router [N, H], hidden [T, H]
    outputs scale, router [N, H], fc1 [N, .., H], fc2 [N, H, F / granularity], dense [T, H], moe
            [T, H]: what both compute from hidden, dropless
    - the width is cut into ``granularity`` slices, gate and linear half alike; expert e holds slice
      e % granularity, so each run of granularity experts is one virtual group, a whole dense MLP
    - the router keeps its first N / granularity rows, each repeated granularity times in a row
    - fc1 (gate *and* linear half) and fc2 are all multiplied by scale = s ** (1/3) for gated or
      squared_relu, s ** (1/2) for gelu, where s is granularity after a post softmax and
      N * granularity / topk after a pre softmax (which supposes uniform probabilities)
    ``scale`` is read off the first fc2; the rest follows from the stored tensors.
    The function is preserved only where scale is 1, or where the activation is homogeneous and
    whole groups are chosen: swiglu with granularity > 1 is an approximation.

``layer``: a whole ``MoELayer``, forward and backward, allgather dispatcher
    options topk, pre_softmax, score_function, capacity_factor, drop_policy, aux_loss_coefficient,
            z_loss_coefficient, scaling_factor
    inputs  hidden [S, B, H], router [N, H], fc1 [N, 2F, H], fc2 [N, H, F], cotangent [S, B, H]
    outputs output [S, B, H], and gradients hidden, router, fc1, fc2 of sum(output * cotangent)
            plus the attached losses
    A token is [s, b]; flattened it is row s * B + b.

Left out: everything fused (needs transformer-engine or CUDA), TEGroupedMLP, biases of linear
layers in upcycling (megatron's own comment doubts its fc1), more than one process, expert bias
inside the router with padding (``routing_map & ~padding_mask`` does not broadcast). Three lines are
needed on CPU: see ``_on_cpu``.
"""

import argparse
import itertools
import json
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

# This file has the name of the package it tests, and its folder comes first on the path.
sys.path.remove(str(Path(__file__).resolve().parent))

import megatron.core
import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.activations import squared_relu
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.upcycling_utils import upcycle_state_dict
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

TOLERANCE = 1e-6
SUBMODULES = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
ACTIVATIONS = {"swiglu": F.silu, "squared_relu": squared_relu, "gelu": F.gelu}
TRACKED = {
    "aux_loss": "load_balancing_loss",
    "seq_aux_loss": "seq_load_balancing_loss",
    "global_aux_loss": "global_load_balancing_loss",
    "z_loss": "z_loss",
}

Cases = Iterator[tuple[str, dict]]


class Draw:
    """Seeded inputs of few digits, one stream per group of cases."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Return normal values of four decimals."""
        return _short(torch.randn(shape, generator=self.generator) * scale)

    def logits(self, *shape: int, skewed: bool = False) -> Tensor:
        """Return gate logits without near ties within a token."""
        slope = torch.linspace(2, -2, shape[-1]) if skewed else torch.zeros(shape[-1])
        while True:
            logits = _short(torch.randn(shape, generator=self.generator) + slope)
            if logits.sort(dim=-1).values.diff(dim=-1).min() > 1e-3:
                return logits


class Holder(nn.Module):
    """A model with a sub-module ``mlp``, which is what upcycling looks for."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp


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
            _name(given, None),
            _case(
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
        logits, padding = draw.logits(12, 8, skewed=skewed), _padding(12) if padded else None
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
            _name({"topk": topk, "score_function": score, "padded": padded}, skewed),
            _case(
                option,
                {"logits": logits, "padding": padding},
                {"tokens_per_expert": counts, "loss": loss, "gradient": leaf.grad},
            ),
        )


def z_loss(draw: Draw) -> Cases:
    for padded, skewed in itertools.product((False, True), (False, True)):
        logits = _short(draw.logits(12, 8, skewed=skewed) * 3)
        padding = _padding(12) if padded else None
        leaf = logits.clone().requires_grad_()
        loss = moe_utils.z_loss_func(leaf, 0.001, padding_mask=padding)
        loss.backward()
        yield (
            _name({"padded": padded}, skewed),
            _case(
                {"coefficient": 0.001},
                {"logits": logits, "padding": padding},
                {"loss": loss, "gradient": leaf.grad},
            ),
        )


def router_loss(draw: Draw) -> Cases:
    for kind, score, padded in itertools.product(TRACKED, ("softmax", "sigmoid"), (False, True)):
        if kind == "z_loss" and score == "sigmoid":
            continue
        batches = 3 if kind == "global_aux_loss" else 1
        option = {"kind": kind, "topk": 2, "score_function": score, "pre_softmax": True}
        option["coefficient"] = 0.01
        logits = draw.logits(batches, 5, 3, 4, skewed=True)
        padding = _padding(15).view(3, 5).T if padded else None
        losses, gradients = _attached(option, logits, padding)
        yield (
            _name({"kind": kind, "score_function": score, "padded": padded}, None),
            _case(
                option,
                {"logits": logits, "padding": padding},
                {"loss": losses, "gradient": gradients},
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
            _case(option, {}, {"capacity": moe_utils.get_capacity(**option)}),
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
            _name(given | limit, skewed),
            _case({key: option[key] for key in used} | limit, {"logits": logits}, outputs),
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
            _case(
                {"rate": rate},
                {"tokens_per_expert": steps, "expert_bias": start},
                {"expert_bias": torch.stack(after[1:])},
            ),
        )


def upcycling(draw: Draw) -> Cases:
    # experts, topk, granularity, pre_softmax, activation
    cases = [(4, 2, 1, False, "swiglu"), (4, 2, 1, True, "swiglu")]
    cases += [(4, 2, 2, False, "swiglu"), (8, 4, 2, True, "swiglu"), (8, 4, 2, False, "swiglu")]
    cases += [(8, 4, 4, False, "swiglu"), (8, 2, 2, False, "squared_relu")]
    cases += [(8, 4, 4, True, "squared_relu"), (8, 2, 2, False, "gelu")]
    for values in cases:
        keys = ("experts", "topk", "granularity", "pre_softmax", "activation")
        option = dict(zip(keys, values, strict=True))
        dense = Holder(MLP(_config(**_dense_options(option)), SUBMODULES, ffn_hidden_size=8))
        sparse = Holder(_layer(_dense_options(option) | _sparse_options(option)))
        inputs = {"fc1": draw.normal(*dense.mlp.linear_fc1.weight.shape, scale=0.5)}
        inputs |= {"fc2": draw.normal(4, 8, scale=0.5)}
        inputs |= {"router": draw.normal(option["experts"], 4), "hidden": draw.normal(6, 4)}
        dense.mlp.linear_fc1.weight.data.copy_(inputs["fc1"])
        dense.mlp.linear_fc2.weight.data.copy_(inputs["fc2"])
        sparse.mlp.router.weight.data.copy_(inputs["router"])
        sparse.load_state_dict(upcycle_state_dict([sparse], [dense])["model"])
        experts = sparse.mlp.experts.local_experts
        fc2 = torch.stack([expert.linear_fc2.weight for expert in experts])
        outputs = {"scale": (fc2[0] / inputs["fc2"][:, : fc2.shape[2]]).mean()}
        outputs["router"] = sparse.mlp.router.weight
        outputs["fc1"] = torch.stack([expert.linear_fc1.weight for expert in experts])
        outputs["fc2"] = fc2
        outputs["dense"] = dense.mlp(inputs["hidden"][:, None])[0][:, 0]
        outputs["moe"] = sparse.mlp(inputs["hidden"][:, None])[0][:, 0]
        yield _name(option, None), _case(option, inputs, outputs)


def layer(draw: Draw) -> Cases:
    keys = ("topk", "pre_softmax", "score_function", "capacity_factor", "aux_loss_coefficient")
    keys += ("z_loss_coefficient", "scaling_factor")
    cases = [(2, False, "softmax", None, 0.0, None, None), (2, True, "softmax", None, 0.1, 0.01, 2)]
    cases += [(2, False, "softmax", 1.0, 0.1, None, None), (2, True, "softmax", 0.5, 0, 0.01, None)]
    cases += [(1, True, "softmax", 1.0, 0.1, None, None), (2, True, "sigmoid", None, 0.1, None, 2)]
    for values in cases:
        option = dict(zip(keys, values, strict=True))
        option["drop_policy"] = option["capacity_factor"] and "probs"
        mlp = _layer(_layer_options(option))
        inputs = {"hidden": draw.normal(6, 2, 4), "router": draw.normal(4, 4)}
        inputs |= {"fc1": draw.normal(4, 8, 4, scale=0.5), "fc2": draw.normal(4, 4, 4, scale=0.5)}
        inputs |= {"cotangent": draw.normal(6, 2, 4)}
        mlp.router.weight.data.copy_(inputs["router"])
        experts = mlp.experts.local_experts
        for expert, fc1, fc2 in zip(experts, inputs["fc1"], inputs["fc2"], strict=True):
            expert.linear_fc1.weight.data.copy_(fc1)
            expert.linear_fc2.weight.data.copy_(fc2)
        hidden = inputs["hidden"].clone().requires_grad_()
        output, _ = mlp(hidden)
        (output * inputs["cotangent"]).sum().backward()
        outputs = {"output": output, "hidden": hidden.grad, "router": mlp.router.weight.grad}
        outputs["fc1"] = torch.stack([expert.linear_fc1.weight.grad for expert in experts])
        outputs["fc2"] = torch.stack([expert.linear_fc2.weight.grad for expert in experts])
        yield _name(option, None), _case(option, inputs, outputs)


GROUPS = (routing, balance, z_loss, router_loss, capacity, dropping, bias, upcycling, layer)


def golden() -> dict:
    """Return every case, as it is written to the file."""
    versions = {"megatron-core": megatron.core.__version__}
    versions["torch"] = torch.__version__.partition("+")[0]
    found: dict = {"versions": versions}
    for seed, group in enumerate(GROUPS):
        cases = list(group(Draw(seed)))
        found[group.__name__] = dict(cases)
        if len(found[group.__name__]) != len(cases):
            raise ValueError(f"two cases of {group.__name__} have one name")
    return found


def text(found: dict) -> str:
    """Return the file: JSON, one case a line."""
    groups = (
        f'"{group}": {{\n'
        + ",\n".join(f"{json.dumps(name)}: {_compact(case)}" for name, case in cases.items())
        + "\n}"
        for group, cases in found.items()
    )
    return "{\n" + ",\n".join(groups) + "\n}\n"


def differences(found: object, stored: object, place: str = "") -> Iterator[str]:
    """Yield each place where two files say different things."""
    if isinstance(found, dict) and isinstance(stored, dict):
        for key in sorted({*found, *stored}):
            yield from differences(found.get(key), stored.get(key), f"{place}/{key}")
    elif isinstance(found, list) and isinstance(stored, list) and len(found) == len(stored):
        for index, (one, other) in enumerate(zip(found, stored, strict=True)):
            yield from differences(one, other, f"{place}/{index}")
    elif isinstance(found, float) and isinstance(stored, float):
        if not abs(found - stored) <= TOLERANCE * max(1.0, abs(stored)):
            yield f"{place}: computed {found}, stored {stored}"
    elif found != stored:
        yield f"{place}: computed {found}, stored {stored}"


def main() -> int:
    """Write the file, or compare with one."""
    parser = argparse.ArgumentParser(description="golden values from megatron-core")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--to", type=Path, help="the file to write")
    choice.add_argument("--check", type=Path, help="the file to compare with")
    arguments = parser.parse_args()
    _on_cpu()
    found = golden()
    if arguments.to:
        arguments.to.write_text(text(found))
        return 0
    # through text, so that tuples and numbers are what a reader of the file sees
    wrong = list(differences(json.loads(text(found)), json.loads(arguments.check.read_text())))
    sys.stdout.writelines(f"{line}\n" for line in wrong[:20])
    sys.stdout.write(f"{arguments.check}: {len(wrong)} differences\n")
    return bool(wrong)


def _on_cpu() -> None:
    """Let megatron work without CUDA and transformer-engine, in one process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    torch.cuda.current_device = lambda: torch.device("cpu")
    moe_utils.te_general_gemm = None  # else a NameError: only defined with transformer-engine
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()


def _routing_options(given: dict) -> dict:
    defaults = {"use_pre_softmax": False, "num_groups": None, "group_topk": None}
    defaults |= {"scaling_factor": None, "score_function": "softmax"}
    return defaults | {key: value for key, value in given.items() if key != "bias"}


def _attached(option: dict, logits: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the losses that a router attaches to a run of micro-batches, and their gradients."""
    kind, coefficient = option["kind"], option["coefficient"]
    balanced = kind != "z_loss"
    config = _config(
        num_moe_experts=logits.shape[-1],
        moe_router_topk=option["topk"],
        moe_router_score_function=option["score_function"],
        moe_router_pre_softmax=option["pre_softmax"],
        moe_router_load_balancing_type=kind if balanced else "none",
        moe_aux_loss_coeff=coefficient if balanced else 0.0,
        moe_z_loss_coeff=None if balanced else coefficient,
    )
    router = TopKRouter(config, moe_utils.get_default_pg_collection())
    router.set_layer_number(1)
    losses, gradients = [], []
    for batch in logits:
        moe_utils.clear_aux_losses_tracker()
        leaf = batch.clone().requires_grad_()
        probs, _ = router.routing(leaf, padding_mask=padding)
        (probs * 0.0).sum().backward()
        tracker = moe_utils.get_moe_layer_wise_logging_tracker()
        losses.append(tracker[TRACKED[kind]]["values"][0].clone())
        gradients.append(leaf.grad)
    return torch.stack(losses), torch.stack(gradients)


def _config(**options: object) -> TransformerConfig:
    defaults = {
        "num_layers": 1,
        "hidden_size": 4,
        "num_attention_heads": 1,
        "use_cpu_initialization": True,
        "add_bias_linear": False,
        "bias_activation_fusion": False,
        "moe_token_dispatcher_type": "allgather",
    }
    return TransformerConfig(**(defaults | options))


def _dense_options(option: dict) -> dict:
    gated = option["activation"] == "swiglu"
    activation = ACTIVATIONS[option["activation"]]
    return {"ffn_hidden_size": 8, "gated_linear_unit": gated, "activation_func": activation}


def _sparse_options(option: dict) -> dict:
    return {
        "num_moe_experts": option["experts"],
        "moe_router_topk": option["topk"],
        "moe_router_pre_softmax": option["pre_softmax"],
        "moe_ffn_hidden_size": 8 // option["granularity"],
        "moe_router_load_balancing_type": "none",
    }


def _layer_options(option: dict) -> dict:
    return {
        "num_moe_experts": 4,
        "ffn_hidden_size": 4,
        "gated_linear_unit": True,
        "activation_func": F.silu,
        "moe_router_topk": option["topk"],
        "moe_router_pre_softmax": option["pre_softmax"],
        "moe_router_score_function": option["score_function"],
        "moe_router_topk_scaling_factor": option["scaling_factor"],
        "moe_expert_capacity_factor": option["capacity_factor"],
        "moe_token_drop_policy": option["drop_policy"] or "probs",
        "moe_router_load_balancing_type": "aux_loss" if option["aux_loss_coefficient"] else "none",
        "moe_aux_loss_coeff": option["aux_loss_coefficient"],
        "moe_z_loss_coeff": option["z_loss_coefficient"],
    }


def _layer(options: dict) -> MoELayer:
    experts = ModuleSpec(SequentialMLP, submodules=SUBMODULES)
    return MoELayer(_config(**options), MoESubmodules(experts=experts), layer_number=1)


def _name(options: dict, skewed: bool | None) -> str:
    """Return a case's name: its options in order; a switch by its key, where it is on."""
    words = []
    for key, value in options.items():
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(value if isinstance(value, str) else f"{key}={value}")
    return " ".join([*words, *([] if skewed is None else ["skewed" if skewed else "even"])])


def _case(options: dict, inputs: dict, outputs: dict) -> dict:
    return {"options": options, "inputs": _plain(inputs), "outputs": _plain(outputs)}


def _plain(values: dict) -> dict:
    return {key: _list(value) for key, value in values.items()}


def _list(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.dtype is torch.bool:
        return value.int().tolist()
    return _shortest(value.tolist()) if value.is_floating_point() else value.tolist()


def _shortest(value: list | float) -> list | float:
    """Return the numbers with the fewest digits that give back each float32 exactly."""
    if isinstance(value, list):
        return [_shortest(item) for item in value]
    digits = (float(f"{value:.{count}g}") for count in range(1, 10))
    return next(short for short in digits if struct.pack("f", short) == struct.pack("f", value))


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _short(values: Tensor) -> Tensor:
    return (values.double() * 1e4).round().div(1e4).float()


def _padding(tokens: int) -> Tensor:
    """Return a mask whose last fifth of tokens, and one in the middle, are padding."""
    mask = torch.arange(tokens) >= tokens - tokens // 5
    mask[tokens // 2] = True
    return mask


def _refuse_ties(probs: Tensor, slots: int) -> None:
    """Raise where the last weight kept and the first dropped are equal: the case says nothing."""
    ranked = probs.sort(dim=0, descending=True).values
    if slots < len(ranked):
        last, first = ranked[slots - 1], ranked[slots]
        if ((first > 0) & (last - first < 1e-5)).any():
            raise ValueError(f"weights tie at place {slots}; draw other logits")


if __name__ == "__main__":
    sys.exit(main())

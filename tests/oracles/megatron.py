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

``layouts``: ``PipelineParallelLayerLayout``, parsed for one stage a part and then validated
    options layout, layers; outputs parts, or null where megatron refuses it
    A part is its symbols without repeats, e.g. Ettt for Et*3. What megatron alone understands (a
    repeat of a repeated group, a number put together from two) is not asked for.

Left out: everything fused (needs transformer-engine or CUDA), TEGroupedMLP, biases of linear
layers in upcycling (megatron's own comment doubts its fc1), more than one process, expert bias
inside the router with padding (``routing_map & ~padding_mask`` does not broadcast). Three lines are
needed on CPU: see ``_on_cpu``.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

# This file has the name of the package it tests, and its folder comes first on the path.
sys.path.remove(str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import megatron.core
import torch
from megatron.core import parallel_state
from megatron.core.transformer.moe import moe_utils

from tests.oracles.cases import Draw, compact
from tests.oracles.functions import balance, bias, capacity, dropping, routing, z_loss
from tests.oracles.layouts import layouts
from tests.oracles.modules import layer, router_loss, upcycling

TOLERANCE = 1e-6
GROUPS = (routing, balance, z_loss, router_loss, capacity, dropping, bias, upcycling, layer)
GROUPS += (layouts,)


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
        + ",\n".join(f"{json.dumps(name)}: {compact(case)}" for name, case in cases.items())
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


if __name__ == "__main__":
    sys.exit(main())

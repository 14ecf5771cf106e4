"""Cases of megatron's modules: the losses of a router, upcycling, a whole layer."""

import itertools

import torch
import torch.nn.functional as F
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

from tests.oracles.cases import Cases, Draw, case, mask_of_padding, name

SUBMODULES = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
ACTIVATIONS = {"swiglu": F.silu, "squared_relu": squared_relu, "gelu": F.gelu}
TRACKED = {
    "aux_loss": "load_balancing_loss",
    "seq_aux_loss": "seq_load_balancing_loss",
    "global_aux_loss": "global_load_balancing_loss",
    "z_loss": "z_loss",
}


class Holder(nn.Module):
    """A model with a sub-module ``mlp``, which is what upcycling looks for."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp


def router_loss(draw: Draw) -> Cases:
    for kind, score, padded in itertools.product(TRACKED, ("softmax", "sigmoid"), (False, True)):
        if kind == "z_loss" and score == "sigmoid":
            continue
        batches = 3 if kind == "global_aux_loss" else 1
        option = {"kind": kind, "topk": 2, "score_function": score, "pre_softmax": True}
        option["coefficient"] = 0.01
        logits = draw.logits(batches, 5, 3, 4, skewed=True)
        padding = mask_of_padding(15).view(3, 5).T if padded else None
        losses, gradients = _attached(option, logits, padding)
        yield (
            name({"kind": kind, "score_function": score, "padded": padded}, None),
            case(
                option,
                {"logits": logits, "padding": padding},
                {"loss": losses, "gradient": gradients},
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
        yield name(option, None), case(option, inputs, outputs)


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
        yield name(option, None), case(option, inputs, outputs)


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

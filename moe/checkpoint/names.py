"""Maps our tensor names to the names of a family on disk. For dense models they are equal.

In the tables ``N`` stands for the number of an expert.
"""

import re
from collections.abc import Mapping

from moe.config.role import Role
from moe.config.tensors import layer_prefix

_MIXTRAL = {
    "mlp.router.": "block_sparse_moe.gate.",
    "mlp.experts.N.gate_proj.": "block_sparse_moe.experts.N.w1.",
    "mlp.experts.N.up_proj.": "block_sparse_moe.experts.N.w3.",
    "mlp.experts.N.down_proj.": "block_sparse_moe.experts.N.w2.",
}
_QWEN = {
    "mlp.router.": "mlp.gate.",
    "mlp.shared.": "mlp.shared_expert.",
    "mlp.shared_gate.": "mlp.shared_expert_gate.",
}
_DEEPSEEK = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.balance_bias": "mlp.gate.e_score_correction_bias",
    "mlp.shared.": "mlp.shared_experts.",
    "mlp.shared_gate.": "mlp.shared_expert_gate.",
}
_FAMILIES: Mapping[str, Mapping[str, str]] = {
    "mixtral": _MIXTRAL,
    "skywork_moe": _MIXTRAL,
    "olmoe": _QWEN,
    "qwen2_moe": _QWEN,
    "qwen3_moe": _QWEN,
    "deepseek": _DEEPSEEK,
    "raymoe": _DEEPSEEK,
}
_EXPERT = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def fused_name(role: Role) -> str | None:
    """Return the fused tensor in which transformers holds an expert's matrix; None for other roles.

    Gate and up projections share one tensor, in which the rows of the gate come first.
    """
    if role.layer is None or role.expert is None:
        return None
    part = "down_proj" if role.part == "down" else "gate_up_proj"
    return f"{layer_prefix(role.layer)}mlp.experts.{part}"


def disk_name(family: str, name: str) -> str:
    """Return the name of a tensor in the files of a family."""
    expert = _EXPERT.search(name)
    number = expert.group() if expert else ""
    for ours, theirs in _FAMILIES.get(family, {}).items():
        name = name.replace(f".{ours.replace('N', number)}", f".{theirs.replace('N', number)}")
    return name

"""Our tensor names to those of a family on disk. Llama's are ours."""

import re

_TO_MIXTRAL = (
    (re.compile(r"\.mlp\.router\."), ".block_sparse_moe.gate."),
    (re.compile(r"\.mlp\.experts\.(\d+)\.gate_proj\."), r".block_sparse_moe.experts.\1.w1."),
    (re.compile(r"\.mlp\.experts\.(\d+)\.up_proj\."), r".block_sparse_moe.experts.\1.w3."),
    (re.compile(r"\.mlp\.experts\.(\d+)\.down_proj\."), r".block_sparse_moe.experts.\1.w2."),
)


def disk_name(family: str, name: str) -> str:
    """Return the name a tensor has in the files of a family."""
    if family == "llama":
        return name
    for pattern, replacement in _TO_MIXTRAL:
        name = pattern.sub(replacement, name)
    return name

"""How a directory stores its matrices in 8 or 4 bits: ``quantization_config`` of ``config.json``.

Read and written, in the forms that transformers and vLLM read:

    int8         compressed-tensors, pack-quantized: 8-bit integers, a scale for each output
    int4         the same with 4 bits, a scale for each output and group of inputs
    fp8          compressed-tensors, float-quantized: e4m3, a scale for each tensor; read also as
                 quant_method fp8, as Skywork-MoE-Base-FP8 was released
    fp8-blocks   quant_method fp8 with weight_block_size: e4m3, a scale for each block (DeepSeek-V3)

Only products are quantised: projections of attention and feed-forwards. Routers, gates, embeddings,
head, norms and biases stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from moe.config.model import ModelConfig
from moe.config.role import Role
from moe.config.tensors import tensors
from moe.errors import ConfigError

KEY = "quantization_config"
_PARTS = frozenset({"query", "key", "value", "output", "gate", "up", "down"})
_IGNORED = ["lm_head", r"re:.*\.gate$", r"re:.*shared_expert_gate$"]
_GROUPS = (128, 64, 32, 16)


@dataclass(frozen=True, slots=True)
class Quantised:
    """One form. ``group``, of integers, is how many inputs of an output share a scale; None: all.

    ``block``, of e4m3, is how many outputs and inputs share a scale; None: all of a tensor.
    """

    kind: Literal["int", "fp8"]
    bits: int = 8
    group: int | None = None
    block: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The name of the form on the command line."""
        if self.kind == "int":
            return f"int{self.bits}"
        return "fp8" if self.block is None else "fp8-blocks"

    def scales(self, outputs: int, inputs: int) -> tuple[int, ...]:
        """Return the shape of the scales of a matrix."""
        if self.kind == "int":
            return (outputs, 1 if self.group is None else inputs // self.group)
        if self.block is None:
            return (1,)
        return (-(-outputs // self.block[0]), -(-inputs // self.block[1]))

    @property
    def bytes_per_number(self) -> float:
        """Bytes of a number with its part of a scale; a scale for all inputs is not counted."""
        shared = self.group or (self.block[0] * self.block[1] if self.block else 0)
        return self.bits / 8 + (4 / shared if shared else 0.0)


FORMS: Mapping[str, Quantised] = {
    "int8": Quantised("int", 8),
    "int4": Quantised("int", 4, group=_GROUPS[0]),
    "fp8": Quantised("fp8"),
    "fp8-blocks": Quantised("fp8", block=(128, 128)),
}


def quantises(role: Role) -> bool:
    """Return whether a form changes how a tensor is stored."""
    return role.part in _PARTS and not role.bias


def form_named(name: str, config: ModelConfig) -> Quantised:
    """Return a form for a model; groups of int4 are the largest of 128, 64, 32, 16 that divide."""
    if name not in FORMS:
        raise ConfigError(f"no form {name!r}; choose {', '.join(FORMS)}")
    form = FORMS[name]
    if form.group is None:
        return form
    widths = {each.shape[1] for each in tensors(config) if quantises(each.role)}
    for group in _GROUPS:
        if not any(width % group for width in widths):
            return replace(form, group=group)
    raise ConfigError(
        f"{name} needs matrices whose inputs divide into groups of {_GROUPS[-1]}, this model has "
        f"{', '.join(map(str, sorted(widths)))}; choose another form"
    )


def quantised_table(form: Quantised) -> dict[str, Any]:
    """Return the ``quantization_config`` of a form."""
    if form.block is not None:
        return {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": list(form.block),
            "modules_to_not_convert": ["lm_head", "gate", "shared_expert_gate"],
        }
    weights: dict[str, Any] = {"num_bits": form.bits, "symmetric": True, "dynamic": False}
    if form.kind == "int":
        strategy = "channel" if form.group is None else "group"
        weights |= {"type": "int", "strategy": strategy, "group_size": form.group}
    else:
        weights |= {"type": "float", "strategy": "tensor"}
    activations = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations | {"symmetric": True} if form.kind == "fp8" else None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": _format(form),
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": _IGNORED,
    }


def read_quantised(table: Mapping[str, Any]) -> Quantised | None:
    """Return the form of a ``config.json``; None if nothing is quantised. ConfigError for a form
    that raymoe does not read.
    """
    found = table.get(KEY)
    if found is None:
        return None
    method = found.get("quant_method", found) if isinstance(found, dict) else found
    form = None
    if method == "fp8":
        form = _fp8(found)
    elif method == "compressed-tensors":
        form = _compressed(found)
    if form is None:
        raise ConfigError(
            f"config.json has a {KEY} ({method}) that raymoe does not read: {found!r}; it reads "
            "the forms that `raymoe compress --quantise` writes. Take the model before it was "
            "quantised, or write it again with transformers (from_pretrained, model.dequantize(), "
            "save_pretrained)"
        )
    return form


def _fp8(found: Mapping[str, Any]) -> Quantised | None:
    block = found.get("weight_block_size")
    plain = found.get("scale_fmt") in (None, "float") and found.get("expert_dtype") in (None, "fp8")
    if not plain or found.get("activation_scheme") != "dynamic":
        return None
    if block is None:
        return FORMS["fp8"]
    sizes = isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block)
    return replace(FORMS["fp8"], block=tuple(block)) if sizes and min(block) > 0 else None


def _compressed(found: Mapping[str, Any]) -> Quantised | None:
    """Read one group of all linear layers, symmetric, without an order of activations."""
    groups = list((found.get("config_groups") or {}).values())
    if len(groups) != 1 or groups[0].get("targets") != ["Linear"]:
        return None
    weights = groups[0].get("weights") or {}
    if not weights.get("symmetric", True) or weights.get("actorder") or weights.get("dynamic"):
        return None
    kind, bits = weights.get("type", "int"), weights.get("num_bits")
    strategy, group = weights.get("strategy"), weights.get("group_size")
    form = None
    if kind == "float" and bits == 8 and strategy == "tensor":
        form = FORMS["fp8"]
    elif kind == "int" and bits in (4, 8) and strategy == "channel":
        form = Quantised("int", bits)
    elif kind == "int" and bits in (4, 8) and strategy == "group" and type(group) is int:
        form = Quantised("int", bits, group) if group > 0 else None
    return form if form is not None and found.get("format") == _format(form) else None


def _format(form: Quantised) -> str:
    return "pack-quantized" if form.kind == "int" else "float-quantized"

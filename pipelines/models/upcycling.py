"""The methods of ``raymoe upcycle`` behind one call: of one dense model, of several, of a mixture
of experts.

Options are given by their names on the command line; an option that a method does not read is
refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moe.errors import ConfigError
from moe.surgery.growing.expand import GrowthReceipt, expand
from moe.surgery.growing.moments import expand_checkpoint
from moe.surgery.growing.options import ExpandOptions
from moe.surgery.method import Method
from moe.surgery.methods import METHODS, method_named
from moe.surgery.mixing.mix import MixReceipt, mix
from moe.surgery.mixing.options import MixOptions, Prompts
from moe.surgery.options import UpcycleOptions
from moe.surgery.output import Progress
from moe.surgery.receipt import Receipt
from moe.surgery.upcycle import upcycle
from pipelines.corpus.tokenizer import DocumentTokenizer
from pipelines.models.text import short_text_from, short_texts_from

AnyReceipt = Receipt | GrowthReceipt | MixReceipt
Given = Mapping[str, Any]
"""The options that were given, by name."""

EXPERTS, TOP_K = 8, 2
_SEGMENTS = frozenset({"segment_tokens", "first_segment"})
_ROUTING = frozenset({"top_k", "gate_norm", "renormalise", "score", "balance_bias"}) | _SEGMENTS
_RESULT = frozenset({"router", "router_std", "first_dense", "family", "seed"}) | _ROUTING
_OF_METHODS = frozenset({"deviation", "ratio", "granularity", "by", "shared", "shared_gate"})
_READ = {
    "expand": frozenset(
        {"experts", "keep", "by", "apart", "deviation", "calibration", "with_optimizer", "seed"}
    ),
    "mix": frozenset({"base", "average", "prompts"}) | _RESULT,
} | dict.fromkeys(METHODS, frozenset({"experts", "calibration"}) | _RESULT | _OF_METHODS)


def run_upcycling(
    models: Sequence[Path], to: Path, method: str, given: Given, progress: Progress
) -> AnyReceipt:
    """Write a mixture of experts; return its receipt."""
    if method not in _READ:
        raise ConfigError(f"no method {method!r}; choose {', '.join((*METHODS, 'expand', 'mix'))}")
    for name in sorted(given.keys() - _READ[method]):
        readers = [other for other, read in _READ.items() if name in read]
        raise ConfigError(
            f"the method {method} has no {_spoken(name)}, it would have no effect; remove it, or "
            f"choose {' or '.join(readers)}"
        )
    if method == "mix":
        return _mixed(models, to, given, progress)
    if len(models) != 1:
        raise ConfigError(
            f"the method {method} takes one model, {len(models)} are given; for several, choose mix"
        )
    if method == "expand":
        return _expanded(models[0], to, given, progress)
    return _upcycled(models[0], to, method_named(method, _own(given)), given, progress)


def _upcycled(source: Path, to: Path, method: Method, given: Given, progress: Progress) -> Receipt:
    options = UpcycleOptions(experts=given.get("experts", EXPERTS), method=method, **_result(given))
    data = given.get("calibration")
    text = short_text_from(source, data, "train") if data else None
    return upcycle(source, to, options, progress, text)


def _expanded(source: Path, to: Path, given: Given, progress: Progress) -> GrowthReceipt:
    if "experts" not in given:
        raise ConfigError("expand takes --experts, the number of experts afterwards; give it")
    beside = {"calibration", "with_optimizer"}
    options = ExpandOptions(**{name: given[name] for name in given.keys() - beside})
    data = given.get("calibration")
    texts = short_texts_from(source, data) if data else None
    write = expand_checkpoint if given.get("with_optimizer") else expand
    return write(source, to, options, texts, progress)


def _mixed(models: Sequence[Path], to: Path, given: Given, progress: Progress) -> MixReceipt:
    prompts = given.get("prompts") or ()
    if prompts and "router" in given:
        raise ConfigError(
            "prompts make the rows of the routers, on which --router has no effect; remove one"
        )
    base = given.get("base")
    options = MixOptions(
        UpcycleOptions(experts=len(models), **_result(given)),
        base=base,
        average=given.get("average", False),
        prompts=tuple(_prompts(base or models[0], file) for file in prompts),
    )
    return mix(models, to, options, progress)


def _own(given: Given) -> dict[str, Any]:
    """Return the options of one method or another."""
    return {name: given.get(name) for name in _OF_METHODS}


def _result(given: Given) -> dict[str, Any]:
    """Return the options of the routers and of the format."""
    top_k = 1 if "segment_tokens" in given else TOP_K
    return {"top_k": top_k} | {name: given[name] for name in _RESULT & given.keys()}


def _prompts(model: Path, file: Path) -> Prompts:
    """Return the lines of a file as prompts, in the words of a model's tokenizer."""
    if not file.is_file():
        raise ConfigError(f"no file of prompts at {file}; give one with a prompt on each line")
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{file} holds no prompt; give one on each line")
    numbers = DocumentTokenizer(model).encode(lines)
    return Prompts(file.name, tuple(torch.from_numpy(each[:-1]).long() for each in numbers))


def _spoken(name: str) -> str:
    return "--" + name.replace("_", "-")

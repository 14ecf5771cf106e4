"""The layers of each stage in the words of other systems, and read back from Megatron's.

    megatron    --pipeline-model-parallel-layout of Megatron-LM: stages apart by ``|``; ``E``
                embedding, ``t`` decoder layer, ``m`` multi-token prediction, ``L`` loss; ``t*3``
                and ``(tt|)*2`` repeat, one level deep; commas mean nothing, blanks are refused.
                E.g. ``Et*5|(t*5|)*3,t*4L``. Held against megatron-core 0.16.1 in the tests.
    vllm        VLLM_PP_LAYER_PARTITION: layers of each stage, ``19,11``. Their sum is the model's
                layers, their number --pipeline-parallel-size.
    llama.cpp   --tensor-split. With n layers and every one of them on a device (--n-gpu-layers
                all, --split-mode layer, which is the default) the output counts as layer n, and
                layer i goes to the first device whose cumulative share of the proportions exceeds
                i / (n + 1). So whole numbers do it exactly: the layers of each device, and one
                more on the last. llama.cpp takes fewer than 16, in the order of --device; it
                keeps the embedding on the CPU.
    torchtitan  parallelism.module_fqns_per_model_part: the modules of each stage, as JSON, which
                is TOML and Python as well. The head is ``lm_head`` since 0.3, ``output`` up to
                0.2; a name torchtitan does not know is dropped without a word, so choose.

Only the spans of layers are said; heads, experts and recomputed layers have no place in these.
Where a stage holds several spans of layers, the parts are those spans along the model: virtual
stages in a loop to Megatron, which asks for --pipeline-model-parallel-size beside, and in a loop or
on a V, by its schedule, to torchtitan. vLLM and llama.cpp have none. Several are written, not read
back.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from moe.errors import PlanError
from moe.planning.plan.checks import Span, check_layers
from moe.planning.stages.split import spans as spans_of

LLAMA_CPP_DEVICES = 15

_UNIT = re.compile(r"\((?:[EtmL|](?:\*\d+)?)+\)\*(?P<times>\d+)|[EtmL|](?:\*\d+)?")
_LEAF = re.compile(r"(?P<symbol>[EtmL|])(?:\*(?P<count>\d+))?")
_NAMES = {"E": "the embedding", "L": "the loss"}


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write a plan down: the option that takes it, and what makes its value.

    ``orders`` are those in which it can say several spans of layers a stage.
    """

    option: str
    write: Callable[[Sequence[Span]], str]
    orders: tuple[str, ...] = ()


def emit(form: str, spans: Sequence[Span], order: str | None = None) -> str:
    """Return the value that another system's option takes for stages of these layers.

    With an ``order``, ``loop`` or ``V``, they are the runs along the model of fewer stages.
    """
    if form not in FORMS:
        close = difflib.get_close_matches(form, FORMS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(FORMS)}"
        raise PlanError(f"no form named {form} to write a plan in; {hint}")
    if order is not None and order not in FORMS[form].orders:
        which = "them only in a loop" if FORMS[form].orders else "only one"
        raise PlanError(
            f"the plan has several spans of layers a stage, in a {order}, and {form} takes "
            f"{which}; make a plan for it under another schedule, or with one span a stage"
        )
    return FORMS[form].write(spans)


def megatron_layout(spans: Sequence[Span]) -> str:
    """Return the value of --pipeline-model-parallel-layout."""
    sizes = _sizes(spans)
    if len(sizes) == 1:
        return f"E{_run(sizes[0])}L"
    middle = "".join(_stages(size, len(list(same))) for size, same in groupby(sizes[1:-1]))
    return f"E{_run(sizes[0])}|{middle}{_run(sizes[-1])}L"


def vllm_partition(spans: Sequence[Span]) -> str:
    """Return the value of VLLM_PP_LAYER_PARTITION."""
    return ",".join(map(str, _sizes(spans)))


def llama_cpp_tensor_split(spans: Sequence[Span]) -> str:
    """Return the value of --tensor-split: layers of each device, the output one on the last."""
    *others, last = _sizes(spans)
    if len(others) + 1 > LLAMA_CPP_DEVICES:
        raise PlanError(
            f"the plan has {len(others) + 1} stages but llama.cpp takes a --tensor-split of at "
            f"most {LLAMA_CPP_DEVICES}; plan for fewer stages"
        )
    return ",".join(map(str, (*others, last + 1)))


def torchtitan_modules(spans: Sequence[Span], head: str = "lm_head") -> str:
    """Return parallelism.module_fqns_per_model_part; ``head`` is ``output`` up to 0.2."""
    _sizes(spans)
    parts = [[f"layers.{layer}" for layer in range(start, stop)] for start, stop in spans]
    parts[0].insert(0, "tok_embeddings")
    parts[-1] += ["norm", head]
    return json.dumps(parts)


FORMS: Mapping[str, Form] = MappingProxyType(
    {
        "megatron": Form("--pipeline-model-parallel-layout", megatron_layout, ("loop",)),
        "vllm": Form("VLLM_PP_LAYER_PARTITION", vllm_partition),
        "llama.cpp": Form("--tensor-split", llama_cpp_tensor_split),
        "torchtitan": Form(
            "parallelism.module_fqns_per_model_part", torchtitan_modules, ("loop", "V")
        ),
    }
)


def read_megatron(text: str, layers: int, stages: int | None = None) -> tuple[Span, ...]:
    """Return the layers of each stage that a Megatron layout gives a model of ``layers``.

    The text alone does not tell stages from virtual chunks: with ``stages``, Megatron's
    --pipeline-model-parallel-size, a layout of several chunks a stage is told from one of as many
    stages, and refused. So is whatever our plans have no words for.
    """
    units = tuple(_units(text, layers))
    _check_counts(units, layers, stages)
    symbols = "".join(unit.spelled() for unit in units)
    _check_order(units, symbols)
    parts = symbols.split("|")
    sizes = tuple(part.count("t") for part in parts)
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        if not size:
            held = " and ".join(_NAMES[symbol] for symbol in part) or "nothing"
            raise PlanError(
                f"Megatron layout: stage {number} of {len(parts)} holds {held} and no decoder "
                "layer; our plans need a layer on every stage: move one there or use fewer stages"
            )
    return spans_of(sizes)


@dataclass(frozen=True, slots=True)
class _Unit:
    """A symbol or a group with the times it is repeated, and at which character it begins.

    ``leaves`` are symbols with their own repeats, none of zero. Nothing is spelled out yet, so
    that a mistyped number costs no memory.
    """

    leaves: tuple[tuple[str, int], ...]
    times: int
    place: int

    def count(self, symbol: str) -> int:
        """Return how often a symbol comes once everything is repeated."""
        return self.times * sum(count for leaf, count in self.leaves if leaf == symbol)

    def spelled(self) -> str:
        """Return the symbols without any repeats."""
        return "".join(symbol * count for symbol, count in self.leaves) * self.times


def _units(text: str, layers: int) -> Iterator[_Unit]:
    """Yield what the text consists of; commas are taken out first, as Megatron does."""
    places = [place for place, character in enumerate(text, 1) if character != ","]
    plain = text.replace(",", "")
    for place, character in zip(places, plain, strict=True):
        if character not in "EtmL|()*0123456789":
            raise _fault(text, place, "is not one of E t m L | ( ) * , and digits")
    position = 0
    while position < len(plain):
        found = _UNIT.match(plain, position)
        if found is None:
            raise _fault(text, places[position], _remedy(plain[position]))
        times = found["times"] or "1"
        leaves = [(leaf["symbol"], leaf["count"] or "1") for leaf in _LEAF.finditer(found[0])]
        for number in (times, *(count for _, count in leaves)):
            if len(number) > 9 or int(number) > max(layers, 1):
                what = f"is repeated {number[:12]} times but the model's layers are {layers}"
                raise _fault(text, places[position], f"{what}; no plan needs more repeats")
        kept = tuple((symbol, int(count)) for symbol, count in leaves if int(count))
        yield _Unit(kept, int(times), places[position])
        position = found.end()


def _remedy(character: str) -> str:
    if character == "(":
        return "opens what is not a group; write (t|)*2: closed, repeated, no group inside"
    return "follows nothing it belongs to; write t*3 or (t|)*2, no repeat of a repeat"


def _fault(text: str, place: int, what: str) -> PlanError:
    return PlanError(f"Megatron layout {text!r}: {text[place - 1]!r} at character {place} {what}")


def _check_counts(units: Sequence[_Unit], layers: int, stages: int | None) -> None:
    """Raise PlanError for what may be told without the order of things."""
    counts = {symbol: sum(unit.count(symbol) for unit in units) for symbol in "EtmL|"}
    if counts["m"]:
        place = next(unit.place for unit in units if unit.count("m"))
        raise PlanError(
            f"Megatron layout: m at character {place} is a layer of multi-token prediction; our "
            "models have none, so take it out"
        )
    for symbol, what in _NAMES.items():
        if counts[symbol] != 1:
            raise PlanError(
                f"Megatron layout: {what}, {symbol}, comes {counts[symbol]} times; write it once"
            )
    if counts["t"] != layers:
        raise PlanError(
            f"Megatron layout: it has {counts['t']} of t, a decoder layer, but the model's layers "
            f"are {layers}; the two must agree"
        )
    _check_parts(counts["|"] + 1, layers, stages)


def _check_parts(parts: int, layers: int, stages: int | None) -> None:
    if stages is not None and parts != stages:
        chunks = parts // stages if stages > 0 and parts % stages == 0 else 0
        because = f", {chunks} virtual chunks on each, which are not read" if chunks else ""
        raise PlanError(
            f"Megatron layout: it has {parts} parts, asked for were {stages} stages{because}; "
            f"write a part for each stage, or ask for {parts}"
        )
    if parts > layers:
        raise PlanError(
            f"Megatron layout: the model's layers are {layers}, too few for {parts} parts; our "
            "plans need one on every stage: use fewer parts"
        )


def _check_order(units: Sequence[_Unit], symbols: str) -> None:
    """Raise PlanError unless the embedding is before every layer and the loss after."""
    before, after = symbols[: symbols.index("E")], symbols[symbols.index("L") + 1 :]
    for symbol, beyond, rule in (("E", before, "first"), ("L", after, "last")):
        if beyond.strip("|"):
            place = next(unit.place for unit in units if unit.count(symbol))
            raise PlanError(
                f"Megatron layout: {_NAMES[symbol]}, {symbol} at character {place}, is not {rule}; "
                f"write it {'before' if symbol == 'E' else 'after'} every t"
            )


def _sizes(spans: Sequence[Span]) -> tuple[int, ...]:
    """Return the layers of each stage, checked to follow each other from layer 0."""
    if not spans:
        raise PlanError("there are no stages to write down; give the layers of at least one")
    check_layers([(span,) for span in spans], spans[-1][1])
    return tuple(stop - start for start, stop in spans)


def _run(size: int) -> str:
    return "t" * size if size < 3 else f"t*{size}"


def _stages(size: int, count: int) -> str:
    return f"{_run(size)}|" if count == 1 else f"({_run(size)}|)*{count},"

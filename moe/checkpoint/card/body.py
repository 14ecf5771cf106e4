"""The text of a model card below its front matter."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe.checkpoint.card.licence import UNKNOWN, Licence
from moe.config.model import ModelConfig
from moe.config.tensors import active_parameters, parameters

THIS, SOURCE = "this model", "its source"
"""Whose loss was measured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A loss in nats per token on a text, by the name and the SHA-256 of the text."""

    what: str
    value: float
    text: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What a card tells of a model; ``kept`` is the file with the README of the base, if any."""

    name: str
    config: ModelConfig
    licence: Licence
    bases: Sequence[str]
    steps: Sequence[Mapping[str, Any]]
    measured: Sequence[Measured]
    kept: str
    code: bool


def body(about: About) -> str:
    """Return the text in Markdown."""
    parts = (
        [f"# {_line(about.name)}", "", _shape(about.config)],
        _how_made(about.steps),
        _evaluation(about.measured),
        _loading(about),
        _licence(about),
    )
    return "\n".join(line for part in parts for line in (*part, "")).rstrip() + "\n"


def _shape(config: ModelConfig) -> str:
    whole = f"{parameters(config):,} parameters"
    if config.moe is None:
        return f"A dense model of the family `{config.family}`: {config.layers} layers, {whole}."
    moe = config.moe
    shared = f" beside a shared part {moe.shared_size} wide" if moe.shared_size else ""
    used = f"experts, of which each token uses {moe.top_k}"
    if moe.merged:
        used = f"experts, which are merged for each {moe.segment_tokens} tokens"
    return (
        f"A mixture-of-experts model of the family `{config.family}`: {config.layers} layers, "
        f"{len(config.moe_layers)} of them with {moe.experts} {used}{shared}; {whole}, "
        f"{active_parameters(config):,} of them for each token."
    )


def _how_made(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## How it was made"
    yield ""
    yield "The oldest step first. `receipt.json`, where it is there, has the hashes of all files."
    yield ""
    for number, step in enumerate(steps, start=1):
        source = step.get("source")
        read = f" from {_names(source)}" if source else ""
        yield f"{number}. **{_line(step.get('method'))}**{read}{_plan(step)}"
        for name, value in _table(step.get("options")):
            yield f"   - {_line(name)}: {_line(value)}"
        for name, value in _table(step.get("data")):
            yield f"   - text {_line(name)}: SHA-256 `{_line(value)}`"


def _evaluation(measured: Sequence[Measured]) -> Iterator[str]:
    yield "## Evaluation"
    yield ""
    if not measured:
        yield "No loss was measured when this was written; `raymoe evaluate` measures it."
        return
    yield "| | loss, nats per token | on text it was not made with | SHA-256 of its tokens |"
    yield "|---|---|---|---|"
    for each in measured:
        hashed = f"`{each.sha256}`" if each.sha256 else ""
        yield f"| {_line(each.what)} | {each.value:.4f} | {_line(each.text)} | {hashed} |"


def _loading(about: About) -> Iterator[str]:
    trust = ", trust_remote_code=True" if about.code else ""
    yield "## How to load it"
    yield ""
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    yield ""
    yield f'model = AutoModelForCausalLM.from_pretrained("PATH"{trust})'
    yield 'tokenizer = AutoTokenizer.from_pretrained("PATH")'
    yield "```"
    yield ""
    yield "PATH is this directory. `raymoe serve PATH` answers from it on Ray, in the OpenAI API."


def _licence(about: About) -> Iterator[str]:
    licence = about.licence
    yield "## Licence and base"
    yield ""
    if about.bases:
        yield f"Base: {', '.join(map(_line, about.bases))}."
    if licence.identifier == UNKNOWN:
        yield (
            "The licence of the base is not known: neither its README nor its config.json names "
            "one, and it has no LICENSE file. Find it before you share this model."
            if about.bases
            else "No licence is given: the weights are random, from no base model."
        )
    else:
        name = _line(licence.name or licence.identifier)
        yield f"Licence of the base, as {licence.said_by} says: {name}."
    if about.kept:
        yield f"What the authors of the base wrote stands in [{about.kept}]({about.kept})."


def _plan(step: Mapping[str, Any]) -> str:
    return f", on {_line(step['plan'])}" if step.get("plan") else ""


def _names(source: Any) -> str:
    listed = source if isinstance(source, list) else [source]
    return ", ".join(f"`{_line(each)}`" for each in listed)


def _table(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _line(value: Any) -> str:
    """Return a text that stays within its line, its table and its code."""
    text = " ".join(str(value).split()).replace("|", "/").replace("`", "'").replace("<", "(")
    return text.replace(">", ")")

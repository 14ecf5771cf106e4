"""How a model writes calls, told from its chat template.

Hermes and Qwen models write ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``, in the
middle of text and any number of times. Llama 3 models answer with nothing but
``{"name": ..., "parameters": ...}``; several calls are parted by semicolons, or are a list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipelines.serving.text.grammar import json_of, literal

BEGIN, END = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Style:
    """One way of writing calls; ``arguments`` is the key of a call's arguments."""

    kind: Literal["tagged", "bare"]
    arguments: str

    def grammar(
        self, functions: Sequence[tuple[str, dict[str, Any]]], several: bool, otherwise: str = ""
    ) -> str:
        """Return the grammar of one or several calls of functions with the schemas of their
        arguments, or of the rule ``otherwise``, if one is given.
        """
        rules = [self._function(n, *function) for n, function in enumerate(functions)]
        names = " | ".join(f"function_{n}" for n in range(len(functions)))
        start = f"calls | {otherwise}" if otherwise else "calls"
        lines = [f"start: {start}", f"calls: call{self._more(several)}", self._call()]
        return "\n".join([*lines, f"function: {names}", *rules])

    def _more(self, several: bool) -> str:
        parted = literal("\n" if self.kind == "tagged" else "; ")
        return f" ({parted} call)*" if several else ""

    def _call(self) -> str:
        if self.kind == "bare":
            return "call: function"
        return (
            f"call: {literal(BEGIN)} {literal(chr(10))} function {literal(chr(10))} {literal(END)}"
        )

    def _function(self, number: int, name: str, schema: dict[str, Any]) -> str:
        head = f'{{"name": {literal(name)}, "{self.arguments}": '
        return f"function_{number}: {literal(head)} {json_of(schema)} {literal('}')}"


TAGGED = Style("tagged", "arguments")
BARE = Style("bare", "arguments")
LLAMA = Style("bare", "parameters")


def style_of(template: str, silent: bool) -> Style | None:
    """Return the style of a chat template; None if it does not read tools.

    ``silent``: the tags are special tokens, which an answer's text does not show.
    """
    if "tools" not in template:
        return None
    if BEGIN in template and not silent:
        return TAGGED
    return LLAMA if '"parameters"' in template else BARE

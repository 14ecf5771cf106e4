"""A conversation as a chat template writes it, and the parts that the template marks as answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers.utils.chat_template_utils import render_jinja_template

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]
"""The characters of an answer: the first, and the one after the last."""


class Transcript(NamedTuple):
    """The text of a conversation, and its answers where the template marks them."""

    text: str
    answers: tuple[Span, ...]


def marks_answers(source: str) -> bool:
    """Tell whether a template says by ``{% generation %}`` what the model writes."""
    return _MARKER.search(source) is not None


def transcript(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    variables: Mapping[str, Any],
    answering: bool = False,
) -> Transcript:
    """Render a conversation; with ``answering``, up to where the next answer begins.

    Raises what the template raises.
    """
    marked = marks_answers(source)
    rendered: Any = render_jinja_template(
        conversations=[[dict(each) for each in messages]],
        tools=[dict(each) for each in tools] or None,
        chat_template=source,
        return_assistant_tokens_mask=marked,
        add_generation_prompt=answering,
        **variables,
    )
    (text,), spans = rendered
    return Transcript(text, tuple(spans[0]) if marked else ())

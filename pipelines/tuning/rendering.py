"""Conversations as text, and where the answers that count are in it.

Where a template marks what the model writes (``{% generation %}``), that counts. Otherwise an
answer is what the conversation up to it adds to the conversation before it, generation prompt
included. Both must be beginnings of the whole text, or the tokens of the answer would not be those
that the model writes there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from moe.errors import DataError
from pipelines.corpus.manifest import Answers
from pipelines.serving.text.text import Text, refusal
from pipelines.serving.text.transcript import Span, marks_answers
from pipelines.tuning.exchange import Exchange, Message, OddRow, odd
from pipelines.tuning.templates import Template

REWRITES = "the chat template writes earlier messages differently once others follow"
_MOST_SAID = 100


class Rendered(NamedTuple):
    """A text, and the answers in it that count."""

    text: str
    answers: tuple[Span, ...]


class Renderer:
    """Renders conversations with one template; all answers count, or the last one alone."""

    def __init__(self, text: Text, template: Template, answers: Answers) -> None:
        self.template = template
        self.answers = answers
        self._text = text
        self._check()

    @property
    def method(self) -> str:
        """How answers are told apart, in words."""
        marked = marks_answers(self.template.source)
        return "the marks of the template" if marked else "what each adds to the text before it"

    def render(self, given: Exchange) -> Rendered:
        """Render a conversation up to its last answer; raises OddRow."""
        wanted = given.answers if self.answers == "all" else given.answers[-1:]
        messages = given.messages[: wanted[-1] + 1]
        source = self.template.with_tools if given.tools else self.template.source
        whole = self._said(source, messages, given.tools)
        if marks_answers(source):
            return Rendered(whole.text, _marked(whole.answers, messages, wanted))
        found = []
        for number in wanted:
            before = self._said(source, messages[:number], given.tools, answering=True).text
            after = self._said(source, messages[: number + 1], given.tools).text
            if not (after.startswith(before) and whole.text.startswith(after)):
                odd(REWRITES)
            found.append((len(before), len(after)))
        return Rendered(whole.text, tuple(found))

    def _said(
        self,
        source: str,
        messages: Sequence[Message],
        tools: Sequence[Message],
        answering: bool = False,
    ) -> Rendered:
        try:
            return Rendered(*self._text.transcript(source, messages, tools, answering))
        except Exception as error:  # A template is a program that came with the model.
            odd(f"the chat template refuses it: {refusal(error)[:_MOST_SAID]}")

    def _check(self) -> None:
        """Raise DataError for a template that does not let answers be told apart in any row."""
        turns = 2 if self.answers == "all" else 1
        roles = ["user", "assistant"] * turns
        probe = tuple({"role": role, "content": f"{role} speaks"} for role in roles)
        given = Exchange(probe, tuple(range(1, 2 * turns, 2)))
        try:
            self.render(given)
        except OddRow as error:
            if str(error) != REWRITES:
                return  # It may want other messages; rows will tell.
            remedy = "give --answers last, or " if self.answers == "all" else "give "
            raise DataError(
                f"{REWRITES} ({self.template.name}), so the tokens of answers are not known; "
                f"{remedy}--template with a file that has "
                "{% generation %} and {% endgeneration %} around what the model writes"
            ) from error


def _marked(
    spans: Sequence[Span], messages: Sequence[Message], wanted: Sequence[int]
) -> tuple[Span, ...]:
    """Return the marked parts of the answers that count."""
    said = [number for number, each in enumerate(messages) if each["role"] == "assistant"]
    if [*said] == [*wanted]:
        return tuple(spans)
    if len(spans) != len(said):
        odd("the template marks more or fewer parts than there are answers")
    return tuple(span for number, span in zip(said, spans, strict=True) if number in wanted)

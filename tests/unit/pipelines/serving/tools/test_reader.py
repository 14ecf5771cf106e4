"""Calls in a text, however it is cut into pieces."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.serving.tools.calls import Call, Piece
from pipelines.serving.tools.reader import BareReader, Reader, TaggedReader, TextReader
from tests.examples import examples

FAST = settings(max_examples=examples(80))
Said = list[str | tuple[str, str]]


def said(reader: Reader, text: str, cuts: tuple[int, ...] = ()) -> Said:
    """Return texts, joined where they follow each other, and calls."""
    pieces: list[Piece] = []
    for start, end in zip((0, *cuts), (*cuts, len(text)), strict=True):
        pieces += reader.push(text[start:end])
    found: Said = []
    for piece in [*pieces, *reader.finish()]:
        if isinstance(piece, Call):
            found.append((piece.name, piece.arguments))
        elif found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no call", ["no call"]),
        ("", []),
        ("a <tool_cal", ["a <tool_cal"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [("f", '{"a": 1}')]),
        (
            'well <tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "g"}\n</tool_call> ',
            ["well ", ("f", "{}"), ("g", "{}")],
        ),
        ('<tool_call>{"name": "f"}', [("f", "{}")]),
        ("<tool_call>{broken</tool_call>!", ["<tool_call>{broken</tool_call>!"]),
        ('<tool_call>{"name": "f"', ['<tool_call>{"name": "f"']),
        ('<tool_call>[1]</tool_call><tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
         ["<tool_call>[1]</tool_call>", ("f", "{}")]),
        ('<tool_call>{"name":"f","arguments":{"é":"<b>"}}</tool_call>after',
         [("f", '{"é": "<b>"}'), "after"]),
    ],
)  # fmt: skip
def test_calls_between_tags(text: str, found: Said) -> None:
    assert said(TaggedReader(), text) == found
    assert said(TaggedReader(), text, tuple(range(1, len(text)))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("no call", ["no call"]),
        ("  ", ["  "]),
        ('{"name": "f", "parameters": {"a": 1}}', [("f", '{"a": 1}')]),
        (' {"name": "f", "arguments": {}}; {"name": "g", "parameters": {}}\n',
         [("f", "{}"), ("g", "{}")]),
        ('{"name": "unknown", "parameters": {}}', ['{"name": "unknown", "parameters": {}}']),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]',
         [("f", "{}"), ("g", "{}")]),
        ("[1]", ["[1]"]),
        ("[]", ["[]"]),
        ('{"answer": 4}', ['{"answer": 4}']),
        ('{"name": "f"} and more', ['{"name": "f"} and more']),
        ('{"name": "f", "para', ['{"name": "f", "para']),
        ('see {"name": "f"}', ['see {"name": "f"}']),
    ],
)  # fmt: skip
def test_calls_that_are_the_whole_answer(text: str, found: Said) -> None:
    assert said(BareReader(("f", "g")), text) == found
    assert said(BareReader(("f", "g")), text, tuple(range(1, len(text)))) == found


@FAST
@given(
    parts=st.lists(
        st.sampled_from(
            ["<tool_call>", "</tool_call>", '{"name": "f"}', "<", "tool", " ", "x", "{", "}"]
        ),
        max_size=12,
    ),
    data=st.data(),
)
def test_cuts_do_not_matter(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    for make in (TaggedReader, lambda: BareReader(("f",)), TextReader):
        assert said(make(), text, tuple(cuts)) == said(make(), text)


@FAST
@given(arguments=st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers()))
def test_any_arguments_come_through(arguments: dict[str, str | int]) -> None:
    written = json.dumps({"name": "f", "arguments": arguments})
    for reader, text in (
        (TaggedReader(), f"<tool_call>\n{written}\n</tool_call>"),
        (BareReader(("f",)), written),
    ):
        ((name, found),) = said(reader, text)
        assert (name, json.loads(found)) == ("f", arguments)

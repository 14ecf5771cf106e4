"""Rows in the shapes that people have, and the reasons for which odd ones are left out."""

import json
from typing import Any

import pytest

from moe.config.run import DataKind
from moe.errors import DataError
from pipelines.tuning.exchange import Exchange, OddRow
from pipelines.tuning.shapes import Shape, exchanges, recognised
from tests.chats import turns

CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


def brief(found: Exchange) -> tuple[list[tuple[str, str]], tuple[int, ...]]:
    return [(each["role"], each["content"]) for each in found.messages], found.answers


@pytest.mark.parametrize(
    ("row", "kind", "shape"),
    [
        ({"messages": [], "prompt": "", "prompt_id": 1}, "chat", "messages"),
        ({"conversations": [], "id": 3}, "chat", "conversations"),
        ({"instruction": "", "input": "", "output": ""}, "instruction", "instruction"),
        ({"instruction": "", "context": "", "response": ""}, "chat", "instruction"),
        ({"prompt": "", "completion": ""}, "instruction", "prompt-completion"),
        ({"question": "", "answer": ""}, "chat", "prompt-completion"),
        ({"prompt": "", "chosen": "", "rejected": ""}, "preference", "preference"),
        ({"messages": [], "chosen": "", "rejected": ""}, "preference", "preference"),
        ({"messages": [], "chosen": "", "rejected": ""}, "chat", "messages"),
    ],
)
def test_a_shape_is_known_by_its_columns(row: dict[str, Any], kind: DataKind, shape: Shape) -> None:
    assert recognised(row, kind) == shape


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"text": ""}, "chat", r"no columns of --kind chat among text; it takes messages; conv"),
        ({}, "preference", "no columns of --kind preference among none; it takes chosen and rej"),
        ({"messages": []}, "instruction", "those of messages rows, .* give --kind chat$"),
        ({"prompt": "", "completion": ""}, "preference", "give --kind chat or instruction$"),
    ],
)
def test_columns_of_another_kind_are_refused(
    row: dict[str, Any], kind: DataKind, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        recognised(row, kind)


def test_sharegpt_and_messages_are_the_same() -> None:
    parts = [("system", "s"), ("human", "q"), ("gpt", "a"), ("human", "r"), ("gpt", "b")]
    shared = {"conversations": [{"from": role, "value": text} for role, text in parts]}
    plain = {"messages": turns("q", "a", "r", "b", system="s")}
    (one,), (other,) = exchanges(shared, "conversations"), exchanges(plain, "messages")
    assert one == other
    assert brief(one)[1] == (2, 4)
    by_column = {"messages": turns("q", "a", "r", "b"), "system": "s"}
    assert exchanges(by_column, "messages") == (one,)


def test_parts_calls_and_weights() -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "1 "}, {"type": "text", "text": "+"}],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "x"},
        {"role": "assistant", "content": "two", "weight": 0},
        {"role": "user", "content": "so?"},
        {"role": "assistant", "content": "it is two", "weight": 1},
    ]
    (found,) = exchanges({"messages": messages, "tools": [TOOL]}, "messages")
    assert found.answers == (1, 5)
    assert found.messages[0]["content"] == "1 +"
    assert found.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert [tool["function"]["name"] for tool in found.tools] == ["add"]
    as_text = {"messages": messages, "tools": json.dumps([TOOL])}
    assert exchanges(as_text, "messages") == (found,)


def test_instructions() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "history": [["q", "a"]]}
    (found,) = exchanges(row, "instruction")
    said = [("user", "q"), ("assistant", "a"), ("user", "Add.\n1, 2"), ("assistant", "3")]
    assert brief(found) == (said, (3,))
    (found,) = exchanges({"instruction": "Add.", "input": "", "output": "3"}, "instruction")
    assert brief(found) == ([("user", "Add."), ("assistant", "3")], (1,))


def test_a_completion_counts_and_the_answers_in_its_prompt_do_not() -> None:
    row = {"prompt": turns("q", "a", "r"), "completion": turns("", "b")[1:], "system": "s"}
    (found,) = exchanges(row, "prompt-completion")
    assert found.answers == (4,)
    (found,) = exchanges({"prompt": "q", "completion": "a"}, "prompt-completion")
    assert brief(found) == ([("user", "q"), ("assistant", "a")], (1,))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {"prompt": "q", "chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {"prompt": turns("q"), "chosen": turns("q", "good"), "rejected": turns("q", "bad")},
        {"prompt": turns("q"), "chosen": turns("", "good")[1:], "rejected": turns("", "bad")[1:]},
    ],
)
def test_pairs_in_all_shapes_are_the_same(row: dict[str, Any]) -> None:
    chosen, rejected = exchanges(row, "preference")
    assert brief(chosen) == ([("user", "q"), ("assistant", "good")], (1,))
    assert brief(rejected) == ([("user", "q"), ("assistant", "bad")], (1,))


def test_texts_without_a_prompt_begin_with_it() -> None:
    row = {"chosen": "Human: why? Assistant: because", "rejected": "Human: why? Assistant: be off"}
    chosen, rejected = exchanges(row, "preference")
    shared = "Human: why? Assistant:"
    assert brief(chosen)[0] == [("user", shared), ("assistant", " because")]
    assert brief(rejected)[0] == [("user", shared), ("assistant", " be off")]


def test_a_prompt_may_stand_after_a_system_message_in_both() -> None:
    sides = {name: turns("q", name, system="s") for name in ("chosen", "rejected")}
    found = exchanges({"prompt": "q", **sides}, "preference")
    assert [brief(each)[0] for each in found] == [
        [("system", "s"), ("user", "q"), ("assistant", name)] for name in sides
    ]


def test_an_answer_before_both_is_part_of_the_prompt() -> None:
    row = {"chosen": turns("q", "a", "r", "x"), "rejected": turns("q", "a", "r", "y")}
    assert [each.answers for each in exchanges(row, "preference")] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("row", "shape", "reason"),
    [
        ({"text": "x"}, "messages", "no columns messages"),
        ({"messages": None}, "messages", "messages is missing"),
        ({"messages": "hello"}, "messages", "messages is no list"),
        ({"messages": []}, "messages", "no messages"),
        ({"messages": ["hello"]}, "messages", "a message is no object"),
        ({"messages": [{"content": "x"}]}, "messages", "a message has no role"),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            "messages",
            "role 'narrator' is not",
        ),
        ({"messages": turns("q")}, "messages", "no answer that counts"),
        ({"messages": [{**turns("q", "a")[1], "weight": 0}]}, "messages", "no answer that counts"),
        ({"messages": [{**turns("q", "a")[1], "weight": 2}]}, "messages", "a weight is neither"),
        ({"messages": turns("q", " \n")}, "messages", "an answer is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "content: is missing"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages", "content: expected a text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
            "messages",
            "content: a part of type 'image' is not supported",
        ),
        ({"messages": turns("q", "a"), "tools": "{"}, "messages", "tools are not JSON"),
        ({"messages": turns("q", "a"), "tools": [{}]}, "messages", "tools: "),
        ({"instruction": "q", "output": None}, "instruction", "output is missing"),
        ({"instruction": "q", "output": 3}, "instruction", "output is no text"),
        ({"instruction": "q", "output": "a", "history": [["q"]]}, "instruction", "history is no"),
        ({"chosen": "a b", "rejected": "x y"}, "preference", "no prompt: .* no common beginning"),
        (
            {"chosen": turns("q", "a"), "rejected": turns("r", "b")},
            "preference",
            "no prompt: .* begin with different messages",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "preference", "are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "preference", "rejected is missing"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "preference", "an answer is empty"),
        (
            {"prompt": "p", "chosen": turns("q", "a"), "rejected": turns("q", "b")},
            "preference",
            "conversations that do not begin with the prompt",
        ),
        ({"prompt": " ", "completion": "a"}, "prompt-completion", "of the user is empty"),
    ],
)
def test_odd_rows_have_a_reason(row: dict[str, Any], shape: Shape, reason: str) -> None:
    with pytest.raises(OddRow, match=reason):
        exchanges(row, shape)

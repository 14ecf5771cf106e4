"""Requests: what is read, what is passed over, what is refused and how it is named."""

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from pipelines.serving.http.api import refusal_of
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.refusals import BadRequest

PROMPT = {"model": "m", "prompt": "a"}
TALK = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


def refusal(kind: type[CompletionRequest | ChatRequest], body: Any) -> BadRequest:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in caught.value.errors()]
    return refusal_of(RequestValidationError(faults))


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts_come_in_four_shapes(prompt: Any, read: Any) -> None:
    assert CompletionRequest.model_validate(PROMPT | {"prompt": prompt}).prompt == read


def test_options_that_ask_for_nothing_else_are_passed_over() -> None:
    harmless = {"user": "u", "metadata": {"a": "b"}, "n": 1, "best_of": 1, "echo": False}
    harmless |= {"suffix": None, "logit_bias": {}, "presence_penalty": 0.0, "temperature": None}
    request = CompletionRequest.model_validate(PROMPT | harmless)
    assert request == CompletionRequest.model_validate(PROMPT)
    assert request.temperature == 1.0
    harmless = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"}
    assert ChatRequest.model_validate(TALK | harmless) == ChatRequest.model_validate(TALK)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"prompt": []}, "prompt", "expected a text, a list of texts, a list of token numbers"),
        ({"prompt": ["a", 1]}, "prompt", "expected a text"),
        ({"prompt": [True]}, "prompt", "expected a text"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": "a\ud800"}, "prompt", "character 1 is half of a surrogate pair"),
        ({"model": 3}, "model", "found 3"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1; found 0"),
        ({"max_tokens": "7"}, "max_tokens", "valid integer; found '7'"),
        ({"max_tokens": True}, "max_tokens", "found True"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2; found 2.5"),
        ({"temperature": float("nan")}, "temperature", "found nan"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"stop": ["a"] * 5}, "stop", "at most 4 texts, none of them empty"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"stop": 3}, "stop", "expected a text or a list of texts"),
        ({"logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"n": 2}, "n", "2 is not supported; leave it out or give 1"),
        ({"n": True}, "n", "True is not supported"),
        ({"best_of": 3}, "best_of", "3 is not supported"),
        ({"echo": True}, "echo", "True is not supported; leave it out or give False"),
        ({"suffix": "end"}, "suffix", "'end' is not supported"),
        ({"logit_bias": {"5": 100}}, "logit_bias", "is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "0.5 is not supported"),
        ({"temprature": 0.5}, "temprature", "not supported; did you mean temperature?"),
        ({"grammar": "x"}, "grammar", "not supported; leave it out"),
        ({"stream_options": {}}, "stream_options", "only allowed together with stream = true"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "valid boolean",
        ),
    ],
)
def test_bad_completions_name_the_field(change: Any, param: str, message: str) -> None:
    found = refusal(CompletionRequest, PROMPT | change)
    assert found.param == param
    assert message in str(found)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "a list of text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "a part of type 'image_url' is not supported",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages.0.tool_calls",
            "not supported",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
        ({"top_logprobs": 3}, "top_logprobs", "only allowed together with logprobs = true"),
        ({"logprobs": 3}, "logprobs", "valid boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "give one"),
    ],
)
def test_bad_chats_name_the_field(change: Any, param: str, message: str) -> None:
    found = refusal(ChatRequest, TALK | change)
    assert found.param == param
    assert message in str(found)


def test_a_body_that_is_no_object_is_named_so() -> None:
    assert str(refusal(ChatRequest, [1])).startswith("the body:")


def test_messages_reach_the_template_as_text() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [
        {"role": "developer", "content": parts},
        {"role": "user", "content": "", "name": "x"},
    ]
    request = ChatRequest.model_validate(TALK | {"messages": messages})
    assert [message.as_template_input() for message in request.messages] == [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": "", "name": "x"},
    ]

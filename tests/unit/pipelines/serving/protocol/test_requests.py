"""Requests: what is read, what is passed over, what is refused and how it is named."""

from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from pipelines.serving.http.errors import refusal_of
from pipelines.serving.protocol.requests import ChatRequest, CompletionRequest
from pipelines.serving.refusals import BadRequest

PROMPT = {"model": "m", "prompt": "a"}
FUNCTION = {"name": "a"}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "1", "type": "function", "function": {"name": "a", "arguments": "{}"}}
CALLS = "messages.0.tool_calls"
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


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "u", "metadata": {"a": "b"}, "n": 1, "best_of": None, "echo": False},
        {"suffix": None, "logit_bias": {}, "presence_penalty": 0.0, "temperature": None},
        {"repetition_penalty": 1.0, "top_k": 0, "min_p": 0.0, "use_beam_search": False},
        {"suffix": "", "bad_words": [], "vllm_xargs": {}, "skip_special_tokens": True},
        {"typical_p": 1.0, "length_penalty": 1, "truncate_prompt_tokens": -1, "stop": [""]},
    ],
)
def test_options_that_ask_for_nothing_else_are_passed_over(harmless: Any) -> None:
    request = CompletionRequest.model_validate(PROMPT | harmless)
    assert request == CompletionRequest.model_validate(PROMPT)
    assert request.temperature == 1.0
    harmless = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none"}
    request = ChatRequest.model_validate(TALK | harmless)
    assert (request.form, request.callable) == (None, [])


def test_stops_are_passed_on_in_either_form() -> None:
    for given, read in (("a", ["a"]), (["a"] * 9, ["a"] * 9), (["", "b"], ["b"])):
        assert CompletionRequest.model_validate(PROMPT | {"stop": given}).stop == read


def test_of_two_limits_the_newer_name_counts() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 7}
    assert ChatRequest.model_validate(TALK | both).limit == 7
    assert ChatRequest.model_validate(TALK | {"max_tokens": 5}).limit == 5


@pytest.mark.parametrize(
    ("asked", "kind", "value"),
    [
        ({"response_format": {"type": "json_object"}}, "schema", {"type": "object"}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}},
            "schema",
            {"a": 1},
        ),
        ({"structured_outputs": {"json": {"a": 1}}}, "schema", {"a": 1}),
        ({"structured_outputs": {"json_object": True}}, "schema", {"type": "object"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ["a", "b"]),
        ({"structured_outputs": {"regex": "a+"}}, "regex", "a+"),
        ({"guided_json": '{"a": 1}'}, "schema", '{"a": 1}'),
        ({"guided_grammar": "start: A"}, "grammar", "start: A"),
    ],
)
def test_a_form_is_read_under_all_its_names(asked: Any, kind: str, value: Any) -> None:
    for request in (
        CompletionRequest.model_validate(PROMPT | asked),
        ChatRequest.model_validate(TALK | asked),
    ):
        assert request.form is not None
        assert (request.form.kind, request.form.value) == (kind, value)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"prompt": []}, "prompt", "expected a text, a list of texts, a list of token numbers"),
        ({"prompt": ["a", 1]}, "prompt", "expected a text"),
        ({"prompt": [True]}, "prompt", "expected a text"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": "a\ud800"}, "prompt", "character 1 is half of a surrogate pair"),
        ({"model": 3}, "model", "found 3"),
        ({"max_tokens": "7"}, "max_tokens", "valid integer; found '7'"),
        ({"max_tokens": True}, "max_tokens", "found True"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2; found 2.5"),
        ({"temperature": float("nan")}, "temperature", "found nan"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"stop": ["a"] * 65}, "stop", "at most 64 texts of at most 1024 characters"),
        ({"stop": "a" * 1025}, "stop", "at most 64 texts of at most 1024 characters"),
        ({"stop": 3}, "stop", "expected a text or a list of texts"),
        ({"logprobs": 21}, "logprobs", "less than or equal to 20"),
        ({"logprobs": True}, "logprobs", "valid integer"),
        ({"n": 0}, "n", "greater than or equal to 1; found 0"),
        ({"n": True}, "n", "valid integer; found True"),
        ({"n": 3, "best_of": 2}, "best_of", "is 2, less than n = 3; raise it"),
        ({"best_of": 2, "stream": True}, "best_of", "cannot be streamed"),
        ({"max_tokens": 0}, "max_tokens", "needs echo = true"),
        ({"echo": 1}, "echo", "valid boolean; found 1"),
        ({"suffix": "end"}, "suffix", "not supported; leave it out"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "'five' is no token number"),
        ({"logit_bias": [5]}, "logit_bias", "expected an object"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
        ({"presence_penalty": -3}, "presence_penalty", "greater than or equal to -2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"min_p": 1.5}, "min_p", "less than or equal to 1"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens", "is 9, more than the 8 tokens"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids.0", "valid integer"),
        ({"use_beam_search": True}, "use_beam_search", "True is not supported; leave it out or"),
        ({"length_penalty": 0.5}, "length_penalty", "0.5 is not supported"),
        ({"bad_words": ["x"]}, "bad_words", "not supported; leave it out"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "is missing; give the schema",
        ),
        ({"structured_outputs": {"jsn": {}, "regx": "a"}}, "structured_outputs.regx", "regex?"),
        (
            {"guided_regex": "a", "guided_choice": ["a"]},
            "guided_choice",
            "asked for by guided_regex and guided_choice; give one form",
        ),
        ({"temprature": 0.5}, "temprature", "not supported; did you mean temperature?"),
        ({"grammar": "x"}, "grammar", "not supported; did you mean guided_grammar?"),
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
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing or null, which only"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content", "a list of text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "a part of type 'image_url' is not supported",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
            "messages.0.tool_calls.0.function",
            "is missing",
        ),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, CALLS, "only an"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "is missing"),
        ({"tools": [{"type": "magic", "function": FUNCTION}]}, "tools.0.type", "'function'"),
        ({"tool_choice": "required"}, "tool_choice", "a call is required but tools has none"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "b"}}, "tools": TOOLS},
            "tool_choice",
            "'b' is not among the tools ['a']",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"top_logprobs": 3}, "top_logprobs", "only allowed together with logprobs = true"),
        ({"logprobs": 3}, "logprobs", "valid boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "'low'"),
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
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": parts},
        {"role": "user", "content": "", "name": "x", "annotations": [], "reasoning": None},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call],
            "refusal": None,
            "audio": None,
            "reasoning_content": "hm",
        },
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "function", "content": "7", "name": "f"},
    ]
    request = ChatRequest.model_validate(TALK | {"messages": messages})
    read = call | {"function": {"name": "f", "arguments": {"a": 1}}}
    assert [message.as_template_input() for message in request.messages] == [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": "", "name": "x"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [read]},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "tool", "content": "7", "name": "f"},
    ]


def test_arguments_that_are_no_json_stay_as_the_model_wrote_them() -> None:
    broken = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{a"}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [broken]}]
    (message,) = ChatRequest.model_validate(TALK | {"messages": messages}).messages
    assert message.as_template_input()["tool_calls"] == [broken]

"""Calls of functions: rendered into the prompt, forced by grammar, read out of the answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pipelines.serving.limits import Limits
from tests import tiny, vocabularies
from tests.serving import Server, get, served

TALK: Any = [{"role": "user", "content": "the"}]
WEATHER = {
    "name": "weather",
    "description": "tells the weather",
    "parameters": {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/place"}},
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": ["here", "thère"]}},
    },
}
CLOCK = {
    "name": "clock",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: Any = [{"type": "function", "function": each} for each in (WEATHER, CLOCK)]
CLOCKED: Any = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module", params=["HERMES", "LLAMA"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    made = tiny.llama(**sizes, max_position_embeddings=1024)
    path = tiny.saved(made, tmp_path_factory.mktemp("tools"))
    vocabularies.save(tokenizer, path, getattr(vocabularies, request.param))
    with served(path, Limits(waiting=9, idle_seconds=0.05)) as server:
        yield server


def asked(server: Server, **options: Any) -> Any:
    body = {"model": "tiny", "messages": TALK, "max_tokens": 300, "tools": TOOLS} | options
    return server.client.chat.completions.create(**body)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_made(server: Server, seed: int) -> None:
    options: Any = {"tool_choice": "required", "seed": seed, "parallel_tool_calls": False}
    (choice,) = asked(server, **options).choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert call.type == "function"
    assert call.id.startswith("call_")
    arguments = json.loads(call.function.arguments)
    places = [{"place": "here"}, {"place": "thère"}]
    assert arguments in ([{}] if call.function.name == "clock" else places)


def test_a_named_call_is_made_and_streamed_alike(server: Server) -> None:
    options: Any = {"tool_choice": CLOCKED, "seed": 1, "parallel_tool_calls": False}
    (choice,) = asked(server, **options).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["clock"]
    chunks = [chunk.choices[0] for chunk in asked(server, **options, stream=True)]
    (call,) = [call for each in chunks for call in each.delta.tool_calls or []]
    assert (call.index, call.function.name) == (0, "clock")
    assert json.loads(call.function.arguments) == {}
    assert chunks[0].delta.role == "assistant"
    assert not "".join(chunk.delta.content or "" for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]


def test_several_calls_come_in_one_answer(server: Server) -> None:
    found = [
        len(asked(server, tool_choice=CLOCKED, seed=seed).choices[0].message.tool_calls or [])
        for seed in range(8)
    ]
    assert max(found) > 1


def test_the_clients_own_parser_reads_a_call(server: Server) -> None:
    strict = [{"type": "function", "function": CLOCK | {"strict": True}}]
    reply = server.client.chat.completions.parse(
        model="tiny", messages=TALK, tools=strict, tool_choice="required", max_tokens=300, seed=0
    )  # type: ignore[call-overload]
    assert reply.choices[0].message.tool_calls[0].function.parsed_arguments == {}


def test_answers_without_a_call_are_text(server: Server) -> None:
    for choice in ("auto", "none"):
        (found,) = asked(server, tool_choice=choice, max_tokens=8, seed=1).choices
        assert found.message.tool_calls is None
        assert found.message.content
        assert found.finish_reason in ("stop", "length")


def test_a_form_or_a_call_where_both_are_asked_for(server: Server) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["ok"]}}}
    for seed in range(4):
        (found,) = asked(server, response_format=form, seed=seed).choices
        assert found.message.tool_calls or json.loads(found.message.content) == "ok"


@pytest.mark.parametrize("server", ["HERMES"], indirect=True)
def test_a_call_of_the_models_own_will_is_found(server: Server) -> None:
    """A choice of one text has the model say it, as it might without."""
    said = "well " + '<tool_call>{"name": "clock", "arguments": {}}</tool_call>' * 2
    options: Any = {"extra_body": {"guided_choice": [said]}, "temperature": 0}
    (choice,) = asked(server, **options).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["clock"] * 2
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert (choice.message.content, choice.finish_reason) == ("well ", "tool_calls")
    chunks = [chunk.choices[0] for chunk in asked(server, **options, stream=True)]
    streamed = [call for each in chunks for call in each.delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in streamed] == [(0, "clock"), (1, "clock")]
    assert "".join(chunk.delta.content or "" for chunk in chunks) == "well "
    (choice,) = asked(server, **options, parallel_tool_calls=False).choices
    assert len(choice.message.tool_calls) == 1
    (choice,) = asked(server, **options, tool_choice="none").choices
    assert choice.message.content == said


def test_tools_and_results_reach_the_template(server: Server) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    talk = [*TALK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    talk += [{"role": "tool", "content": "result", "tool_call_id": "1"}]
    body = {"messages": talk, "tools": TOOLS}
    _, reply = get(server, "/tokenize", "POST", json.dumps(body))
    _, said = get(server, "/detokenize", "POST", json.dumps({"tokens": reply["tokens"]}))
    for part in ("weather clock ", '{"name": "f", "', '": {"a": 1}}', "<|user|>result"):
        assert part in said["prompt"]
    plain = server.text.conversation(TALK)
    assert "weather" not in plain
    assert server.text.conversation(TALK, options={"style": "!"}) == f"{plain}!"


def test_variables_of_the_template_pass_and_arguments_of_the_library_do_not(
    server: Server,
) -> None:
    body = {"chat_template_kwargs": {"style": "!", "enable_thinking": False}}
    counts = [asked(server, max_tokens=1, extra_body=extra).usage for extra in ({}, body)]
    assert counts[1].prompt_tokens > counts[0].prompt_tokens
    with pytest.raises(openai.BadRequestError, match="chat_template is set by the server"):
        asked(server, extra_body={"chat_template_kwargs": {"chat_template": "{{ 1 }}"}})


def test_a_template_that_reads_no_tools_refuses_them(model: Path) -> None:
    with (
        served(model, Limits(idle_seconds=0.05)) as server,
        pytest.raises(openai.BadRequestError, match="does not read tools") as caught,
    ):
        asked(server)
    assert caught.value.param == "tools"


def test_a_schema_that_no_grammar_can_keep_is_refused(server: Server) -> None:
    odd = [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]
    with pytest.raises(openai.BadRequestError, match="Unimplemented keys") as caught:
        asked(server, tools=odd, tool_choice="required")
    assert caught.value.param == "tools"
    assert asked(server, tools=odd, max_tokens=1).choices

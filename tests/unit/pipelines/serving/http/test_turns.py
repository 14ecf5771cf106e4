"""The unmodified OpenAI client against ``/v1/responses``; what it asks for equals a chat."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response

from pipelines.serving.limits import Limits
from tests import tiny, vocabularies
from tests.serving import Server, get, served

CLOCK: Any = {
    "type": "function",
    "name": "clock",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    "strict": True,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    made = tiny.llama(**sizes, max_position_embeddings=1024)
    path: Path = tiny.saved(made, tmp_path_factory.mktemp("turns"))
    vocabularies.save(tokenizer, path, vocabularies.HERMES)
    with served(path, Limits(waiting=9, idle_seconds=0.05)) as server:
        yield server


def asked(server: Server, **options: Any) -> Any:
    body = {"model": "tiny", "input": "the dog", "temperature": 0, "max_output_tokens": 8}
    return server.client.responses.create(**body | options)


def test_a_turn_equals_a_chat(server: Server) -> None:
    found = asked(server, instructions="be brief")
    talk: Any = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the dog"}]
    chat = server.client.chat.completions.create(
        model="tiny", messages=talk, temperature=0, max_completion_tokens=8
    )
    assert found.output_text == chat.choices[0].message.content
    assert found.usage.input_tokens == chat.usage.prompt_tokens
    assert found.usage.output_tokens == chat.usage.completion_tokens
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    Response.model_validate_json(found.model_dump_json(), strict=True)


def test_a_stream_builds_the_same_answer(server: Server) -> None:
    whole = asked(server, include=["message.output_text.logprobs"], top_logprobs=2)
    body: Any = {"model": "tiny", "input": "the dog", "temperature": 0, "max_output_tokens": 8}
    body |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    events = list(server.client.responses.create(**body, stream=True))
    final = events[-1].response
    assert final.output_text == whole.output_text
    assert final.usage == whole.usage
    assert final.output[0].content[0].logprobs == whole.output[0].content[0].logprobs
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.incomplete"
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text


def test_a_call_is_an_item_and_its_result_another(server: Server) -> None:
    options: Any = {"tools": [CLOCK], "tool_choice": "required", "max_output_tokens": 200}
    options |= {"parallel_tool_calls": False}
    found = asked(server, **options)
    (call,) = found.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "clock", {})
    assert found.status == "completed"
    Response.model_validate_json(found.model_dump_json(), strict=True)
    events = list(asked(server, **options, stream=True))
    (done,) = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert done.arguments == call.arguments
    assert events[-1].type == "response.completed"
    said: Any = [{"role": "user", "content": [{"type": "input_text", "text": "the"}]}]
    said += [{"type": "reasoning", "id": "r", "summary": []}, call.model_dump(mode="json")]
    said += [{"type": "function_call_output", "call_id": call.call_id, "output": "noon"}]
    assert asked(server, input=said, tools=[CLOCK], store=False).output_text
    named = {"type": "function", "name": "clock"}
    assert asked(server, **options | {"tool_choice": named}).output[0].name == "clock"


def test_the_clients_own_parser_reads_an_answer(server: Server) -> None:
    class Animal(pydantic.BaseModel):
        legs: int = pydantic.Field(ge=0, le=9)

    reply = server.client.responses.parse(
        model="tiny", input="the dog", text_format=Animal, max_output_tokens=100
    )
    assert isinstance(reply.output_parsed, Animal)
    with server.client.responses.stream(
        model="tiny", input="the dog", text_format=Animal, max_output_tokens=100
    ) as stream:
        for _ in stream:
            pass
        assert isinstance(stream.get_final_response().output_parsed, Animal)


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not supported"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "input", "nothing is kept here"),
        ({"input": [{"role": "user", "content": 3}]}, "input.0.message", "list of text parts"),
        ({"input": 3}, "input", "valid list; found 3"),
        ({"tool_choice": "required"}, "tool_choice", "tools has none"),
        ({"tools": [{"type": "web_search"}]}, "tools.0", "'function'"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": 3}}}}, "response_format",
         "type must be a string"),
        ({"truncation": "auto"}, "truncation", "'disabled'"),
        ({"background": True}, "background", "False"),
        ({"model": "other"}, "model", "not served here"),
    ],
)  # fmt: skip
def test_bad_turns_name_the_field(server: Server, change: Any, param: str, said: str) -> None:
    body = json.dumps({"model": "tiny", "input": "the"} | change)
    status, reply = get(server, "/v1/responses", "POST", body)
    assert status in (400, 404)
    assert reply["error"]["param"].startswith(param)
    assert said in reply["error"]["message"]


def test_the_client_raises_its_own_errors(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="context is 1024 tokens"):
        asked(server, max_output_tokens=5000)

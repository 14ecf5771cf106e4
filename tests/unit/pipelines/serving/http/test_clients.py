"""What programs in use send by default is answered, in the types of the OpenAI client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pipelines.serving.limits import Limits
from tests import tiny, vocabularies
from tests.serving import Server, sent, served

TALK = [{"role": "user", "content": "the dog"}]
FUNCTION = {
    "name": "look",
    "description": "looks",
    "parameters": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"path": {"type": "string", "maxLength": 5}},
        "required": ["path"],
        "additionalProperties": False,
    },
}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"path":"a"}'}}
SCHEMA = {
    "title": "Animal",
    "type": "object",
    "properties": {"name": {"title": "Name", "type": "string", "maxLength": 4}},
    "required": ["name"],
    "additionalProperties": False,
}

COMPLETIONS: dict[str, dict[str, Any]] = {
    "vllm bench serve": {
        "prompt": "the dog",
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 4,
        "logprobs": None,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    },
    "guidellm": {
        "prompt": "the dog",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 4,
        "stop": None,
        "ignore_eos": True,
    },
    "lm-eval, multiple choice": {
        "prompt": [[5, 6, 7, 8], [5, 6, 7]],
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    },
    "lm-eval, generation": {
        "prompt": [[5, 6, 7]],
        "max_tokens": 4,
        "temperature": 0,
        "stop": ["\n", "Question:", "</s>", "a", "b", "c"],
        "seed": 1234,
    },
    "LangChain OpenAI": {
        "prompt": ["the dog"],
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "temperature": 0.7,
        "top_p": 1,
        "n": 1,
        "max_tokens": 4,
        "logit_bias": {},
        "seed": None,
    },
}

CHATS: dict[str, dict[str, Any]] = {
    "open-webui": {
        "stream": True,
        "messages": TALK,
        "params": {},
        "tool_servers": [],
        "features": {},
        "stream_options": {"include_usage": True},
        "max_tokens": 4,
    },
    "guidellm": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "the dog"}]}],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_completion_tokens": 4,
        "max_tokens": 4,
        "stop": None,
        "ignore_eos": True,
    },
    "lm-eval": {
        "messages": [{"role": "user", "content": "the", "type": "text"}],
        "max_tokens": 4,
        "temperature": 0,
        "stop": ["\n", "Question:", "</s>"],
        "seed": 1234,
    },
    "an agent's first turn": {
        "messages": [{"role": "system", "content": "be brief"}, *TALK],
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning_effort": "medium",
        "verbosity": "low",
        "max_tokens": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "an agent's later turn": {
        "messages": [
            *TALK,
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "audio": None,
                "function_call": None,
                "reasoning_content": "hm",
                "tool_calls": [CALL | {"index": 0}],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "nothing"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "x"}]},
        ],
        "tools": TOOLS,
        "tool_choice": "none",
        "max_completion_tokens": 4,
    },
    "LangChain with_structured_output": {
        "messages": TALK,
        "max_tokens": 40,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "Animal", "schema": SCHEMA, "strict": True},
        },
    },
    "LangChain bind_tools": {
        "messages": TALK,
        "max_tokens": 60,
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
    },
    "garak": {
        "messages": TALK,
        "n": 2,
        "temperature": 0.7,
        "top_p": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "stop": ["#", ";"],
        "max_tokens": 4,
    },
    "Qwen's recipe": {
        "messages": TALK,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "min_p": 0,
        "presence_penalty": 1.5,
        "chat_template_kwargs": {"enable_thinking": False},
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 4,
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    path = tiny.saved(tiny.llama(**sizes), tmp_path_factory.mktemp("clients"))
    vocabularies.save(tokenizer, path, vocabularies.HERMES)
    with served(path, Limits(waiting=9, idle_seconds=0.05)) as server:
        yield server


def answered(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the reply, or the events of a stream."""
    status, headers, reply = sent(server, path, "POST", json.dumps({"model": "tiny"} | body))
    assert status == 200, reply
    if headers["content-type"].startswith("application/json"):
        return [json.loads(reply)]
    *events, end = reply.decode().strip().split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


@pytest.mark.parametrize("client", COMPLETIONS)
def test_completions(server: Server, client: str) -> None:
    for reply in answered(server, "/v1/completions", COMPLETIONS[client]):
        for choice in reply["choices"]:  # The client's type forgets that nothing comes before.
            for values in ((choice["logprobs"] or {}).get(name) for name in LISTS):
                if values and values[0] is None:
                    del values[0]
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate_json(json.dumps(reply), strict=True)


LISTS = ("token_logprobs", "top_logprobs")


@pytest.mark.parametrize("client", CHATS)
def test_chats(server: Server, client: str) -> None:
    kind = ChatCompletionChunk if CHATS[client].get("stream") else ChatCompletion
    for reply in answered(server, "/v1/chat/completions", CHATS[client]):
        kind.model_validate_json(json.dumps(reply), strict=True)

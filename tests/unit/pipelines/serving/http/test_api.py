"""The unmodified OpenAI client against the application, over real HTTP."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
import torch
import transformers

from moe.errors import RankLost
from moe.nn.inference.rows import BLOCK
from pipelines.serving.limits import Limits
from tests.local_decoder import LocalDecoder
from tests.serving import PATIENCE, Server, get, served, until

TALK: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": t} for t in ("naïve 🙂 ", "?")]},
]


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(waiting=2, prefill_tokens=5, idle_seconds=0.05)) as server:
        yield server


def oracle(server: Server, tokens: list[int], count: int) -> list[int]:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(server.model).eval()
    output = theirs.generate(
        torch.tensor([tokens]), max_new_tokens=count, do_sample=False, pad_token_id=1
    )
    return list(output[0, len(tokens) :].tolist())


def test_a_completion_equals_transformers(server: Server) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.model)
    prompt = tokenizer("the quick brown fox")["input_ids"]
    expected = oracle(server, prompt, 30)
    for form in ("the quick brown fox", prompt):
        reply = server.client.completions.create(
            model="tiny", prompt=form, max_tokens=30, temperature=0
        )
        assert reply.choices[0].text == tokenizer.decode(expected, skip_special_tokens=True)
        assert reply.choices[0].finish_reason == ("stop" if expected[-1] == 1 else "length")
        assert reply.usage is not None
        assert reply.usage.prompt_tokens == len(prompt)
        assert reply.usage.completion_tokens == len(expected)
        assert reply.usage.total_tokens == len(prompt) + len(expected)
        assert reply.object == "text_completion"
    server.rest()


def test_a_chat_equals_transformers_and_its_own_stream(server: Server) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.model)
    talk = [TALK[0], {"role": "user", "content": "naïve 🙂 ?"}]
    prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    expected = tokenizer.decode(oracle(server, prompt, 25), skip_special_tokens=True)
    options: dict[str, Any] = {"model": "tiny", "messages": TALK, "temperature": 0}
    reply = server.client.chat.completions.create(**options, max_tokens=25)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == expected
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len(prompt)
    chunks = list(
        server.client.chat.completions.create(
            **options,
            max_completion_tokens=25,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *body, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == reply.usage.total_tokens
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == (len(prompt) - 1) // BLOCK * BLOCK
    assert all(chunk.usage is None for chunk in body)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in body) == expected
    roles = [chunk.choices[0].delta.role for chunk in body]
    assert roles == ["assistant"] + [None] * (len(body) - 1)
    finishes = [chunk.choices[0].finish_reason for chunk in body]
    assert finishes == [None] * (len(body) - 1) + [reply.choices[0].finish_reason]
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_prompts_give_several_choices(server: Server) -> None:
    prompts = ["the", "a mixture", "naïve"]
    options: dict[str, Any] = {"model": "tiny", "prompt": prompts, "temperature": 0}
    together = server.client.completions.create(**options)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    server.rest()  # the last place is free a moment after the answer, and three are all there are
    streamed = ["", "", ""]
    for chunk in server.client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    for index, prompt in enumerate(prompts):
        alone = server.client.completions.create(model="tiny", prompt=prompt, temperature=0)
        assert together.choices[index].text == alone.choices[0].text == streamed[index]
        assert alone.usage is not None
        assert alone.usage.completion_tokens <= 16


def test_a_seed_repeats_a_draw_and_no_seed_does_not(server: Server) -> None:
    def answer(**options: Any) -> str:
        reply = server.client.completions.create(
            model="tiny", prompt="the", max_tokens=12, **options
        )
        return reply.choices[0].text

    assert answer(seed=5) == answer(seed=5)
    assert len({answer(seed=seed) for seed in range(5)}) > 1
    assert len({answer() for _ in range(5)}) > 1
    assert answer(top_p=0.0) == answer(temperature=0)


def test_logprobs_of_completions(server: Server) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the dog", "max_tokens": 8, "seed": 3}
    reply = server.client.completions.create(**options, logprobs=3).choices[0]
    assert reply.logprobs is not None
    assert reply.logprobs.tokens
    assert reply.logprobs.token_logprobs
    assert reply.logprobs.top_logprobs
    tokens = server.text.encode("the dog")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(server.model).eval()
    with torch.no_grad():
        expected = torch.log_softmax(theirs(torch.tensor([tokens])).logits[0, -1], -1)
    best = expected.topk(3)
    found = reply.logprobs.top_logprobs[0]
    for token, value in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        assert found[server.text.token_text(token)] == pytest.approx(value, abs=1e-4)
    assert reply.logprobs.token_logprobs[0] == pytest.approx(found[reply.logprobs.tokens[0]])
    streamed = list(server.client.completions.create(**options, logprobs=3, stream=True))
    pieces = [chunk.choices[0].logprobs for chunk in streamed]
    assert [token for piece in pieces for token in piece.tokens] == reply.logprobs.tokens
    offsets = [offset for piece in pieces for offset in piece.text_offset]
    assert offsets == reply.logprobs.text_offset
    plain = server.client.completions.create(**options, logprobs=0).choices[0].logprobs
    assert plain is not None
    assert plain.top_logprobs is None
    assert plain.token_logprobs == reply.logprobs.token_logprobs


def test_logprobs_of_chats(server: Server) -> None:
    reply = server.client.chat.completions.create(
        model="tiny", messages=TALK, max_tokens=6, seed=1, logprobs=True, top_logprobs=2
    ).choices[0]
    assert reply.logprobs is not None
    assert reply.logprobs.content
    for entry in reply.logprobs.content:
        assert entry.logprob <= 0
        assert entry.bytes is not None
        assert bytes(entry.bytes).decode("utf-8", "backslashreplace") == entry.token
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
    without = server.client.chat.completions.create(model="tiny", messages=TALK, max_tokens=2)
    assert without.choices[0].logprobs is None


def test_a_stop_text_ends_an_answer_and_is_not_shown(server: Server) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the", "temperature": 0}
    whole = server.client.completions.create(**options, max_tokens=20).choices[0].text
    stop = whole[3:6]
    cut = server.client.completions.create(**options, max_tokens=20, stop=["\0", stop])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    stream = server.client.completions.create(**options, max_tokens=20, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == cut.choices[0].text
    server.rest()


def test_models_and_health(server: Server) -> None:
    assert [model.id for model in server.client.models.list()] == ["tiny"]
    assert server.client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="'large' is not served here"):
        server.client.models.retrieve("large")
    assert get(server, "/health") == (
        200,
        {"status": "serving", "running": 0, "waiting": 0, "replicas": 1},
    )
    status, schema = get(server, "/openapi.json")
    assert status == 200
    for path in ("/v1/completions", "/v1/chat/completions"):
        assert set(schema["paths"][path]["post"]["responses"]) == {"200", "4XX", "5XX"}


@pytest.mark.parametrize(
    ("options", "error", "param", "message"),
    [
        ({"temperature": 3.0}, openai.BadRequestError, "temperature", "less than or equal to 2"),
        ({"n": 4}, openai.BadRequestError, "n", "4 answers .* but the server holds 3"),
        ({"extra_body": {"topk": 5}}, openai.BadRequestError, "topk", "did you mean top_"),
        ({"logit_bias": {"999": 1}}, openai.BadRequestError, "logit_bias", "token 999 is not"),
        (
            {"extra_body": {"stop_token_ids": [999]}},
            openai.BadRequestError,
            "stop_token_ids",
            "token 999 is not",
        ),
        ({"model": "gpt"}, openai.NotFoundError, "model", "this server has 'tiny'"),
        ({"prompt": [999]}, openai.BadRequestError, "prompt", "token 999 is not in the vocab"),
        ({"prompt": ["a"] * 4}, openai.BadRequestError, "prompt", "but the server holds 3"),
        (
            {"max_tokens": 256},
            openai.BadRequestError,
            "prompt",
            "context is 256 tokens",
        ),
        (
            {"prompt": [5] * 256},
            openai.BadRequestError,
            "prompt",
            "takes 256 and .* at least 1, 257",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_the_clients_exceptions(
    server: Server, options: Any, error: Any, param: str, message: str, stream: bool
) -> None:
    request = {"model": "tiny", "prompt": "the", "stream": stream} | options
    with pytest.raises(error, match=message) as caught:
        server.client.completions.create(**request)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    server.rest()


def test_an_answer_may_fill_the_context(server: Server) -> None:
    reply = server.client.completions.create(model="tiny", prompt=[5] * 250, temperature=0)
    assert reply.usage is not None
    assert reply.usage.total_tokens <= 256
    reply = server.client.completions.create(model="tiny", prompt="", max_tokens=2)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v1/completions", "{", 400, "the body is not JSON"),
        ("POST", "/v1/completions", "[]", 400, "the body is []; send"),
        ("POST", "/v1/completions", "", 400, "the body is missing"),
        ("POST", "/v1/completions", '{"model":"\\ud800","prompt":"a"}', 404, "\\ud800"),
        ("POST", "/v1/completions", '{"model":"m","prompt":"a","\\ud800":1}', 400, "supported"),
        ("GET", "/v1/completions", None, 405, "Method Not Allowed"),
        ("GET", "/v2", None, 404, "Not Found"),
    ],
)
def test_every_error_has_the_body_clients_read(
    server: Server, method: str, path: str, body: str | None, status: int, message: str
) -> None:
    found, reply = get(server, path, method, body)
    assert found == status
    assert set(reply["error"]) == {"message", "type", "param", "code"}
    assert message in reply["error"]["message"]


@contextmanager
def held(engine: LocalDecoder) -> Iterator[threading.Event]:
    """Hold the engine's next step until the event is set or the block ends."""
    gate = threading.Event()
    engine.before = lambda: check(gate.wait(PATIENCE))
    try:
        yield gate
    finally:
        gate.set()
        engine.before = lambda: None


def check(true: bool) -> None:
    assert true


def test_too_many_requests_are_told_to_come_back(server: Server) -> None:
    with held(server.engine) as gate:
        streams = []
        for _ in range(3):
            thread = threading.Thread(
                target=server.client.completions.create, kwargs={"model": "tiny", "prompt": "the"}
            )
            thread.start()
            streams.append(thread)
        until(lambda: server.scheduler.status.waiting == 2)
        with pytest.raises(openai.RateLimitError, match="try again in a moment") as caught:
            server.client.completions.create(model="tiny", prompt="the", stream=True)
        assert caught.value.code == "queue_full"
        assert caught.value.response.headers["retry-after"] == "1"
        gate.set()
        for thread in streams:
            thread.join(PATIENCE)
    server.rest()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["running", "waiting"])
def test_a_client_that_leaves_frees_its_place(server: Server, stream: bool, place: str) -> None:
    body = {"model": "tiny", "prompt": "the", "max_tokens": 200, "stream": stream}
    batches = len(server.engine.batches)
    with held(server.engine) as gate:
        first = connect(server, body)
        until(lambda: server.scheduler.status.running == 1)
        second = connect(server, body)
        until(lambda: server.scheduler.status.waiting == 1)

        def slowly() -> None:
            check(gate.wait(PATIENCE))
            time.sleep(0.005)

        server.engine.before = slowly
        second.close()
        if place == "running":
            first.close()
        gate.set()
        until(lambda: server.scheduler.status.waiting == 0)
        first.close()
        server.rest()
    assert len(server.engine.batches) < batches + 100
    reply = server.client.completions.create(model="tiny", prompt="the", max_tokens=1)
    assert reply.choices


def connect(server: Server, body: Any) -> socket.socket:
    """Send a request and leave the reply unread."""
    data = json.dumps(body).encode()
    address = urlsplit(server.url)
    assert address.port is not None
    connection = socket.create_connection(("127.0.0.1", address.port), timeout=PATIENCE)
    head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_a_client_that_leaves_amid_a_stream_frees_the_engine(server: Server) -> None:
    stream = server.client.completions.create(
        model="tiny", prompt="the", max_tokens=200, stream=True, temperature=1.9, seed=1
    )
    server.engine.before = lambda: time.sleep(0.005)
    next(iter(stream))
    stream.close()
    batches = len(server.engine.batches)
    server.rest()
    assert len(server.engine.batches) < batches + 100
    server.engine.before = lambda: None


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_rank_costs_no_request(server: Server, stream: bool) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the", "max_tokens": 40, "temperature": 0}
    expected = server.client.completions.create(**options).choices[0].text
    losses = iter([False] * 5 + [True] + [False] * 9 + [True] * 2)

    def lose() -> None:
        if next(losses, False):
            raise RankLost("rank 1 died")

    before, mended = server.engine, server.engine.mended
    before.before = lose
    if stream:
        pieces = server.client.completions.create(**options, stream=True)
        found = "".join(piece.choices[0].text for piece in pieces)
    else:
        found = server.client.completions.create(**options).choices[0].text
    assert found == expected
    assert server.engine is before
    assert before.mended == mended + 3
    assert get(server, "/health")[0] == 200
    before.before = lambda: None


def test_an_engine_that_keeps_failing_is_an_error_event(server: Server) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the", "max_tokens": 200}
    stream = iter(server.client.completions.create(**options, temperature=0, stream=True))
    next(stream)

    def lose() -> None:
        raise RankLost("rank 0 died")

    server.engine.before = lose
    with pytest.raises(openai.APIError, match="rank 0 died"):
        list(stream)
    server.engine.before = lambda: None
    server.rest()


def test_prompts_that_come_together_are_answered_as_alone(model: Path) -> None:
    with served(model, Limits(waiting=40), running=6) as server:
        prompts = [server.text.decode(server.text.encode("the lazy dog " * n)) for n in range(1, 9)]
        options: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "temperature": 0}
        alone = [
            server.client.completions.create(prompt=prompt, **options).choices[0].text
            for prompt in prompts
        ]
        together = server.client.completions.create(prompt=prompts, **options)
        assert [choice.text for choice in together.choices] == alone
        assert any(len(batch.feeds) > 3 for batch in server.engine.batches)


def test_health_tells_of_an_engine_that_cannot_be_rebuilt(model: Path) -> None:
    with served(model, Limits(idle_seconds=0.05)) as server:
        failures: list[Path] = [server.model]
        server.model = Path("missing")
        server.engine.alive = False
        until(lambda: get(server, "/health")[0] == 503)
        assert get(server, "/health")[1]["status"] in ("failed", "rebuilding")
        server.model = failures[0]
        until(lambda: get(server, "/health")[0] == 200)


def test_requests_at_the_same_time_are_all_answered(server: Server) -> None:
    async def main() -> set[str]:
        base = f"{server.url}/v1"
        async with openai.AsyncOpenAI(
            base_url=base, api_key="-", max_retries=20, timeout=PATIENCE
        ) as client:
            options: dict[str, Any] = {"model": "tiny", "prompt": "the", "temperature": 0}
            asked = [client.completions.create(**options) for _ in range(3)]
            replies = await asyncio.gather(*asked)
        return {reply.choices[0].text for reply in replies}

    assert len(asyncio.run(main())) == 1

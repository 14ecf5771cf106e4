"""Clients do not see the front, unless a replica is lost or none is there."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from pipelines.serving.access import Access
from pipelines.serving.limits import Limits
from pipelines.serving.replicas.prompts import beginnings
from tests.fronted import MANNER, LocalReplicas, fronted
from tests.serving import Server, get, sent, served

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "the lazy dog", "max_tokens": 20, "seed": 1}


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    with served(model, Limits(waiting=2, idle_seconds=0.05)) as server:
        yield server


def replicas(server: Server, **how: Any) -> LocalReplicas:
    return LocalReplicas([server.service], **how)


def test_answers_streams_and_refusals_are_those_of_a_replica(server: Server) -> None:
    expected = server.client.completions.create(**ASKED)
    with fronted(replicas(server)) as front:
        assert front.client.completions.create(**ASKED).choices == expected.choices
        stream = front.client.completions.create(**ASKED, stream=True)
        assert "".join(piece.choices[0].text for piece in stream) == expected.choices[0].text
        for path in ("/v1/models", "/v1/models/other", "/nowhere", "/openapi.json"):
            assert get(front, path) == get(server, path)
        for body in ("{", '{"model": "other", "prompt": "a"}', '{"model": "tiny"}'):
            found = get(front, "/v1/completions", "POST", body)
            assert found == get(server, "/v1/completions", "POST", body)
    server.rest()


def test_a_prompt_is_named_for_the_router_if_it_is_wished(server: Server) -> None:
    for by_prefix in (True, False):
        asked = replicas(server)
        with fronted(asked, replace(MANNER, by_prefix=by_prefix)) as front:
            front.client.completions.create(model="tiny", prompt="a b " * 40, max_tokens=1)
        (found,) = asked.asked
        assert bool(found.beginnings) == by_prefix
        assert not by_prefix or found.beginnings == beginnings(found.body)


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_replica_is_lost_before_it_answers_goes_to_another(
    server: Server, stream: bool
) -> None:
    expected = server.client.completions.create(**ASKED).choices[0].text
    asked = replicas(server, lost=[0, 0])
    with fronted(asked) as front:
        found = front.client.completions.create(**ASKED, stream=stream)
        pieces = list(found) if stream else [found]
    assert "".join(piece.choices[0].text for piece in pieces) == expected
    assert len(asked.asked) == 3


def test_replicas_that_are_lost_again_and_again_are_an_error(server: Server) -> None:
    with (
        fronted(replicas(server, lost=[0] * 3)) as front,
        pytest.raises(openai.InternalServerError, match="replica that answered was lost") as found,
    ):
        front.client.completions.create(**ASKED)
    assert found.value.status_code == 503
    assert found.value.response.headers["Retry-After"] == "2"
    server.rest()


def test_a_stream_whose_replica_is_lost_ends_with_an_error(server: Server) -> None:
    with fronted(replicas(server, lost=[3])) as front:
        stream = iter(front.client.completions.create(**ASKED, stream=True))
        assert next(stream).choices[0].text
        with pytest.raises(openai.APIError, match="was lost; send the request again"):
            list(stream)
        asked = json.dumps(ASKED | {"stream": True})
        assert sent(front, "/v1/completions", "POST", asked)[2].endswith(b"data: [DONE]\n\n")
    server.rest()


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    with fronted(replicas(server)) as front:
        stream = front.client.completions.create(
            model="tiny", prompt="the", max_tokens=240, temperature=2, seed=2, stream=True
        )
        next(iter(stream))
        stream.close()
        server.rest()


def test_while_no_replica_is_there_requests_are_refused_for_a_while(server: Server) -> None:
    with fronted(replicas(server, asleep=True)) as front:
        with pytest.raises(openai.InternalServerError, match="is being loaded now") as found:
            front.client.completions.create(**ASKED)
        assert found.value.response.headers["Retry-After"] == "15"
        status, body = get(front, "/health")
        assert (status, body["status"], body["replicas"]) == (200, "asleep", 0)


def test_an_answer_that_does_not_begin_in_time_is_an_error(server: Server) -> None:
    with (
        fronted(replicas(server, silent=True), replace(MANNER, seconds=0.1)) as front,
        pytest.raises(openai.InternalServerError, match=r"within the 0\.1 seconds") as found,
    ):
        front.client.completions.create(**ASKED)
    assert found.value.status_code == 504


def test_keys_and_sizes_are_checked_before_a_replica_is_asked(server: Server) -> None:
    asked = replicas(server)
    with fronted(asked, replace(MANNER, access=Access(keys=["secret"]), most_bytes=100)) as front:
        assert get(front, "/v1/models")[0] == 401
        key = {"Authorization": "Bearer secret"}
        assert sent(front, "/v1/completions", "POST", "x" * 101, key)[0] == 413
        assert not asked.asked
        assert sent(front, "/v1/models", headers=key)[0] == 200
        assert get(front, "/health")[0] == 200


def test_health_and_figures_are_of_all(server: Server) -> None:
    with fronted(LocalReplicas([server.service] * 2)) as front:
        assert get(front, "/health")[1] == get(server, "/health")[1] | {"replicas": 2}
        text = sent(front, "/metrics")[2].decode()
    assert 'vllm:num_requests_running{model_name="tiny",replica="1"} 0.0' in text

"""Several replicas over real actors: one is killed, their number and their model change, none."""

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import ray
from openai import OpenAI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.util import placement_group_table
from ray.util.state import list_actors

from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.planning.plan.file import save_plan
from pipelines.serving.app import build
from tests import runs, tiny, vocabularies
from tests.servers import free_port

pytestmark = pytest.mark.ray

PATIENCE = 180.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    path = tiny.saved(tiny.mixtral(**sizes), tmp_path_factory.mktemp("tiny") / "tiny")
    save_plan(runs.plan(Checkpoint.open(path).config, (3,)), path / "plan.toml")
    return vocabularies.save(tokenizer, path)


class Cluster:
    """The application on Ray Serve."""

    def __init__(self, model: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._args = {"model": str(model), "plan": str(model / "plan.toml"), "spares": 0}

    def deploy(self, **args: Any) -> None:
        serve.run(build(self._args | args), name="test")

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="-", max_retries=0, timeout=PATIENCE)

    @property
    def replicas(self) -> list[int]:
        """The processes of the replicas that Ray has."""
        return sorted(each.pid for each in _alive() if _REPLICA in each.class_name)

    @property
    def held(self) -> tuple[list[str], list[str]]:
        """The names of the ranks and of their reservations."""
        groups = placement_group_table().values()
        ranks = sorted(each.name for each in _alive() if "/rank-" in each.name)
        return ranks, sorted(row["name"] for row in groups if row["state"] != "REMOVED")


_REPLICA = "ServeReplica:test:server"


def _alive() -> list[Any]:
    address = ray.get_runtime_context().gcs_address
    return list(list_actors(address, [("state", "=", "ALIVE")]))


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(ray_session: Session, model: Path) -> Iterator[Cluster]:
    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    cluster = Cluster(model, port)
    cluster.deploy(replicas=2)
    yield cluster
    serve.shutdown()
    until(lambda: cluster.held == ([], []))


def asking(cluster: Cluster, number: int, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": f"the {number}", "max_tokens": 200, "seed": number} | more


def test_a_prompt_goes_where_its_beginning_was_computed(cluster: Cluster) -> None:
    """By chance one of two would be right every other time."""
    found = list[tuple[int, int]]()
    with cluster.client() as client:
        for turn in range(4):
            for number in range(4):
                prompt = f"{number} the lazy dog and the quick brown fox {number} " * 4
                asked = asking(cluster, number, prompt=prompt, max_tokens=1)
                usage = client.completions.create(**asked).usage
                assert usage is not None
                assert usage.prompt_tokens_details is not None
                found.append((turn, usage.prompt_tokens_details.cached_tokens or 0))
    assert all((cached > 0) == (turn > 0) for turn, cached in found), found


def test_a_killed_replica_costs_only_streams_that_had_begun(cluster: Cluster) -> None:
    """Its ranks and reservations go with it; what was not answered yet is answered by the other."""
    said, begun, client = dict[int, str](), list[int](), cluster.client()

    def ask(number: int) -> None:
        stream = client.completions.create(**asking(cluster, number), temperature=2, stream=True)
        try:
            next(iter(stream))
            begun.append(number)
            said[number] = "".join(piece.choices[0].text for piece in stream) and "whole"
        except openai.APIError as error:
            said[number] = str(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(begun) == 8)
    before, victim = cluster.held, cluster.replicas[0]
    os.kill(victim, signal.SIGKILL)
    late = client.completions.create(**asking(cluster, 9, max_tokens=3))
    for thread in threads:
        thread.join(PATIENCE)
    assert late.choices[0].finish_reason == "length"
    lost = "the replica that answered was lost; send the request again"
    assert {*said.values()} <= {"whole", lost}
    assert len(said) == 8
    until(lambda: len(cluster.replicas) == 2 and len(cluster.held[0]) == 2)
    assert [len(names) for names in cluster.held] == [2, 2]
    assert all(len({*now} - {*then}) == 1 for now, then in zip(cluster.held, before, strict=True))


@pytest.mark.long
def test_changes_of_number_and_model_fail_no_request(cluster: Cluster) -> None:
    """The short form of ``python -m benchmarks.rolling``."""
    stop, ends = threading.Event(), list[str]()

    def load(number: int) -> None:
        with cluster.client() as client:
            while not stop.is_set():
                asked = asking(cluster, number, max_tokens=10)
                try:
                    ends.append(str(client.completions.create(**asked).choices[0].finish_reason))
                except openai.APIError as error:
                    ends.append(repr(error))

    threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    cluster.deploy(replicas=1, max_replicas=2, chat_tokens=99, surge=1)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert {*ends} <= {"length", "stop"}
    assert len(ends) > 10
    until(lambda: len(cluster.replicas) == 1)
    until(lambda: [len(names) for names in cluster.held] == [1, 1])


@pytest.mark.long
def test_none_is_left_where_nobody_asks_and_one_comes_when_somebody_does(cluster: Cluster) -> None:
    cluster.deploy(
        replicas=0, max_replicas=1, chat_tokens=99, downscale_seconds=0.5, asleep="refuse"
    )
    until(lambda: cluster.held == ([], []))
    with urllib.request.urlopen(f"{cluster.url}/health", timeout=PATIENCE) as reply:
        assert b'"status": "asleep"' in reply.read()
    with cluster.client() as client:
        with pytest.raises(openai.InternalServerError, match="is being loaded now") as refused:
            client.completions.create(**asking(cluster, 1))
        assert refused.value.response.headers["Retry-After"] == "15"
        until(lambda: len(cluster.held[0]) == 1)
        until(lambda: _answers(client, cluster))


def _answers(client: OpenAI, cluster: Cluster) -> bool:
    try:
        return bool(client.completions.create(**asking(cluster, 1, max_tokens=1)).choices)
    except openai.InternalServerError:
        return False

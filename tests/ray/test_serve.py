"""The server over real actors: Ray Serve, two stages, the OpenAI client, killed actors, the end."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import ray
import transformers
from openai import OpenAI
from ray import serve
from ray.serve.config import HTTPOptions
from ray.util.state import list_actors

from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.errors import ClusterError
from moe.planning.plan.file import save_plan
from pipelines.serving.app import build
from pipelines.serving.arguments import parse_arguments
from pipelines.serving.running import check_port, run_server
from tests import lora, runs, tiny, vocabularies
from tests.servers import free_port

pytestmark = pytest.mark.ray

PATIENCE = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = vocabularies.byte_level()
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    path = tiny.saved(tiny.mixtral(**sizes), tmp_path_factory.mktemp("tiny") / "tiny")
    plan = runs.plan(Checkpoint.open(path).config, (1, 2))
    save_plan(plan, path / "plan.toml")
    return vocabularies.save(tokenizer, path)


@pytest.fixture(scope="module")
def poet(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the model."""
    modules = [*lora.ATTENTION, "w1", "w2", "w3"]
    return lora.adapter(model, tmp_path_factory.mktemp("poet"), target_modules=modules)


@pytest.fixture(scope="module")
def url(ray_session: Session, model: Path, poet: Path) -> Iterator[str]:
    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    args = {
        "model": str(model),
        "plan": str(model / "plan.toml"),
        "adapters": {"poet": str(poet)},
        "idle_seconds": 0.2,
        "step_seconds": 5,
    }
    serve.run(build(args), name="test")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    until(lambda: not stage_actors())


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=PATIENCE) as client:
        yield client


def stage_actors() -> list[Any]:
    """Return the living actors of servers on this cluster, ranks and warm processes."""
    address = ray.get_runtime_context().gcs_address
    alive = list_actors(address, [("state", "=", "ALIVE")])  # a hundred at most; the dead are more
    return [actor for actor in alive if "/rank-" in actor.name]


def rank_pids() -> dict[int, int]:
    """Return the process of each rank that has joined the others; warm processes have no seat."""
    found = {}
    for actor in stage_actors():
        try:
            status = ray.get(ray.get_actor(actor.name).status.remote(), timeout=1)
        except (ValueError, ray.exceptions.RayError):
            continue  # it died a moment ago, or was stopped
        if status.joined:
            found[status.rank] = status.pid
    return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def health(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_greedy_equals_transformers(client: OpenAI, model: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    prompt = tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
    output = theirs.generate(prompt, max_new_tokens=30, do_sample=False, pad_token_id=1)
    expected = tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    options: dict[str, Any] = {"model": "tiny", "prompt": "the quick brown fox", "max_tokens": 30}
    reply = client.completions.create(**options, temperature=0)
    assert reply.choices[0].text == expected
    stream = client.completions.create(**options, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected


def test_chats_models_health_and_refusals(client: OpenAI, url: str) -> None:
    assert health(url) == 200
    assert [each.id for each in client.models.list()] == ["tiny", "poet"]
    talk: list[Any] = [{"role": "user", "content": "the dog"}]
    reply = client.chat.completions.create(model="tiny", messages=talk, max_tokens=5, seed=1)
    stream = client.chat.completions.create(
        model="tiny", messages=talk, max_tokens=5, seed=1, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert reply.choices[0].message.content == text
    with pytest.raises(openai.BadRequestError, match=r"temperature: .* found 9"):
        client.completions.create(model="tiny", prompt="a", temperature=9)
    with pytest.raises(openai.NotFoundError, match="'other' is not served here"):
        client.completions.create(model="other", prompt="a")


def test_a_client_that_leaves_frees_the_engine(client: OpenAI, url: str) -> None:
    stream = client.completions.create(
        model="tiny", prompt="the", max_tokens=240, temperature=2, seed=2, stream=True
    )
    next(iter(stream))
    stream.close()
    until(lambda: occupied(url) == 0)


def occupied(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE) as reply:
        body = json.loads(reply.read())
    return int(body["running"] + body["waiting"])


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_actor_costs_no_request(
    client: OpenAI, url: str, harm: signal.Signals, victim: int
) -> None:
    options: dict[str, Any] = {"model": "tiny", "prompt": "the", "max_tokens": 200, "seed": 3}
    expected = client.completions.create(**options, temperature=2).choices[0].text
    before = rank_pids()
    stream = iter(client.completions.create(**options, temperature=2, stream=True))
    found = next(stream).choices[0].text
    os.kill(before[victim], harm)
    found += "".join(piece.choices[0].text for piece in stream)
    assert found == expected
    after = rank_pids()
    assert {*after} == {0, 1}
    assert after[1 - victim] == before[1 - victim]
    assert after[victim] != before[victim]
    assert health(url) == 200


def test_an_actor_killed_while_idle_is_replaced_alone(client: OpenAI, url: str) -> None:
    before = rank_pids()
    os.kill(before[0], signal.SIGKILL)
    until(lambda: rank_pids().get(0, before[0]) != before[0])
    assert client.completions.create(model="tiny", prompt="the", max_tokens=1).choices
    assert rank_pids()[1] == before[1]


def test_an_adapter_is_there_again_after_a_loss(client: OpenAI, model: Path, poet: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokens = tokenizer("the quick brown fox")["input_ids"]
    theirs = lora.Adapted(model, poet).continued(tokens, 8)
    options: dict[str, Any] = {"model": "poet", "prompt": tokens, "max_tokens": 8}

    def said() -> str:
        reply = client.completions.create(**options, temperature=0, extra_body={"ignore_eos": True})
        return reply.choices[0].text

    assert said() == tokenizer.decode(theirs, skip_special_tokens=True)
    before = {actor.pid for actor in stage_actors()}
    os.kill(max(before), signal.SIGKILL)
    until(lambda: len({actor.pid for actor in stage_actors()} - before) == 1)
    assert said() == tokenizer.decode(theirs, skip_special_tokens=True)


def test_requests_of_one_moment_are_answered_as_alone(client: OpenAI) -> None:
    prompts = ["the lazy dog " * count for count in range(1, 9)]
    options: dict[str, Any] = {"model": "tiny", "max_tokens": 20, "temperature": 0}
    alone = [client.completions.create(prompt=each, **options).choices[0].text for each in prompts]
    together = client.completions.create(prompt=prompts, **options)
    assert [choice.text for choice in together.choices] == alone


def test_a_second_server_on_the_cluster_is_refused(url: str, model: Path) -> None:
    with pytest.raises(ClusterError, match="Ray Serve already runs on this cluster"):
        run_server(parse_arguments({"model": model}), "127.0.0.1", free_port())


SCRIPT = """
import signal
import sys
from pathlib import Path
from pipelines.serving.arguments import ServeArguments
from pipelines.serving.running import run_server
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup, and inherited
arguments, port = ServeArguments(model=Path(sys.argv[1])), int(sys.argv[2])
run_server(arguments, "127.0.0.1", port, report=lambda said: print(said, flush=True))
"""


def marked(mark: str) -> list[int]:
    """Return the processes that inherited a mark in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if f"MARK={mark}".encode() in environment:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "end", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_a_server_of_its_own_ends_without_a_trace(model: Path, end: signal.Signals) -> None:
    port, mark = free_port(), uuid.uuid4().hex
    command = [sys.executable, "-c", SCRIPT, str(model), str(port)]
    with subprocess.Popen(
        command, env=os.environ | {"MARK": mark}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(2)]
        assert said == ["starting tiny", f"serving at http://127.0.0.1:{port}/v1"]
        base = f"http://127.0.0.1:{port}/v1"
        with OpenAI(base_url=base, api_key="-", timeout=PATIENCE) as client:
            assert client.completions.create(model="tiny", prompt="the", max_tokens=3).choices
        assert len(marked(mark)) > 3
        process.send_signal(end)
        assert process.stdout.read() == "stopped\n"
        assert process.wait(PATIENCE) == 0
    until(lambda: not marked(mark))
    check_port("127.0.0.1", port)

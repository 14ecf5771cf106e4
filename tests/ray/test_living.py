"""``raymoe train`` and ``raymoe serve --run`` on one cluster, with the OpenAI client."""

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import transformers
from openai import OpenAI
from ray import serve
from ray.serve.config import HTTPOptions

from cluster.session import Session
from moe.config.run import RunConfig
from pipelines.serving.app import build
from pipelines.training.board import stop
from tests import material as tiny_material
from tests.driven import begun
from tests.servers import free_port

pytestmark = pytest.mark.ray

PATIENCE = 120.0
PROMPT = "the quick brown fox"


@pytest.fixture(scope="module")
def run(ray_session: Session, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tiny_material.make(tmp_path_factory.mktemp("material"))
    changes = {
        "cluster": {"address": ray_session.address},
        "checkpoint": {"keep": 4000},
        "train": {"learning_rate": 1e-3},
    }
    return tiny_material.run(folder, folder / "run", 4000, 1, changes)


@pytest.fixture
def url(ray_session: Session) -> Iterator[str]:
    port = free_port()
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answered(client: OpenAI, count: int) -> tuple[str, tuple[int, ...]]:
    """Return an answer, and the steps whose weights had a part in it."""
    options: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "temperature": 0}
    raw = client.completions.with_raw_response.create(**options, max_tokens=count)
    reply, header = raw.parse(), raw.headers["X-Raymoe-Step"]
    assert reply.system_fingerprint == f"tiny/step-{header}"
    return reply.choices[0].text, tuple(map(int, header.split("-")))


def of_one_step(client: OpenAI, after: int = 0) -> tuple[str, int]:
    """Ask until an answer is all of one step, a later one."""
    while True:
        text, steps = answered(client, 3)
        if len(steps) == 1 and steps[0] > after:
            return text, steps[0]


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE) as reply:
            return bool(reply.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False


def greedy(checkpoint: Path, count: int) -> str:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    output = model.generate(prompt, max_new_tokens=count, do_sample=False, pad_token_id=1)
    return str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))


def test_a_run_answers_while_it_trains_stops_and_goes_on(
    run: RunConfig, url: str, tmp_path: Path
) -> None:
    with begun(run, tmp_path / "run.json") as training:
        assert training.stdout is not None
        training.stdout.readline()
        serve.run(build({"run": "tiny", "time_share": 0.6, "idle_seconds": 0.2}), name="test")
        with OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0, timeout=PATIENCE) as client:
            text, step = of_one_step(client)
            later, after = of_one_step(client, step)
            _, steps = answered(client, 200)
            assert after <= steps[0] < steps[1]
            stop(run.name)
            training.wait(PATIENCE)
            with pytest.raises(openai.InternalServerError, match="no run named tiny"):
                answered(client, 1)
            with begun(run, tmp_path / "run.json", "always"):
                until(lambda: healthy(url))
                assert of_one_step(client)[1] > steps[1]
                stop(run.name)
    for said, done in ((text, step), (later, after)):
        assert said == greedy(run.checkpoint.path / f"step-{done:08d}", 3)

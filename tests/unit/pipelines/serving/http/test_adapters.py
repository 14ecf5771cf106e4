"""Adapters over HTTP: asked for by name, loaded and dropped while others are answered."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import transformers
from prometheus_client.parser import text_string_to_metric_families

from moe.errors import RankLost
from pipelines.serving.access import Access
from pipelines.serving.limits import Limits
from tests import lora
from tests.serving import Server, get, sent, served, until

PROMPT = "the quick brown fox jumps over the lazy dog"
MODULES = {"llama": "all-linear", "mixtral": [*lora.ATTENTION, "w1", "w2", "w3"]}


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of the model of this module."""
    family = transformers.AutoConfig.from_pretrained(model).model_type
    path = tmp_path_factory.mktemp("adapters")
    return {
        "one": lora.adapter(model, path / "one", seed=1, target_modules=MODULES[family]),
        "two": lora.adapter(model, path / "two", seed=2, target_modules=["q_proj", "v_proj"]),
    }


@pytest.fixture
def server(model: Path) -> Iterator[Server]:
    access = Access(loads_adapters=True)
    with served(model, Limits(idle_seconds=0.05, waiting=16), access, running=8) as server:
        yield server


def load(server: Server, name: str, path: Path | str, **options: Any) -> tuple[int, str]:
    body = json.dumps({"lora_name": name, "lora_path": str(path), **options})
    status, _, reply = sent(server, "/v1/load_lora_adapter", "POST", body)
    return status, reply.decode()


def unload(server: Server, name: str) -> tuple[int, str]:
    body = json.dumps({"lora_name": name})
    status, _, reply = sent(server, "/v1/unload_lora_adapter", "POST", body)
    return status, reply.decode()


def said(server: Server, model: str, count: int = 8) -> str:
    reply = server.client.completions.create(
        model=model, prompt=PROMPT, max_tokens=count, temperature=0, extra_body={"ignore_eos": True}
    )
    assert reply.model == model
    return reply.choices[0].text


def expected(server: Server, directory: Path | None, count: int = 8) -> str:
    tokens = list(server.text.encode(PROMPT, special=True))
    tokenizer = transformers.AutoTokenizer.from_pretrained(server.model)
    found = lora.Adapted(server.model, directory).continued(tokens, count)
    return str(tokenizer.decode(found, skip_special_tokens=True))


def figures(server: Server) -> dict[tuple[str, str], float]:
    _, _, text = sent(server, "/metrics")
    return {
        (sample.name, sample.labels.get("adapter", "")): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_answers_by_name_are_those_of_peft(server: Server, made: dict[str, Path]) -> None:
    for name, path in made.items():
        status, reply = load(server, name, path)
        assert (status, reply) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    models = server.client.models.list().data
    assert [(each.id, each.model_extra["parent"]) for each in models] == [  # type: ignore[index]
        ("tiny", None),
        ("one", "tiny"),
        ("two", "tiny"),
    ]
    assert server.client.models.retrieve("one").id == "one"
    theirs = {name: expected(server, made.get(name)) for name in ("tiny", "one", "two")}
    answers: dict[str, str] = {}

    def ask(name: str) -> None:
        answers[name] = said(server, name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in theirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == theirs
    until(lambda: figures(server).get(("raymoe:adapter_requests_total", "two")) == 1)
    found = figures(server)
    assert found["raymoe:adapter_requests_total", "one"] == 1
    assert found["raymoe:adapters_loaded", ""] == 2
    assert found["raymoe:adapter_memory_bytes", ""] > 0


def test_chats_and_streams_and_tokens(server: Server, made: dict[str, Path]) -> None:
    server.adapters.load("one", made["one"])
    talk: list[Any] = [{"role": "user", "content": "hello"}]
    whole = server.client.chat.completions.create(
        model="one", messages=talk, max_tokens=6, temperature=0
    )
    stream = server.client.chat.completions.create(
        model="one", messages=talk, max_tokens=6, temperature=0, stream=True
    )
    events = list(stream)
    assert {event.model for event in events} == {"one"}
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    for model in ("one", "tiny"):
        status, reply = get(
            server, "/tokenize", "POST", json.dumps({"model": model, "prompt": "x"})
        )
        assert status == 200
        assert reply["count"] > 0


def test_a_name_may_get_other_weights(server: Server, made: dict[str, Path]) -> None:
    """Blocks of the old ones are never found; those of the same weights are."""
    load(server, "it", made["one"])
    first = said(server, "it")
    assert load(server, "it", made["two"])[0] == 400
    assert load(server, "it", made["two"], load_inplace=True)[0] == 200
    assert said(server, "it") == expected(server, made["two"]) != first
    assert unload(server, "it") == (200, "Success: LoRA adapter 'it' removed successfully.")
    with pytest.raises(openai.NotFoundError, match="'it' is not served here; this server has"):
        said(server, "it")
    load(server, "it", made["one"])
    assert said(server, "it") == first == expected(server, made["one"])
    until(lambda: figures(server)["raymoe:adapters_loaded", ""] == 1)


def test_what_runs_goes_on_when_its_adapter_is_dropped(
    server: Server, made: dict[str, Path]
) -> None:
    load(server, "one", made["one"])
    theirs = expected(server, made["one"], 40)
    reply = server.client.completions.create(
        model="one",
        prompt=PROMPT,
        max_tokens=40,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    events = iter(reply)
    text = next(events).choices[0].text
    assert unload(server, "one")[0] == 200
    text += "".join(event.choices[0].text for event in events if event.choices)
    assert text == theirs
    until(lambda: figures(server)["raymoe:adapters_loaded", ""] == 0)


def test_what_cannot_be_loaded_is_refused_with_reason(
    server: Server, made: dict[str, Path], tmp_path: Path
) -> None:
    def message(name: str, path: Path | str, **options: Any) -> tuple[str, str, str]:
        status, reply = load(server, name, path, **options)
        assert status == 400
        error = json.loads(reply)["error"]
        return error["message"], error["param"], error["code"]

    assert message("x", tmp_path)[0].startswith(f"{tmp_path} is no adapter")
    assert message("a b", made["one"])[1] == "lora_name"
    assert message("tiny", made["one"])[0] == "'tiny' is the name of the model; choose another"
    text, param, _ = message("x", made["one"], lora_pth="y")
    assert text == "lora_pth: this option is not supported; did you mean lora_path?"
    assert param == "lora_pth"
    broken = Path(shutil.copytree(made["one"], tmp_path / "broken"))
    settings = json.loads((broken / "adapter_config.json").read_text()) | {"use_dora": True}
    (broken / "adapter_config.json").write_text(json.dumps(settings))
    assert "use_dora = True is not supported" in message("x", broken)[0]
    load(server, "one", made["one"])
    assert message("one", made["one"])[2] == "adapter_exists"
    while (found := load(server, f"more-{len(server.adapters.loaded)}", made["one"]))[0] == 200:
        pass
    error = json.loads(found[1])["error"]
    assert error["code"] == "adapter_memory"
    assert "MB on rank 0, where adapters take" in error["message"]
    assert "unload others, or raise adapter_gb" in error["message"]
    status, reply = unload(server, "nobody")
    assert (status, json.loads(reply)["error"]["code"]) == (404, "adapter_not_found")


def test_after_a_loss_adapters_come_again_or_are_named(
    server: Server, made: dict[str, Path], tmp_path: Path
) -> None:
    mine = Path(shutil.copytree(made["two"], tmp_path / "mine"))
    load(server, "one", made["one"])
    load(server, "two", mine)
    first, second = said(server, "one"), said(server, "two")
    engine = server.engine

    def lose() -> None:
        """Lose all adapters, as ranks do that are new."""
        engine.before = lambda: None
        for number in (1, 2):
            engine._rank._share.drop(number)  # type: ignore[union-attr]
        shutil.rmtree(mine)
        raise RankLost("rank 0 died")

    engine.before = lose
    assert said(server, "one") == first
    assert engine.mended == 1
    with pytest.raises(openai.NotFoundError, match="the model 'two' is not served here"):
        said(server, "two")
    assert second
    assert said(server, "tiny") == expected(server, None)
    assert load(server, "two", made["two"])[0] == 200
    assert said(server, "two") == second
    until(lambda: figures(server)["raymoe:adapters_loaded", ""] == 2)


def test_a_server_without_leave_has_no_such_paths(model: Path, made: dict[str, Path]) -> None:
    with served(model, Limits(idle_seconds=0.05)) as server:
        assert load(server, "one", made["one"])[0] == 404
        assert unload(server, "one")[0] == 404
        server.adapters.load("one", made["one"])
        assert said(server, "one") == expected(server, made["one"])

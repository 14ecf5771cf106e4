"""What is wrong with a server's arguments is said before anything starts."""

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, ClusterError, ConfigError, PlanError
from moe.planning.plan.file import save_plan
from moe.planning.search.make import make_plan
from pipelines.serving.app import build
from pipelines.serving.arguments import ServeArguments, parse_arguments
from pipelines.serving.limits import Limits
from pipelines.serving.running import check_port, run_server
from tests import plans

LLAMA_1B = replace(
    plans.SMOLLM2,
    vocab_size=128256,
    hidden_size=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    ffn_size=8192,
    max_positions=131072,
)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "argument model: missing; give the directory of the model"),
        ({"model": "x", "modle": "y"}, "argument modle: unknown; did you mean model"),
        ({"model": "x", "zzz": "y"}, "argument zzz: unknown; known: "),
        ({"model": 3}, "argument model: .* found 3"),
        ({"run": "demo", "model": "x"}, "argument model: does not go with run: .* leave it out"),
        ({"run": "demo", "weights": "int8"}, "argument weights: does not go with run"),
        ({"run": "demo", "plan": "x"}, "argument plan: does not go with run"),
        ({"run": "demo", "time_share": 1.5}, "argument time_share: .* less than 1; found 1.5"),
        ({"model": "x", "time_share": 0.3}, "argument time_share: goes with run alone"),
        ({"model": "x", "name": ""}, "argument name: .* found ''"),
        (
            {"model": "x", "api_keys": ["k"], "load_adapters": True, "replicas": 2},
            "argument load_adapters: load_adapters does not go with several replicas: a request",
        ),
        ({"model": "x", "replicas": 0}, "max_replicas: replicas is 0; say how many .* found None"),
        ({"model": "x", "replicas": 3, "max_replicas": 2}, "max_replicas: give 3 or more, .* 2"),
        ({"model": "x", "max_replicas": 0}, "argument max_replicas: give 1 or more"),
        ({"model": "x", "routing": "luck"}, "argument routing: .* 'prefix' or 'load'"),
        ({"model": "x", "waiting": 0}, "argument waiting: .* greater than 0; found 0"),
        ({"model": "x", "adapter_gb": 0}, "argument adapter_gb: .* greater than 0; found 0"),
        (
            {"model": "x", "rebalance_gain": 0.3},
            "argument rebalance_gain: rebalance_gain has no effect with rebalance_seconds = 0",
        ),
        (
            {"model": "x", "load_adapters": True},
            "argument load_adapters: load_adapters lets requests .* give api_keys",
        ),
        (
            {"model": "x", "allowed_origins": ["https://chat.example/"]},
            "argument allowed_origins: give origins like https://chat.example, without a path",
        ),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(args)


def test_arguments_have_defaults_and_survive_a_round_trip() -> None:
    arguments = parse_arguments(
        {"model": "some/model", "waiting": 5, "allowed_origins": ["http://localhost:3000"]}
    )
    assert arguments.served_name == "model"
    assert arguments.limits == Limits(waiting=5)
    assert parse_arguments(arguments.model_dump()) == arguments
    assert parse_arguments({"model": "x", "name": "other"}).served_name == "other"
    run = parse_arguments({"run": "demo"})
    assert (run.served_name, parse_arguments(run.model_dump())) == ("demo", run)
    with pytest.raises(ConfigError, match="the limit waiting is -1"):
        Limits(waiting=-1)


def test_keys_come_from_arguments_or_the_environment_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = parse_arguments({"model": "x", "api_keys": ["sk-1", "sk-2"]})
    assert arguments.access.keys == ["sk-1", "sk-2"]
    assert "sk-1" not in f"{arguments!r} {arguments.access!r} {arguments.model_dump()}"
    assert parse_arguments(arguments.model_dump()) == arguments
    monkeypatch.setenv("RAYMOE_API_KEYS", "sk-3, sk-4 sk-5")
    assert parse_arguments({"model": "x"}).access.keys == ["sk-3", "sk-4", "sk-5"]
    assert parse_arguments(arguments.model_dump()) == arguments
    for wrong in (["sk 6"], "sk-6", ["ok", ""], [6]):
        with pytest.raises(ConfigError, match="argument api_keys: give a list of keys") as caught:
            parse_arguments({"model": "x", "api_keys": wrong})
        assert "6" not in str(caught.value)


def test_a_port_in_use_is_told(model: Path) -> None:
    arguments = ServeArguments(model=model)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ClusterError, match=f"cannot listen on 127.0.0.1:{port}: .* in use"):
            run_server(arguments, "127.0.0.1", port)
    check_port("127.0.0.1", port)
    with pytest.raises(ClusterError, match="70000 is no port"):
        run_server(arguments, "127.0.0.1", 70000)
    with pytest.raises(ClusterError, match="cannot listen on 192"):
        check_port("192.0.2.1", port)


def test_wrong_models_and_plans_are_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model directory"):
        run_server(ServeArguments(model=tmp_path / "missing"), "127.0.0.1", 1)
    other = tmp_path / "plan.toml"
    save_plan(plans.single(plans.SMOLLM2), other)
    with pytest.raises(PlanError, match="the plan was made for"):
        run_server(ServeArguments(model=model, plan=other), "127.0.0.1", 1)
    fitting = tmp_path / "fitting.toml"
    save_plan(plans.single(Checkpoint.open(model).config), fitting)
    ServeArguments(model=model, plan=fitting).check()


def test_a_model_that_reads_more_than_a_device_holds_is_served() -> None:
    arguments = ServeArguments(model=Path("llama"), prefill_tokens=256, cache_tokens=4096)
    workload = arguments.workload(LLAMA_1B)
    assert (workload.sequence_length, workload.pass_tokens) == (4096, 256)
    assert not workload.training
    gpu = plans.inventory(1, kind="A10G", memory_bytes=24 * 2**30)
    assert make_plan(LLAMA_1B, gpu, 1, 1, workload).ranks == 1
    small = plans.inventory(1, kind="A10G", memory_bytes=5 * 2**30)
    with pytest.raises(
        PlanError, match=r"needs 5\..* \(weights 4\.94 GB, activations [\d.]+ [GM]B"
    ):
        make_plan(LLAMA_1B, small, 1, 1, workload)

"""The run file: what it gives, what --set changes, and every fault with its dotted key."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from moe.config.run import (
    AdaptiveCoefficient,
    BiasCoefficient,
    FixedCoefficient,
    RunConfig,
    dump_run,
    load_run,
    parse_run,
)
from moe.errors import ConfigError
from moe.storage import RemotePath

MINIMAL = """
name = "demo"
[model]
path = "model"
[data]
path = "data"
[train]
steps = 10
global_batch = 8
learning_rate = 1e-3
[checkpoint]
path = "out"
"""
DEVICE_LOSS = {"device_loss": 1, "device_groups": 2}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def minimal(**sections: dict[str, Any]) -> dict[str, Any]:
    table = tomllib.loads(MINIMAL)
    for section, values in sections.items():
        table[section] = table.get(section, {}) | values
    return table


def test_a_minimal_file_takes_every_default(run_file: Path) -> None:
    run = load_run(run_file)
    assert run.train.micro_batch == 1
    assert run.train.precision == "fp32"
    assert run.routing.capacity_factor is None
    assert run.balance.coefficient == AdaptiveCoefficient()
    assert (run.plan.path, run.plan.stages, run.plan.gang) == (None, 1, 1)
    assert run.cluster.address == "local"
    assert (run.elastic.copy_every, run.elastic.faults) == ("auto", False)


def test_a_run_is_frozen(run_file: Path) -> None:
    with pytest.raises(ValidationError):
        load_run(run_file).train.steps = 3  # type: ignore[misc]


def test_the_resolved_run_reads_back_as_the_same_run(run_file: Path) -> None:
    run = load_run(run_file, ["balance.coefficient.type=fixed", "balance.coefficient.value=0.1"])
    assert RunConfig.model_validate(json.loads(dump_run(run))) == run


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.steps=3", lambda run: run.train.steps == 3),
        ("train.learning_rate = 2e-4", lambda run: run.train.learning_rate == 2e-4),
        ("train.precision=bf16", lambda run: run.train.precision == "bf16"),
        ("train.deterministic=true", lambda run: run.train.deterministic),
        ('model.path="a=b"', lambda run: run.model.path == Path("a=b")),
        ("model.path=a=b", lambda run: run.model.path == Path("a=b")),
        ("train.learning_rate=.001", lambda run: run.train.learning_rate == 1e-3),
        ("train.learning_rate=1", lambda run: run.train.learning_rate == 1.0),
        ("plan.path=p.toml", lambda run: run.plan.path == Path("p.toml")),
        ("plan.stages=2", lambda run: run.plan.stages == 2),
        ("train.schedule=gpipe", lambda run: run.train.schedule == "gpipe"),
        ("name=other", lambda run: run.name == "other"),
    ],
)
def test_overrides_replace_values_and_make_sections(
    run_file: Path, override: str, read: Any
) -> None:
    assert read(load_run(run_file, [override]))


def test_the_last_override_wins(run_file: Path) -> None:
    assert load_run(run_file, ["train.steps=3", "train.steps=4"]).train.steps == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("train..steps=3", "expected section.key=value"),
        ("name.steps=3", "name is a value, not a section"),
        ("train.step=3", "train.step: unknown key; did you mean steps?"),
        ("train.steps=none", "train.steps: .*found 'none'"),
    ],
)
def test_bad_overrides_are_refused(run_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_run(run_file, [override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.steps=0"], "--set train.steps=0: train.steps: Input should be greater than 0"),
        (["train.micro_batch=3"], "--set train.micro_batch=3: train: global_batch 8 is not a"),
        (["train=3"], "--set train=3: train: Input should be"),
        (
            ["name=x", "train.schedule=zbv", "plan.chunks=2"],
            "--set name=x --set train.schedule=zbv --set plan.chunks=2: run: train.schedule",
        ),
        (["name=Demo"], "--set name=Demo: name: a name has 1 to 47 characters: lower-case"),
    ],
)
def test_a_fault_of_an_override_names_the_override_and_not_the_file(
    run_file: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run(run_file, overrides)
    assert str(caught.value).startswith(message)
    assert "run.toml" not in str(caught.value)


def test_faults_of_the_file_and_of_an_override_are_told_apart(run_file: Path) -> None:
    run_file.write_text(MINIMAL.replace("steps", "stpes"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_run(run_file, ["train.beta1=2", "name=fine"])
    assert str(caught.value).splitlines() == [
        f"{run_file} is not a run file:",
        "  train.steps: missing; the run file must give it",
        "  train.stpes: unknown key; did you mean steps?",
        "--set train.beta1=2: train.beta1: Input should be less than 1; found 2",
    ]


def test_an_override_may_mend_the_file(run_file: Path) -> None:
    run_file.write_text(MINIMAL.replace("steps = 10", "steps = 0"), encoding="utf-8")
    assert load_run(run_file, ["train.steps=3"]).train.steps == 3


def test_a_byte_order_mark_is_no_part_of_a_run_file(run_file: Path) -> None:
    run_file.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_run(run_file).name == "demo"


@pytest.mark.parametrize("name", ["", "Demo", "1st", "a_b", "a-", "-a", "a" * 48, "a.b", "a\n"])
def test_names_that_kubernetes_refuses_are_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match="name: a name has 1 to 47 characters: lower-case"):
        parse_run(minimal() | {"name": name}, "run.toml")
    assert parse_run(minimal() | {"name": "a" * 47}, "run.toml").name == "a" * 47


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"stpes": 3}}, "train.stpes: unknown key; did you mean steps?"),
        ({"trian": {}}, "trian: unknown key; did you mean train?"),
        ({"data": {"zzz": 3}}, "data.zzz: unknown key; known: kind, path, seed"),
        (
            {"balance": {"coefficient": {"type": "adaptive", "bta": 3}}},
            "balance.coefficient.bta: unknown key; did you mean beta?",
        ),
        ({"balance": {"coefficient": {"type": "fixed"}}}, "balance.coefficient.value: missing"),
        ({"train": {"steps": 0}}, "train.steps: Input should be greater than 0; found 0"),
        ({"train": {"precision": "fp8"}}, "train.precision: Input should be 'fp32' or 'bf16'"),
        ({"train": {"micro_batch": 3}}, "train: global_batch 8 is not a multiple of"),
        ({"train": {"min_learning_rate": 1.0}}, "train: min_learning_rate 1.0 is above"),
        ({"plan": {"path": "p", "stages": 2}}, "plan: plan.path names a complete plan; remove"),
        ({"plan": {"path": "p", "chunks": 2}}, "plan: plan.path names a complete plan; remove"),
        ({"train": {"schedule": "zb"}}, "train.schedule: Input should be 'gpipe', '1f1b', 'inter"),
        (
            {"train": {"schedule": "zbv"}, "plan": {"stages": 2}},
            "this schedule takes stages of 2 spans of layers (plan.chunks); set plan.chunks to 2",
        ),
        (
            {"plan": {"stages": 2, "chunks": 2}},
            'set plan.chunks to 1, or choose train.schedule = "interleaved-1f1b" or "zero-bubble"',
        ),
        (
            {"train": {"schedule": "gpipe"}, "plan": {"stages": 2, "chunks": 3}},
            'run: train.schedule = "gpipe" with plan.chunks = 3: this schedule takes stages of 1',
        ),
        ({"train": {"schedule": "zero-bubble"}}, "but with plan.stages = 1 there is no pipeline"),
        (
            {"plan": {"chunks": 2}},
            "but with plan.stages = 1 there is no pipeline; raise plan.stages",
        ),
        (
            {"balance": {"coefficient": {"type": "bias", "rte": 3}}},
            "balance.coefficient.rte: unknown key; did you mean rate?",
        ),
        (
            {"balance": {"coefficient": {"value": 0.1}}},
            "balance.coefficient.value: unknown key; the type fixed or bias has it, this is adapt",
        ),
        (
            {"balance": {"coefficient": {"type": "bias", "value": 0.1, "beta": 0.5}}},
            "balance.coefficient.beta: unknown key; the type adaptive has it, this is bias",
        ),
        (
            {"balance": {"coefficient": {"type": "fixed", "value": 1, "bta": 3}}},
            "balance.coefficient.bta: unknown key; known: type, value",
        ),
        ({"balance": {"coefficient": {"adaptive": 3}}}, "balance.coefficient.adaptive: unknown"),
        ({"balance": {"bias": 3}}, "balance.bias: unknown key; "),
        (
            {"balance": {"coefficient": {"start": 0.1, "maximum": 0.01}}},
            "balance.coefficient: start 0.1 is above maximum 0.01",
        ),
        *(
            (
                {"balance": {"coefficient": {"type": kind, "value": 0}, key: value}},
                "no loss to shape; remove loss and scope, or give coefficient.value",
            )
            for kind in ("fixed", "bias")
            for key, value in (("loss", "switch"), ("scope", "sequence"))
        ),
        (
            {"balance": DEVICE_LOSS | {"coefficient": {"type": "bias"}, "loss": "switch"}},
            "no loss to shape; remove loss, or give coefficient.value",
        ),
        ({"balance": {"z_loss": "0.1"}}, "balance.z_loss: Input should be a valid number; found"),
        ({"train": {"steps": "5"}}, "train.steps: Input should be a valid integer; found '5'"),
        ({"train": {"steps": True}}, "train.steps: Input should be a valid integer; found True"),
        ({"train": {"steps": 5.0}}, "train.steps: Input should be a valid integer; found 5.0"),
        ({"train": {"learning_rate": True}}, "train.learning_rate: Input should be a valid number"),
        ({"model": {"path": 3}}, "model.path: Input is not a valid path"),
        ({"balance": {"scope": "batch"}}, "balance.scope: Input should be 'micro-batch', 'seq"),
        ({"balance": {"device_loss": 0.1}}, "balance: device_loss is 0.1 over device_groups 1"),
        ({"balance": {"device_groups": 4}}, "balance: device_loss is 0 over device_groups 4"),
        ({"balance": {"z_loss": -1}}, "balance.z_loss: Input should be greater than or equal"),
        (
            {"routing": {"drop_policy": "position"}},
            "routing: drop_policy position needs a capacity_factor",
        ),
        (
            {"routing": {"capacity_factor": 1, "virtual_capacity_factor": 2}},
            "routing: with a capacity_factor the drop rate is real",
        ),
        (
            {"routing": {"choose": "experts", "capacity_factor": 1, "drop_policy": "position"}},
            "routing: experts choose by probability until they are full",
        ),
        (
            {"routing": {"choose": "experts", "virtual_capacity_factor": 2}},
            "routing: experts choose by probability until they are full",
        ),
        (
            {"routing": {"choose": "experts"}, "balance": {"loss": "switch", "z_loss": 0.1}},
            "run: experts choose (routing.choose), which loads experts evenly, so of [balance] "
            "only",
        ),
        ({"checkpoint": {"every": -1}}, "checkpoint.every: Input should be greater than or"),
    ],
)
def test_faults_are_named_by_their_dotted_key(
    sections: dict[str, dict[str, Any]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run(minimal(**sections), "run.toml")
    assert str(caught.value).startswith("run.toml is not a run file:\n")
    assert message in str(caught.value)


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run({"name": "Bad Name", "train": {"steps": 1}}, "run.toml")
    for fault in ("name: ", "model: missing", "data: missing", "train.global_batch: missing"):
        assert fault in str(caught.value)


def test_a_fixed_coefficient_is_chosen_by_its_type() -> None:
    run = parse_run(minimal(balance={"coefficient": {"type": "fixed", "value": 0.02}}), "run.toml")
    assert run.balance.coefficient == FixedCoefficient(type="fixed", value=0.02)


def test_the_options_of_every_controller_are_read() -> None:
    run = parse_run(minimal(balance={"coefficient": {"type": "bias", "value": 0.1}}), "run.toml")
    assert run.balance.coefficient == BiasCoefficient(type="bias", rate=0.001, value=0.1)
    run = parse_run(minimal(balance={"coefficient": {"xi": 0.5}}), "run.toml")
    assert run.balance.coefficient == AdaptiveCoefficient(xi=0.5)


def test_the_scope_of_a_device_loss_has_an_effect_without_a_balance_loss() -> None:
    section = DEVICE_LOSS | {"scope": "sequence", "coefficient": {"type": "bias"}}
    run = parse_run(minimal(balance=section), "run.toml")
    assert run.balance.scope == "sequence"


def test_experts_that_choose_may_have_a_z_loss() -> None:
    sections = {"routing": {"choose": "experts"}, "balance": {"z_loss": 0.1}}
    run = parse_run(minimal(**sections), "run.toml")
    assert not run.balances
    assert parse_run(minimal(), "run.toml").balances


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run file at"):
        load_run(tmp_path / "run.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_run(tmp_path)
    (tmp_path / "run.toml").write_text("name = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_run(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("schedule", "plan"),
    [
        ("zbv", {"stages": 2, "chunks": 2}),
        ("interleaved-1f1b", {"stages": 2}),
        ("interleaved-1f1b", {"stages": 3, "chunks": 4}),
        ("zero-bubble", {"stages": 2, "chunks": 2}),
        ("zbv", {"path": "p"}),
        ("gpipe", {}),
    ],
)
def test_schedules_and_runs_of_layers_that_go_together(schedule: str, plan: dict[str, Any]) -> None:
    run = parse_run(minimal(train={"schedule": schedule}, plan=plan), "run.toml")
    assert run.train.schedule == schedule
    assert run.plan.chunks == plan.get("chunks", 1)


def test_checkpoints_lie_in_the_path_or_in_the_storage(run_file: Path) -> None:
    assert load_run(run_file).checkpoint.location == Path("out")
    uri = "s3://bucket/runs?region=eu-central-1"
    run = load_run(run_file, [f"checkpoint.storage={uri}"])
    assert run.checkpoint.path == Path("out")
    assert run.checkpoint.location == RemotePath(uri)
    assert RunConfig.model_validate(json.loads(dump_run(run))) == run


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("some/where", "checkpoint.storage: give a URI such as .* goes into checkpoint.path"),
        ("s3://key:secret@bucket/x", "checkpoint.storage: .* give credentials in the environment"),
        ("s3://", "checkpoint.storage: s3:// names no location"),
    ],
)
def test_a_storage_that_is_none_is_refused(storage: str, message: str, run_file: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run(run_file, [f"checkpoint.storage={storage}"])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            {"replicas": 2, "least_replicas": 3},
            "least_replicas is 3, more than replicas = 2; lower it",
        ),
        ({"path": "p", "replicas": 2}, "remove the other keys of .plan. except least_replicas"),
    ],
)
def test_replicas_that_cannot_vary_are_refused(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_run(minimal(plan=plan), "run.toml")


def test_replicas_may_vary() -> None:
    for plan in ({"replicas": 4, "least_replicas": 2}, {"path": "p", "least_replicas": 2}):
        run = parse_run(minimal(plan=plan), "run.toml")
        assert run.plan.least_replicas == 2
        assert RunConfig.model_validate(json.loads(dump_run(run))) == run


@pytest.mark.parametrize(
    ("elastic", "message"),
    [
        ({"copy_every": -1}, r"elastic\.copy_every: give a whole number .* or \"auto\""),
        ({"copy_every": "often"}, r"elastic\.copy_every: give a whole number .* or \"auto\""),
        ({"copy_every": True}, r"elastic\.copy_every: give .* or \"auto\"; 0 is .*; found True"),
        ({"max_failures": -1}, r"elastic\.max_failures: "),
        ({"hang_seconds": 0.0}, r"elastic\.hang_seconds: "),
        ({"spares": -1}, r"elastic\.spares: "),
        ({"orphan_seconds": -1.0}, r"elastic\.orphan_seconds: "),
        ({"orphan_seconds": 20.0}, "elastic: orphan_seconds 20 must exceed hang_seconds 30"),
        ({"on_shrink": "gangs"}, r"elastic\.on_shrink: "),
        ({"copys": 1}, r"elastic\.copys: "),
        ({"copy_every": 0, "spares": 2}, "elastic: spares has no effect with copy_every = 0"),
        (
            {"max_failures": 0, "failure_seconds": 60.0},
            "elastic: failure_seconds has no effect with max_failures = 0",
        ),
    ],
)
def test_faults_of_the_elastic_section_are_named(elastic: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_run(minimal(elastic=elastic), "run.toml")


@pytest.mark.parametrize(("every", "copies"), [("auto", True), (5, True), (0, False)])
def test_copies_are_taken_as_often_as_said(every: int | str, copies: bool) -> None:
    run = parse_run(minimal(elastic={"copy_every": every, "on_shrink": "wait"}), "run.toml")
    assert run.elastic.copy_every == every
    assert run.elastic.copies == copies
    assert RunConfig.model_validate(json.loads(dump_run(run))) == run

"""Runs that a real DeepSpeed trains, against the same runs by our own engine.

Two workers under every stage of ZeRO on CPU, without Ray: same losses, norms, weights and moments,
and our engine goes on from what DeepSpeed saved.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w
import torch

from actors.commands import StepInput, StepReport
from actors.engine.reports import merge
from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.reader import Checkpoint
from moe.config.run import RunConfig, load_run
from moe.config.tensors import tensors
from pipelines.corpus.shards import TokenShards
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from pipelines.training.batches import batches
from pipelines.training.deepspeed.plan import plan_of_workers
from tests import runs, tiny, vocabularies
from tests.deepspeed.launch import launch
from tests.ranks import Ranks, Team, pool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="the extra [deepspeed] is not installed",
    ),
]

STEPS = 6
LENGTH = 12
CPU = {"device": "cpu"}


class Case(NamedTuple):
    family: str
    zero: dict[str, Any]

    def __str__(self) -> str:
        offloaded = "-offloaded" if "offload_optimizer" in self.zero else ""
        return f"{self.family}-{self.zero['stage']}{offloaded}"


CASES = [
    Case("llama", {"stage": 1}),
    Case("llama", {"stage": 2}),
    Case("llama", {"stage": 3, "stage3_param_persistence_threshold": 0}),
    Case("llama", {"stage": 2, "offload_optimizer": CPU}),
    Case("llama", {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU}),
    Case("mixtral", {"stage": 1}),
    Case("mixtral", {"stage": 2}),
    Case("mixtral", {"stage": 3, "stage3_param_persistence_threshold": 0}),
]
USUAL = {"llama-3-offloaded", "mixtral-2", "mixtral-3"}
"""Cases of ``make test``."""

EACH = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if str(case) in USUAL else pytest.mark.long) for case in CASES],
    ids=str,
)


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[Case]:
    """The cases that are tested now: DeepSpeed runs them together, as it is slow to start."""
    tested = [item for item in request.session.items if item.path == request.path]
    found = [item.callspec.params["case"] for item in tested if isinstance(item, pytest.Function)]
    return [case for case in CASES if case in found]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pool() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, chosen: list[Case]) -> Path:
    """Models, text, and for each case a run file that DeepSpeed has trained to its end."""
    folder = tmp_path_factory.mktemp("trained")
    vocabulary = vocabularies.byte_level()
    for family in ("llama", "mixtral"):
        sizes = {
            "vocab_size": vocabulary.get_vocab_size(),
            "tie_word_embeddings": family == "llama",
        }
        vocabularies.save(vocabulary, tiny.saved(tiny.model(family, **sizes), folder / family))
    (folder / "text").mkdir()
    for number in range(8):
        (folder / "text" / f"{number}.txt").write_text(" ".join(map(str, range(number, 60, 3))))
    options = TokenizeOptions(sequence_length=LENGTH, held_out_fraction=0.2)
    tokenize([folder / "text"], folder / "llama", folder / "tokens", options)
    files = [write_run(folder, case) for case in chosen]
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps([str(file) for file in files]))
    launch(folder, ["-m", "tests.deepspeed.trained", str(jobs)])
    return folder


def write_run(folder: Path, case: Case) -> Path:
    """Write the run file of a case, and the configuration of DeepSpeed beside it."""
    own = folder / str(case)
    own.mkdir()
    (own / "ds.json").write_text(
        json.dumps({"zero_optimization": case.zero, "train_batch_size": "auto"})
    )
    table: dict[str, Any] = {
        "name": "zero",
        "model": {"path": str(folder / case.family)},
        "data": {"path": str(folder / "tokens")},
        "checkpoint": {"path": str(own / "run")},
        "plan": {"replicas": 2},
        "train": {
            "steps": STEPS,
            "global_batch": 8,
            "micro_batch": 2,
            "learning_rate": 3e-3,
            "min_learning_rate": 1e-3,
            "warmup_steps": 2,
            "clip_norm": 0.5,
            "epsilon": 1e-4,
            "engine": "deepspeed",
            "deepspeed_config": str(own / "ds.json"),
        },
    }
    if case.family == "mixtral":
        table["balance"] = {"loss": "switch", "z_loss": 1e-3, "coefficient": {"beta": 0.5}}
    (own / "run.toml").write_text(tomli_w.dumps(table))
    return own / "run.toml"


def by_raymoe(run: RunConfig) -> RunConfig:
    """Return the run for our own engine."""
    train = run.train.model_copy(update={"engine": "raymoe", "deepspeed_config": None})
    return run.model_copy(update={"train": train})


def trained(team: Team, run: RunConfig, first: int, last: int) -> list[StepReport]:
    """Train our ranks on the run's own data from one step to another."""
    shards = TokenShards.open(run.data.path, "train")
    steps: list[StepInput] = [*batches(run, shards, first)][: last - first]
    return [merge(team.step(each), each.label_count, 0.0) for each in steps]


@EACH
def test_deepspeed_trains_as_our_engine_does(case: Case, folder: Path, ranks: Ranks) -> None:
    run = load_run(folder / str(case) / "run.toml")
    config = Checkpoint.open(run.model.path).config
    plan = plan_of_workers(config, run.plan)
    team = ranks.started(plan, run.model.path, by_raymoe(run), LENGTH)
    expected = trained(team, run, 0, STEPS)
    told = json.loads((run.checkpoint.path / "told.json").read_text())
    assert [each["loss"] for each in told] == pytest.approx([e.loss for e in expected], rel=1e-5)
    norms = [each.gradient_norm for each in expected]
    assert [each["norm"] for each in told] == pytest.approx(norms, rel=1e-4)
    assert [each["rate"] for each in told] == [each.learning_rate for each in expected]
    for each, ours in zip(told, expected, strict=True):
        coefficients = {str(number): layer.coefficient for number, layer in ours.layers.items()}
        assert each["layers"] == pytest.approx(coefficients, rel=1e-4)
    (saved,) = checkpoints(run.checkpoint.location)
    assert saved.name == f"step-{STEPS:08d}"
    assert_weights(Checkpoint.open(saved), team)


@EACH
def test_our_engine_goes_on_from_what_deepspeed_saved(
    case: Case, folder: Path, ranks: Ranks
) -> None:
    run = load_run(folder / str(case) / "run.toml")
    longer = run.model_copy(update={"train": run.train.model_copy(update={"steps": STEPS + 3})})
    config = Checkpoint.open(run.model.path).config
    (saved,) = checkpoints(run.checkpoint.location)
    whole = ranks.started(runs.plan(config, (3,)), run.model.path, by_raymoe(run), LENGTH)
    trained(whole, run, 0, STEPS)
    expected = [each.loss for each in trained(whole, longer, STEPS, STEPS + 3)]
    resumed = ranks.started(runs.plan(config, (1, 2)), saved, by_raymoe(run), LENGTH, resume=True)
    found = [each.loss for each in trained(resumed, longer, STEPS, STEPS + 3)]
    assert found == pytest.approx(expected, rel=1e-5)


def assert_weights(saved: Checkpoint, team: Team) -> None:
    """Compare every weight with what our first rank holds, which holds everything."""
    held = {part.name: value for part, value in team.held()[0].weights}
    for tensor in tensors(saved.config):
        torch.testing.assert_close(
            saved.read(tensor), held[tensor.name], rtol=1e-4, atol=1e-6, msg=tensor.name
        )

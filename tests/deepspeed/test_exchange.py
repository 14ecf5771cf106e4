"""Runs that go from a real DeepSpeed to our ranks and back end where the undisturbed ones do.

Two processes of DeepSpeed train tiny transformers models under every stage of ZeRO on CPU.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tomli_w
import torch

from actors.commands import StepInput
from actors.engine.reports import merge
from moe.checkpoint.manifest import checkpoints
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import SaveContext
from moe.config.model import ModelConfig
from moe.config.run import RunConfig, load_run, parse_run
from moe.config.tensors import tensors
from moe.errors import ConfigError
from moe.planning.plan.plan import Plan
from pipelines.commands.app import app
from pipelines.corpus.tokenize import TokenizeOptions, tokenize
from tests import runs, tiny, vocabularies
from tests.deepspeed import worker
from tests.deepspeed.launch import launch
from tests.deepspeed.worker import Job
from tests.ranks import Ranks, Team, pool

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None,
        reason="the extra [deepspeed] is not installed",
    ),
]

STAGES = {"llama": (1, 2, 3), "mixtral": (1, 3)}
"""Of ZeRO, by family."""

CONSTANT = {
    "type": "WarmupLR",
    "params": {
        "warmup_min_lr": 0.0,
        "warmup_max_lr": worker.ADAM["lr"],
        "warmup_num_steps": 3,
        "warmup_type": "linear",
    },
}
"""A schedule that has come to its end by the step at which DeepSpeed takes over."""

HALF, LAST = 3, 6
"""Steps before a run changes sides, and steps in all."""


class Case(NamedTuple):
    family: str
    stage: int

    def __str__(self) -> str:
        return f"{self.family}-{self.stage}"


CASES = [Case(family, stage) for family, stages in STAGES.items() for stage in stages]
USUAL = {Case("llama", 2), Case("mixtral", 3)}
"""Cases of `make test`: ZeRO 1 and 2 keep their state alike, ZeRO 3 in another way."""

EACH = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in USUAL else pytest.mark.long) for case in CASES],
    ids=str,
)


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[Case]:
    """The cases that are tested now: DeepSpeed runs them together, as it is slow to start."""
    tested = [item for item in request.session.items if item.path == request.path]
    found = {item.callspec.params["case"] for item in tested if isinstance(item, pytest.Function)}
    return [case for case in CASES if case in found]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with pool() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, chosen: list[Case]) -> Path:
    """Models, and what DeepSpeed made of them: saved half-way, and trained to the end."""
    folder = tmp_path_factory.mktemp("deepspeed")
    vocabulary = vocabularies.byte_level()
    for family in STAGES:
        sizes = {
            "vocab_size": vocabulary.get_vocab_size(),
            "tie_word_embeddings": family == "llama",
        }
        vocabularies.save(vocabulary, tiny.saved(tiny.model(family, **sizes), folder / family))
    (folder / "text").mkdir()
    for number in range(4):
        (folder / "text" / f"{number}.txt").write_text(" ".join(map(str, range(number, 300))))
    options = TokenizeOptions(sequence_length=worker.LENGTH, held_out_fraction=0.3)
    tokenize([folder / "text"], folder / "llama", folder / "tokens", options)
    run_deepspeed(
        folder,
        [
            Job(
                model=str(folder / case.family),
                stage=case.stage,
                first=0,
                last=LAST,
                result=str(folder / f"undisturbed-{case}"),
                save=str(folder / f"zero-{case}"),
                save_at=HALF,
            )
            for case in chosen
        ],
    )
    return folder


def run_deepspeed(folder: Path, jobs: list[Job]) -> None:
    """Run two ranks of DeepSpeed to their end."""
    launch(folder, [worker.__file__, str(worker.write_jobs(folder / "jobs.json", jobs))])


def run_table(folder: Path, family: str, to: Path) -> dict[str, Any]:
    """Return the run that does what the worker's optimiser does."""
    table: dict[str, Any] = {
        "name": "exchange",
        "model": {"path": str(folder / family)},
        "data": {"path": str(folder / "tokens")},
        "checkpoint": {"path": str(to)},
        "train": {
            "steps": LAST,
            "global_batch": worker.GLOBAL_BATCH,
            "micro_batch": worker.MICRO_BATCH,
            "learning_rate": worker.ADAM["lr"],
            "min_learning_rate": worker.ADAM["lr"],
            "beta1": worker.ADAM["betas"][0],
            "beta2": worker.ADAM["betas"][1],
            "epsilon": worker.ADAM["eps"],
            "weight_decay": worker.DECAY,
            "clip_norm": worker.CLIP,
        },
    }
    if family == "mixtral":
        table["balance"] = {"coefficient": {"type": "fixed", "value": 0.0}}
    return table


def batch(vocabulary: int, step: int) -> StepInput:
    """Return the batch that DeepSpeed has in a step."""
    rows = worker.tokens(step, vocabulary).numpy().astype(np.int32)
    labels = np.roll(rows, -1, axis=1)
    labels[:, -1] = -100
    return StepInput(step, rows, labels, int((labels != -100).sum()))


def continued(team: Team, vocabulary: int, first: int, last: int) -> list[float]:
    """Train our ranks from one step to another; return the losses."""
    batches = [batch(vocabulary, step) for step in range(first, last)]
    return [merge(team.step(each), each.label_count, 0.0).loss for each in batches]


def saved(team: Team, to: Path, config: ModelConfig, run: RunConfig, step: int) -> Path:
    """Save our ranks; return the checkpoint."""
    team.save(to, SaveContext(config, run, run.model.path, "data"), step)
    return to


def plan_for(config: ModelConfig) -> Plan:
    """Return a gang of two unlike ranks."""
    return runs.plan(config, (3,), (2, 1), (1, 3) if config.experts else None)


def raymoe(*words: object) -> None:
    """Run the command line; what it refuses is raised."""
    app([str(word) for word in words], standalone_mode=False)


def assert_same(ours: Path, theirs: Path) -> None:
    """Compare every weight of two model directories."""
    ours_, theirs_ = Checkpoint.open(ours), Checkpoint.open(theirs)
    for tensor in tensors(ours_.config):
        torch.testing.assert_close(
            ours_.read(tensor), theirs_.read(tensor), rtol=1e-5, atol=1e-6, msg=tensor.name
        )


@EACH
def test_what_deepspeed_began_our_ranks_end(
    case: Case, folder: Path, ranks: Ranks, tmp_path: Path
) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(tomli_w.dumps(run_table(folder, case.family, tmp_path / "run")))
    words = ("checkpoint", "convert", folder / f"zero-{case}", "--format", "raymoe")
    with pytest.raises(ConfigError, match="can run code when opened"):
        raymoe(*words, "--run", run_file)
    raymoe(*words, "--run", run_file, "--trust")
    (imported,) = checkpoints(tmp_path / "run")
    run, config = load_run(run_file), Checkpoint.open(imported).config
    assert imported.name == f"step-{HALF:08d}"
    team = ranks.started(plan_for(config), imported, run, worker.LENGTH, resume=True)
    undisturbed = folder / f"undisturbed-{case}"
    expected = json.loads((undisturbed / "losses.json").read_text())[HALF:]
    assert continued(team, config.vocab_size, HALF, LAST) == pytest.approx(expected, rel=1e-5)
    assert_same(saved(team, tmp_path / "end", config, run, LAST), undisturbed)


@pytest.fixture(scope="module")
def returned(folder: Path, ranks: Ranks, chosen: list[Case]) -> dict[str, list[float]]:
    """Train with our ranks, export half-way, and let DeepSpeed end all; return our losses."""
    losses, jobs = {}, []
    for family in STAGES:
        home = folder / f"ours-{family}"
        run = parse_run(run_table(folder, family, home / "run"), "test")
        config = Checkpoint.open(folder / family).config
        team = ranks.started(plan_for(config), folder / family, run, worker.LENGTH)
        continued(team, config.vocab_size, 0, HALF)
        half = saved(team, home / "half", config, run, HALF)
        losses[family] = continued(team, config.vocab_size, HALF, LAST)
        saved(team, home / "end", config, run, LAST)
        exported = home / "universal"
        raymoe("checkpoint", "convert", half, "--format", "universal", "--to", exported)
        jobs += [
            Job(
                model=str(half),
                stage=stage,
                first=HALF,
                last=LAST,
                result=str(folder / f"returned-{Case(family, stage)}"),
                load=str(exported),
                scheduler=CONSTANT if stage == 1 else None,
            )
            for stage in STAGES[family]
            if Case(family, stage) in chosen
        ]
    run_deepspeed(folder, jobs)
    return losses


@EACH
def test_what_our_ranks_began_deepspeed_ends(
    case: Case, folder: Path, returned: dict[str, list[float]]
) -> None:
    result = folder / f"returned-{case}"
    losses = json.loads((result / "losses.json").read_text())
    assert losses == pytest.approx(returned[case.family], rel=1e-5)
    assert_same(folder / f"ours-{case.family}" / "end", result)

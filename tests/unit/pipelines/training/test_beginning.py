"""What a run's files can tell is checked without Ray."""

from pathlib import Path
from typing import Any

import pytest
import ray

from moe.checkpoint.manifest import MANIFEST, sealed
from moe.checkpoint.training import About, write_training_checkpoint
from moe.checkpoint.writer import write_json
from moe.config.json_file import read_json
from moe.config.run import RunConfig
from moe.errors import ConfigError, DataError, PlanError
from moe.planning.plan.file import to_dict
from pipelines.training.beginning import (
    check_beginning,
    check_saved,
    how_to_go_on,
    last_step,
    with_absolute_paths,
)
from tests import material as tiny_material
from tests import plans, saves


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_material.make(tmp_path_factory.mktemp("material"))


@pytest.fixture(autouse=True)
def _without_ray() -> Any:
    yield
    assert not ray.is_initialized()


def config(material: Path, to: Path, **sections: Any) -> RunConfig:
    return tiny_material.run(material, to, 6, 2, sections)


def test_a_good_run_passes(material: Path, tmp_path: Path) -> None:
    context, length = check_beginning(config(material, tmp_path / "run"), "never")
    assert (context.config.layers, length) == (3, 16)
    said = config(material, tmp_path / "run", data={"sequence_length": 16})
    assert check_beginning(said, "never")[1] == 16


@pytest.mark.parametrize(
    ("sections", "error", "said"),
    [
        ({"train": {"global_batch": 10**6}}, DataError, r"global_batch is 1000000 sequences, but "),
        (
            {"plan": {"stages": 1, "profile": None, "path": "nowhere.toml"}},
            PlanError,
            r"nowhere\.toml",
        ),
        (
            {"data": {"sequence_length": 99}},
            ConfigError,
            r"data\.sequence_length is 99, but the sequences in .* have 16 tokens",
        ),
        (
            {"data": {"kind": "chat"}},
            ConfigError,
            r'data\.kind is "chat", but .* holds text rows; set data\.kind = "text", or tokenize',
        ),
        ({"plan": {"stages": 4}}, PlanError, "4 stages"),
        ({"plan": {"stages": 1, "gang": 5}}, PlanError, "gang"),
        ({"plan": {"stages": 3}, "train": {"global_batch": 2}}, PlanError, "at least 3 micro-batc"),
        (
            {"plan": {"stages": 1, "replicas": 5}},
            PlanError,
            "has 4 micro-batches .* has 5 repli",
        ),
    ],
)
def test_what_cannot_run_is_refused(
    sections: dict[str, Any], error: type[Exception], said: str, material: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        check_beginning(config(material, tmp_path / "run", **sections), "never")


def test_the_path_of_a_plan_means_the_same_in_every_process(material: Path, tmp_path: Path) -> None:
    run = config(
        material, tmp_path / "run", plan={"stages": 1, "profile": None, "path": "plan.toml"}
    )
    assert with_absolute_paths(run).plan.path == Path("plan.toml").absolute()
    assert with_absolute_paths(config(material, tmp_path)).plan.path is None


def saved(run: RunConfig, step: int) -> Path:
    """Write a checkpoint of a run and return its directory."""
    context, _ = check_beginning(run, "never")
    plan = plans.single(context.config)
    state = saves.Whole.of(context.config).state()
    directory = run.checkpoint.path / f"step-{step:08d}"
    write_training_checkpoint(directory, About(context, to_dict(plan), step), state)
    return directory


def test_a_run_goes_on_in_another_precision_but_at_no_other_rate(
    material: Path, tmp_path: Path
) -> None:
    saved(config(material, tmp_path / "run"), 3)
    narrow = config(material, tmp_path / "run", train={"precision": "bf16"})
    assert check_beginning(narrow, "always")[0].run == narrow
    faster = config(material, tmp_path / "run", train={"learning_rate": 1e-2})
    with pytest.raises(ConfigError, match=r"train\.learning_rate was 0\.003 and is 0\.01; undo"):
        check_beginning(faster, "always")


def test_a_run_goes_on_that_was_saved_before_an_option_existed(
    material: Path, tmp_path: Path
) -> None:
    run = config(material, tmp_path / "run")
    directory = saved(run, 3)
    table = read_json(directory / MANIFEST)
    del table["run"]["train"]["deterministic"]
    write_json(directory / MANIFEST, sealed(table))
    assert check_beginning(run, "always")[1] > 0
    other = config(material, tmp_path / "run", train={"deterministic": True})
    with pytest.raises(ConfigError, match=r"train\.deterministic was False and is True; undo"):
        check_beginning(other, "always")


def test_a_run_without_checkpoints_begins_again(material: Path, tmp_path: Path) -> None:
    run = config(material, tmp_path / "run")
    assert how_to_go_on(run) == "no checkpoint was saved, so the run begins again at the start"
    with pytest.raises(ConfigError, match="nothing to resume"):
        check_saved(run, "always")
    check_saved(run, "if-saved")
    (tmp_path / "run" / "step-00000004").mkdir(parents=True)
    (tmp_path / "run" / "step-00000004" / "raymoe.json").write_text("{}")
    assert last_step(run) == 4
    assert how_to_go_on(run) == "--resume continues from step 4"

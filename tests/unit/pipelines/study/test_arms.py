"""Arms as values: names of their folders, and the run files of all studies."""

from dataclasses import replace
from pathlib import Path

import pytest

from moe.config.tensors import parameters
from moe.surgery.options import UpcycleOptions
from pipelines.study.arm import Arm, Continued, Scratch, Upcycled
from pipelines.study.catalogue import STUDIES, asked_of
from pipelines.study.lab import run_file
from pipelines.study.sizes import DEEPSEEK, DENSE, GSHARD, SKYWORK, fine_grained, mixture

TRAINING = [study for study in STUDIES.values() if study.tokens]
ARM = Arm("an arm", Scratch(DENSE), 10_000, 0, keeps=(1.0,))


@pytest.mark.parametrize(
    "other",
    [
        replace(ARM, seed=1),
        replace(ARM, tokens=20_000),
        replace(ARM, start=Scratch(mixture(SKYWORK))),
        replace(ARM, start=Scratch(DENSE, "half unused")),
        replace(ARM, start=Continued(ARM, 1.0)),
        replace(ARM, start=Continued(ARM, 0.5)),
        replace(ARM, start=Upcycled(ARM, 1.0, UpcycleOptions(4, 2))),
        replace(ARM, start=Upcycled(ARM, 1.0, UpcycleOptions(8, 2))),
        replace(ARM, balance={"loss": "switch"}),
        replace(ARM, routing={"capacity_factor": 1.0}),
        replace(ARM, peak=1e-3),
        replace(ARM, keeps=()),
    ],
)
def test_another_run_has_another_folder(other: Arm) -> None:
    assert other.key != ARM.key
    assert replace(other).key == other.key


@pytest.mark.parametrize("study", TRAINING, ids=lambda study: study.name)
def test_the_run_files_of_a_study_are_accepted(study, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Every section is parsed as that of any run, and its options have an effect on the model."""
    arms = study.arms(asked_of(study, None, None))
    assert len({arm.key for arm in arms}) == len(arms)
    for arm in arms:
        run = run_file(arm, tmp_path / "model", tmp_path / "tokens")
        if isinstance(arm.start, Scratch):
            run.check_model(arm.start.config)


def test_sizes_are_of_equal_cost() -> None:
    """Fine-grained and shared experts change neither parameters nor active parameters by much."""
    sizes = [parameters(mixture(moe)) for moe in (GSHARD, fine_grained(2, 1), DEEPSEEK)]
    assert max(sizes) / min(sizes) < 1.02

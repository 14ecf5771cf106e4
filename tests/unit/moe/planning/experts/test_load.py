"""The load of experts from the journal that a run writes."""

from pathlib import Path

import pytest

from actors.commands import LayerReport, StepReport
from cluster.journal import Journal
from moe.errors import PlanError
from moe.planning.experts.load import load_from_journal
from pipelines.training.recording import journal_line


def step(number: int, loads: dict[int, tuple[int, ...]]) -> StepReport:
    layers = {
        layer: LayerReport(load, drop_rate=0.0, coefficient=0.0, balance_loss=1.0, sharpness=1.0)
        for layer, load in loads.items()
    }
    return StepReport(number, 2.0, 1.0, 1e-4, 8, 0.5, layers, (1,))


def written(path: Path, *steps: dict[int, tuple[int, ...]]) -> Path:
    with Journal(path / "journal.jsonl") as journal:
        for number, loads in enumerate(steps, start=1):
            journal.append(journal_line(step(number, loads)))
            journal.append({"event": "checkpoint", "step": number})
    return path / "journal.jsonl"


def test_the_last_steps_of_a_run_are_summed(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {1: (90, 0, 0), 10: (90, 0, 0)},
        {10: (1, 2, 3), 1: (4, 5, 6)},
        {1: (40, 50, 60), 10: (10, 20, 30)},
    )
    layers, load = load_from_journal(path, 2)
    assert layers == (1, 10)
    assert load.tolist() == [[44, 55, 66], [11, 22, 33]]
    assert load_from_journal(path, 99)[1].sum() == 180 + 231


def test_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    path = written(tmp_path, {0: (1, 2)})
    with path.open("a") as file:
        file.write('{"step": 2, "layers": {"0": {"lo')
    assert load_from_journal(path, 5)[1].tolist() == [[1, 2]]


def test_a_journal_without_experts_or_of_two_models(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no step in .* has a load of experts"):
        load_from_journal(written(tmp_path / "dense", {}), 5)
    for other in ({0: (1, 2), 1: (1, 2)}, {0: (1, 2, 3)}):
        path = written(tmp_path / str(len(other)), {0: (1, 2)}, other)
        assert load_from_journal(path, 1)[1].shape == (len(other), len(other[0]))
        with pytest.raises(PlanError, match="differ in their layers or experts"):
            load_from_journal(path, 2)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '{"layers": 3}',
        '{"layers": {"a": {"load": [1]}}}',
        '{"layers": {"0": 3}}',
    ],
)
def test_what_is_no_journal(line: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(PlanError, match="is not the journal of a run"):
        load_from_journal(path, 1)


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"cannot read the journal .*: No such file"):
        load_from_journal(tmp_path / "none.jsonl", 1)
    with pytest.raises(PlanError, match="asked for the load of 0 steps"):
        load_from_journal(tmp_path / "none.jsonl", 0)
    path = tmp_path / "journal.jsonl"
    path.write_text('{"layers": {"0": {"load": [1, -1]}}}\n')
    with pytest.raises(PlanError, match=r"expert 1 has -1\.0"):
        load_from_journal(path, 1)

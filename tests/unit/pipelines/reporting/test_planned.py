"""The plan of a run's newest checkpoint, and what is predicted of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch
from lxml import html

from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.training import WholeState, write_training_checkpoint
from moe.planning.plan.file import to_dict
from moe.planning.plan.plan import Plan, StagePlan
from moe.surgery.options import UpcycleOptions
from moe.surgery.upcycle import upcycle
from pipelines.reporting.lineage import lineage
from pipelines.reporting.planned import Planned, plan_of
from pipelines.reporting.recorded import read_run
from pipelines.screen.report.page import draw_report
from tests import journals, runs, saves, tiny


def timed(stage: StagePlan, number: int, seconds: float) -> StagePlan:
    """Return a stage with a device of its own, reserved memory and predicted seconds."""
    ranks = tuple(
        replace(rank, devices=(f"node{number}/cpu0",), memory_bytes=6 * 10**9)
        for rank in stage.ranks
    )
    return replace(stage, ranks=ranks, seconds=seconds)


def trained(folder: Path, seconds: tuple[float, float] = (3.0, 1.5)) -> Path:
    """Write a run of two stages with a journal, a checkpoint and the model that it began with."""
    upcycle(tiny.saved(tiny.llama(), folder / "dense"), folder / "moe", UpcycleOptions(4, 2))
    model = Checkpoint.open(folder / "moe")
    cut = runs.plan(model.config, (2, 1))
    pairs = enumerate(zip(cut.stages, seconds, strict=True))
    plan = Plan(cut.model, tuple(timed(stage, n, each) for n, (stage, each) in pairs))
    about = saves.about(model.config, folder / "moe", plan, step=40)
    (folder / "plan.toml").write_text(tomli_w.dumps(to_dict(plan)))
    path = {"path": str(folder / "plan.toml")}
    data = {"sequence_length": 16, "path": "gone"}
    run = runs.run_config(folder / "moe", plan=path, data=data, train={"micro_batch": 4})
    about = replace(about, context=replace(about.context, run=run))
    state = WholeState(model.read, lambda tensor, moment: torch.zeros(tensor.shape), {})
    to = journals.written(folder / "run", journals.eventful())
    write_training_checkpoint(to / "step-00000040", about, state)
    return to


def test_the_step_is_that_of_the_plan_and_memory_that_of_its_ranks(tmp_path: Path) -> None:
    found = plan_of(read_run(trained(tmp_path)))
    assert isinstance(found, Planned)
    assert found.prediction is not None
    assert found.scaled
    assert found.prediction.stage_seconds == pytest.approx((3.0, 1.5))
    assert found.prediction.workload.micro_batches == 2
    first, last = found.prediction.timeline.events
    assert last[0].start == pytest.approx(first[0].stop, rel=0.01)
    assert len(found.predicted_bytes) == 2
    assert found.predicted_bytes == tuple(e.total for e in found.prediction.rank_bytes)


def test_memory_holds_copies_only_of_a_run_that_made_some(tmp_path: Path) -> None:
    run = trained(tmp_path)
    copying = plan_of(read_run(run))
    lines = [line for line in journals.eventful() if line.get("event") != "copies"]
    plain = plan_of(read_run(journals.written(run, lines)))
    assert isinstance(copying, Planned)
    assert isinstance(plain, Planned)
    assert copying.prediction is not None
    assert plain.prediction is not None
    assert all(each.copies > 0 for each in copying.prediction.rank_bytes)
    assert all(each.copies == 0 for each in plain.prediction.rank_bytes)


def test_a_plan_without_seconds_is_counted(tmp_path: Path) -> None:
    found = plan_of(read_run(trained(tmp_path, seconds=(0.0, 0.0))))
    assert isinstance(found, Planned)
    assert found.prediction is not None
    assert not found.scaled
    assert found.prediction.step_seconds > 0


def test_the_page_shows_the_plan_both_timelines_memory_and_the_lineage(tmp_path: Path) -> None:
    page = html.fromstring(draw_report([read_run(trained(tmp_path))]))
    charts = page.xpath("//svg[@id='timeline']/g[@class='chart']/@data-name")
    assert charts == ["predicted", "measured, step 31"]
    traced = page.xpath("//g[@data-name='measured, step 31']//g[@class='piece']")
    assert len(traced) == 8
    assert page.xpath("//svg[@id='holdings']")
    bars = page.xpath("//div[@class='bars']//i/@title")
    assert any("measured 5.10 GB" in each for each in bars)
    assert sum("reserved 6.00 GB" in each for each in bars) == 2
    steps = page.xpath("//table[caption[starts-with(., 'Steps from')]]/tbody/tr/td[1]/text()")
    assert steps == ["upcycle (copy)"]
    assert "logits differ by" in page.text_content()


def test_memory_of_another_number_of_ranks_is_not_compared(tmp_path: Path) -> None:
    run = trained(tmp_path)
    journals.written(run, [journals.step(1, peak_memory_bytes=[1e9] * 4)])
    text = html.fromstring(draw_report([read_run(run)])).text_content()
    assert "tells the memory of 4 ranks, the plan of the newest checkpoint has 2" in text


def test_without_the_length_of_a_sequence_nothing_is_predicted_and_why_is_said(
    tmp_path: Path,
) -> None:
    run = trained(tmp_path)
    file = run / "step-00000040" / "run.json"
    file.write_text(file.read_text().replace('"sequence_length": 16', '"sequence_length": null'))
    found = plan_of(read_run(run))
    assert isinstance(found, Planned)
    assert found.prediction is None
    assert "data.sequence_length" in found.why_not
    assert "data.sequence_length" in draw_report([read_run(run)])


def test_a_checkpoint_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    run = trained(tmp_path)
    (run / "step-00000040" / "plan.toml").write_text("no = plan")
    found = plan_of(read_run(run))
    assert isinstance(found, str)
    assert "plan of step-00000040 cannot be read" in found
    alone = journals.written(tmp_path / "alone", [])
    assert "No checkpoint" in str(plan_of(read_run(alone)))


def test_the_lineage_goes_back_by_cards_and_receipts(tmp_path: Path) -> None:
    (step,) = lineage(trained(tmp_path).parent / "moe")
    assert (step["method"], step["source"]) == ("upcycle (copy)", ["dense"])
    assert any("logits differ" in note for note in step["notes"])
    assert lineage(tmp_path / "gone") == []

"""What the journal holds of a step."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.commands import LayerReport, StepReport
from cluster.journal import JOURNAL, read
from moe.config.metrics import metric
from moe.planning.schedules.schedule import Action
from moe.planning.schedules.simulate import Event
from pipelines.training.recording import journal_line
from tests.records import AGAINST, silent


def report(**layer: float) -> StepReport:
    layers = {n: LayerReport((3, 5), 0.25, 0.01, 0.5, 2.0, **layer) for n in (1, 4)}
    return StepReport(7, 2.5, 1.5, 1e-3, 70, 4.0, layers, (100, 200), computed_tokens=80)


def test_losses_on_routers_are_summed_over_layers() -> None:
    line = journal_line(report(z_loss=0.75, device_loss=1.25))
    assert (line["balance_loss"], line["z_loss"], line["device_loss"]) == (1.0, 1.5, 2.5)
    assert line["drop_rate"] == 0.25
    assert line["layers"]["4"]["z_loss"] == 0.75


def test_what_a_run_has_not_is_left_out() -> None:
    line = journal_line(report())
    assert not {"z_loss", "device_loss"} & {*line, *line["layers"]["1"]}
    assert line["layers"]["1"]["load"] == (3, 5)


@pytest.mark.parametrize(
    "name",
    ["z_loss", "device_loss", "balance_loss", "checkpoint_seconds", "checkpoint_stall_seconds"],
)
def test_all_of_it_is_a_metric(name: str) -> None:
    assert metric(name).kind == "gauge"


def test_steps_without_a_label_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = replace(report(), loss=0.0, tokens=0)
    with closing(silent(tmp_path)) as record:
        for step in (replace(report(), step=6), empty, replace(empty, step=8)):
            record.step(step)
        assert record.last_step() == 8
    assert [each.getMessage().partition(":")[0] for each in caplog.records] == [
        "no label counts in the rows of step 7"
    ]


def test_a_traced_step_has_its_events_by_stage_and_every_step_its_work(tmp_path: Path) -> None:
    event = Event(Action("F", 0, 2), 0.12345678, 1.5)
    traced = replace(report(), timeline=((event,), (event, event)))
    with closing(silent(tmp_path)) as record:
        record.step(report())
        record.step(replace(traced, step=8))
    plain, line = read(tmp_path / JOURNAL)
    assert "timeline" not in plain
    piece = ["F", 0, 2, 0.123457, 1.5]
    assert line["timeline"] == [[piece], [piece, piece]]
    assert line["flops_per_second"] == AGAINST.token_flops * 80 / 4.0

"""What a run tells of itself in metrics: whole, by the table, and no more than was counted."""

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from actors.commands import LayerReport, RankReport, StepReport, Waits
from actors.engine.copying import Copied
from actors.engine.reports import merge
from cluster.metrics import Sample
from moe.config.metrics import METRICS, Extent, metric, series
from moe.config.run import MetricsSection
from moe.planning.devices.rates import GPUS
from moe.planning.plan.plan import Plan
from pipelines.training.measuring import Measured, RunMetrics, with_detail
from pipelines.training.mended import Lost, Mended, Waiting
from pipelines.training.rescaled import NotRescaled, Rescaled
from pipelines.training.saving import Saved
from pipelines.training.timeline import Began, Scene
from tests import runs
from tests.plans import SMOLLM2, with_experts
from tests.records import AGAINST, recorded

SCENE = Scene(1, {}, 0)
BEGAN = Began(0, 1, 2, new=True)
MENDED = Mended(2, 4, (1,), True, "it died", "no copies", {"restored": 2.0})
LOADS = (6, 2, 0, 0)


def plan(stages: tuple[int, ...] = (15, 15), kind: str = "cpu") -> Plan:
    made = runs.plan(SMOLLM2, stages)
    each = [replace(s, ranks=tuple(replace(r, kind=kind) for r in s.ranks)) for s in made.stages]
    return replace(made, stages=tuple(each))


def report(step: int = 3) -> StepReport:
    layer = LayerReport(LOADS, 0.25, 0.01, 0.5, 2.0, 0.1, 0.2, similarity=0.5)
    layers = dict.fromkeys((0, 1), layer)
    rest = (layers, (100, 200), (2.0, 3.0), 0.2, 0.1)
    return StepReport(step, 2.5, 1.5, 1e-3, 80, 4.0, *rest, computed_tokens=90)


def last(told: list[Sample], name: str, **tags: int | str) -> float:
    found = [each.value for each in told if each.name == name and dict(each.tags) == tags]
    assert found, f"nothing was told of {name} {tags}"
    return found[-1]


def metrics(told: list[Sample], against: Measured = AGAINST) -> RunMetrics:
    return RunMetrics(told.extend, against)


def test_everything_that_the_table_has_of_a_run_is_told(tmp_path: Path) -> None:
    told: list[Sample] = []
    with closing(recorded(tmp_path, told)) as record:
        record.began(BEGAN, SCENE, plan(kind="A100"))
        record.step(report())
        record.checkpoint(Saved(3, "there", 0.1, 0.2))
        record.copied(Copied(3, 0.1, 0.2, 1000, 2))
        record.step(report(4))
        record.loss(Lost(3, "it died"), SCENE)
        record.loss(Waiting("no room"), SCENE)
        record.loss(MENDED, SCENE)
        record.resized(Rescaled(3, "x", 10, 1, 1, 0, "wish", {"moved": 1.0}), SCENE)
        record.spares(2)
    assert {each.name for each in told} == {e.name for e in METRICS if e.source == "run"}
    assert all({*each.tags} == {*metric(each.name).tags} for each in told)


@pytest.mark.parametrize("in_full", [False, True])
def test_a_run_tells_no_more_series_than_were_counted(in_full: bool) -> None:
    told: list[Sample] = []
    of_run = metrics(told, replace(AGAINST, in_full=in_full))
    of_run.starts(0, {"step": 1, "time": 5.0})
    of_run.trains(plan(), 0)
    of_run.step(report(), {"goodput": 1.0})
    of_run.mended(MENDED, 1)
    kinds = {(each.name, *sorted(each.tags.items())) for each in told}
    ranks = [e for e in METRICS if e.source == "rank" and (in_full or not e.in_full)]
    of_ranks = sum(2 * (4 if "waits" in entry.tags else 1) for entry in ranks)
    assert len(kinds) + of_ranks <= series(Extent(2, 4, 2, 2), in_full)
    assert any(each.name == "expert_load" for each in told) is in_full


def test_a_step_is_told_by_stage_and_by_layer() -> None:
    told: list[Sample] = []
    of_run = metrics(told)
    of_run.trains(plan(), 0)
    of_run.step(report(), {})
    assert [last(told, "stage_seconds", stage=each) for each in (0, 1)] == [2.0, 3.0]
    assert [last(told, "peak_memory_bytes", stage=each) for each in (0, 1)] == [100, 200]
    assert last(told, "dead_experts", layer=1) == 2
    assert last(told, "expert_overload", layer=1) == 6 / 2
    assert last(told, "expert_load", layer=1, expert=0) == 6 / 8
    assert last(told, "gate_sharpness", layer=0) == 2.0


def test_a_stage_that_is_no_more_has_no_value() -> None:
    told: list[Sample] = []
    of_run = metrics(told)
    of_run.trains(plan((10, 10, 10)), 0)
    of_run.step(replace(report(), compute_seconds=(1.0, 2.0, 3.0), peak_bytes=(1, 2, 3)), {})
    of_run.trains(plan(), 0)
    assert math.isnan(last(told, "stage_seconds", stage=2))
    assert math.isnan(last(told, "peak_memory_bytes", stage=2))
    assert last(told, "stage_seconds", stage=1) == 2.0


def test_work_is_told_of_the_peak_of_gpus_and_of_nothing_on_cpus() -> None:
    told: list[Sample] = []
    of_run = metrics(told)
    of_run.trains(plan(kind="A100"), 0)
    of_run.step(report(), {})
    reached = 90 * AGAINST.token_flops / 4.0
    assert last(told, "flops_per_second") == reached
    assert last(told, "mfu") == reached / (2 * GPUS["A100"].sixteen_bit_flops)
    told.clear()
    of_run.trains(plan(kind="cpu"), 0)
    of_run.step(report(), {})
    assert "mfu" not in {each.name for each in told}


def test_a_driver_that_replaces_another_knows_the_checkpoint_and_the_restarts(
    tmp_path: Path,
) -> None:
    with closing(recorded(tmp_path, [])) as record:
        record.began(BEGAN, SCENE, plan())
        record.step(report(4))
        record.checkpoint(Saved(4, "there", 0.1, 0.2))
        record.loss(replace(MENDED, step=4), SCENE)
    told: list[Sample] = []
    with closing(recorded(tmp_path, told)) as record:
        assert last(told, "checkpoint_step") == 4
        assert last(told, "restarts") == 1
        record.began(replace(BEGAN, new=False, taken_over=True), SCENE, plan())
        assert last(told, "restarts") == 2
        record.began(replace(BEGAN, new=False), SCENE, plan())  # another plan, the same driver
        assert last(told, "restarts") == 2
        record.step(report(7))
        assert last(told, "checkpoint_age") == 3
        record.began(BEGAN, SCENE, plan())
        assert last(told, "restarts") == 0


def test_a_run_is_in_one_state(tmp_path: Path) -> None:
    told: list[Sample] = []

    def state() -> list[str]:
        values = {each.tags["state"]: each.value for each in told if each.name == "state"}
        return [str(name) for name, value in values.items() if value]

    with closing(recorded(tmp_path, told)) as record:
        assert state() == ["starting"]
        record.began(BEGAN, SCENE, plan())
        assert state() == ["training"]
        record.loss(Lost(3, "it died"), SCENE)
        assert state() == ["mending"]
        record.loss(Waiting("no room"), SCENE)
        assert state() == ["waiting"]
        record.loss(MENDED, SCENE)
        assert state() == ["training"]


def test_a_change_that_failed_is_counted_apart(tmp_path: Path) -> None:
    told: list[Sample] = []
    with closing(recorded(tmp_path, told)) as record:
        record.resized(NotRescaled(3, False, "no room"), SCENE)
    assert last(told, "resizes", how="unchanged") == 1
    assert "resize_bytes" not in {each.name for each in told}


def test_a_report_of_all_ranks_says_what_was_waiting() -> None:
    busy = RankReport(0, 3, None, 1.0, 0.1, {}, 2.0, 100, Waits(0.5, 0.2, 0.2, 0.1))
    idle = replace(busy, rank=1, loss=1.5, waits=Waits(1.0, 0.0, 0.0, 0.6))
    merged = merge([busy, idle], 80, 2.1)
    assert merged.compute_seconds == pytest.approx((1.0, 0.4))
    assert merged.bubble == pytest.approx((0.6 + 1.6) / 2 / 2.0)
    assert merged.communication == pytest.approx(0.4 / 2 / 2.0)


def test_how_much_is_measured_is_decided_by_the_size_of_the_run() -> None:
    config, small = with_experts(SMOLLM2, 4), runs.plan(with_experts(SMOLLM2, 4), (15, 15))
    run = runs.run_config(Path("model"))
    assert with_detail(run, config, small).metrics.detail == "full"
    large = runs.repeated(small, 400)
    assert with_detail(run, config, large).metrics.detail == "summary"
    asked = run.model_copy(update={"metrics": MetricsSection(detail="full")})
    assert with_detail(asked, config, large).metrics.detail == "full"

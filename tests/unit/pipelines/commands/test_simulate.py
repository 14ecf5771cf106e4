"""`raymoe simulate`, as a person types it."""

from dataclasses import replace

import pytest

from moe.config.presets import preset
from moe.planning.counts.workload import Workload
from moe.planning.failures.traces import Event, Trace, save_trace
from moe.planning.plan.file import save_plan
from moe.planning.prediction.predict import predict
from moe.planning.search.make import make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from pipelines.planning.capacity import useful_flops
from pipelines.planning.survival import Run, goodputs
from tests import plans
from tests.shell import MOE, WORK, Shell


def test_simulate_tells_the_step_of_the_prediction(shell: Shell) -> None:
    there = plans.inventory(3)
    made = make_plan(MOE, there, 3, 1, WORK)
    file = shell.path / "plan.toml"
    save_plan(made, file)
    words = ("simulate", file, "--model", shell.model(MOE), "--inventory", shell.inventory(there))
    for schedule in ("1f1b", "gpipe", "interleaved-1f1b", "zero-bubble"):
        count = 9 if schedule in ("interleaved-1f1b", "zero-bubble") else 8
        out, _ = shell.run(*words, "--schedule", schedule, "--micro-batches", count)
        work = replace(WORK, micro_batches=count, schedule=schedule)
        predicted = predict(MOE, made, there, work)
        rate = predicted.tokens_per_second
        assert f"tokens: {predicted.step_seconds:.3g} s" in out
        for stage, bubble in enumerate(predicted.timeline.bubble):
            row = f"{stage} {predicted.stage_seconds[stage]:.3g} {bubble:.1%} "
            parts, _, total = out.partition(row)[2].partition("/")[0].rpartition(" ")
            need = predicted.rank_bytes[stage]
            assert total == f"{need.total / 1e9:.1f}"
            held = sum(map(float, parts.split())) + need.process / 1e9
            assert held == pytest.approx(need.total / 1e9, abs=0.04)
        assert f"{rate * useful_flops(MOE, 512) / 3:.3g} FLOP/s for each device" in out


def test_a_plan_of_several_runs_is_played_under_its_schedules(shell: Shell) -> None:
    there, work = plans.inventory(3), replace(WORK, schedule="zbv")
    made = make_plan(MOE, there, 3, 1, work, 2)
    file = shell.path / "plan.toml"
    save_plan(made, file)
    words = ("simulate", file, "--model", shell.model(MOE), "--inventory", shell.inventory(there))
    out, _ = shell.run(*words, "--schedule", "zbv", "--failures-mtbf", 1800)
    assert f"tokens: {predict(MOE, made, there, work).step_seconds:.3g} s" in out
    assert "living actors" in out
    refused = shell.refused(*words)
    assert "1f1b needs one span of layers a stage, but the plan has 2" in refused
    assert "set the schedule to zbv" in refused


def test_what_counts_as_useful_is_what_the_paper_counts() -> None:
    """Skywork-MoE: 690 tokens/s and GPU are 35 % of 312 TFLOP/s by 6 A + 12 L Q S."""
    useful = useful_flops(preset("skywork-moe-146b").config, 8192)
    assert useful == pytest.approx(6 * 22.69e9 + 12 * 52 * 4608 * 8192, rel=2e-3)
    assert 690 * useful / 312e12 == pytest.approx(0.353, abs=2e-3)


def test_goodput_under_failures(shell: Shell) -> None:
    there = plans.inventory(2)
    file, model = shell.path / "plan.toml", shell.model(MOE)
    save_plan(make_plan(MOE, there, 2, 1, WORK), file)
    words = ("simulate", file, "--model", model, "--inventory", shell.inventory(there))
    out, _ = shell.run(*words, "--failures-mtbf", 600, "--hours", 5)
    names = ("checkpoint restart ", "living actors ")
    ratios = [float(out.partition(name)[2].split("%")[0]) for name in names]
    assert "with copies: living actors, warm spare" in out
    assert "without copies: checkpoint restart" in out
    assert 0 < ratios[0] < ratios[1] < 100
    trace = shell.path / "trace.csv"
    save_trace(Trace((Event(100.0, 1, 0), Event(900.0, 0, 1)), 1000.0), trace)
    out, _ = shell.run(*words, "--trace", trace)
    assert "1 loss, one every 1,000 s" in out
    assert "--trace gives the failures" in shell.refused(*words, "--trace", trace, "--hours", 2)
    assert "--hours is the length" in shell.refused(*words, "--hours", 2)
    assert "no trace at" in shell.refused(*words, "--trace", shell.path / "none.csv")


def test_on_fewer_devices_the_run_goes_on_or_waits() -> None:
    """A stage less is slower; where the rest cannot hold the model, even living actors wait."""
    trace = Trace((Event(200.0, 1, 0), Event(800.0, 0, 1)), 1000.0)
    for memory, waits in ((64 * 10**9, False), (34 * 10**8, True)):
        there = plans.inventory(2, memory_bytes=memory)
        plan = make_plan(MOE, there, 2, 1, WORK)
        run = Run(MOE, plan, there, predict(MOE, plan, there, WORK))
        found = dict(goodputs(run, trace))
        living, restart = found["living actors"], found["checkpoint restart"]
        assert restart.waiting_seconds == pytest.approx(600, abs=1)
        assert (living.waiting_seconds > 0) == waits
        assert (living.slower_seconds > 0) == (not waits)


@pytest.mark.parametrize(("schedule", "chunks"), [("zero-bubble", 2), ("zbv", 2)])
def test_fewer_replicas_and_devices_run_under_the_same_schedule(schedule: str, chunks: int) -> None:
    """With 7 micro-batches left to one replica, zero-bubble of three stages takes 9."""
    there, work = plans.inventory(6), Workload(512, 1, 6, schedule=schedule)
    one = make_plan(MOE, there, 3, 1, work, chunks)
    stages = (
        replace(stage, ranks=(replace(stage.ranks[0], devices=(f"a/{n}", f"a/{n + 3}")),))
        for n, stage in enumerate(one.stages)
    )
    plan = replace(one, stages=tuple(stages))
    run = Run(MOE, plan, there, predict(MOE, plan, there, work))
    lost = Trace((Event(10.0, 3, 0), Event(2000.0, 1, 0)), 4000.0)
    for name, found in goodputs(run, lost):
        if name.startswith("living"):
            assert found.steps > 0
            assert found.slower_seconds > 0
            assert found.waiting_seconds == 0


def test_replicas_that_are_left_share_the_sequences() -> None:
    there = plans.inventory(4)
    pins = Pins(stages=2, gang=1, replicas=2, micro_batch=1)
    found = search(Question(MOE, there, WORK, 16, pins))
    run = Run(MOE, found.plan, there, predict(MOE, found.plan, there, found.workload))
    trace = Trace((Event(100.0, 1, 0, (3,)),), 1000.0)
    living = dict(goodputs(run, trace))["living actors"]
    assert living.waiting_seconds == 0
    single = make_plan(MOE, plans.inventory(2), 2, 1, replace(WORK, micro_batches=16))
    step = predict(MOE, single, plans.inventory(2), replace(WORK, micro_batches=16)).step_seconds
    slow = step - run.predicted.step_seconds
    kept = round(living.slower_seconds / slow)
    assert kept > 0
    assert living.slower_seconds == pytest.approx(kept * slow, rel=0.02)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--failures-mtbf 0.001", "about 86,400,000 failures in 24 hours, but at most 100,000"),
        ("--failures-mtbf 1800 --hours 1e12", "failures in 1e+12 hours, but at most 100,000"),
        ("--failures-mtbf 0", "--failures-mtbf is 0; give a finite number above 0"),
        ("--failures-mtbf inf", "--failures-mtbf is inf"),
        ("--failures-mtbf 60 --hours -1", "--hours is -1"),
        ("--micro-batches 1000000", "at most 10,000 are simulated"),
        ("--micro-batch 0", "--micro-batch is 0; give at least 1"),
        ("--sequence-length 9000", "9000 but the model has 8192 positions"),
        ("--imbalance 0.5", "--imbalance is 0.5"),
        ("--schedule zvb", "--schedule is 'zvb'; did you mean zbv?"),
        ("--html nowhere/page.html", "--html is nowhere/page.html; name a file"),
    ],
)
def test_arguments_are_checked_before_anything_is_printed(
    shell: Shell, words: str, why: str
) -> None:
    there, file = plans.inventory(1), shell.path / "plan.toml"
    save_plan(make_plan(MOE, there, 1, 1, WORK), file)
    given = ("--model", shell.model(MOE), "--inventory", shell.inventory(there), *words.split())
    assert why in shell.refused("simulate", file, *given)

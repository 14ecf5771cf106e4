"""Plans for schedules without bounds: against every way to cut, and what they began with."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from random import Random

import pytest

from moe.config.model import ModelConfig
from moe.errors import PlanError
from moe.planning.counts.fixed import PROCESS_BYTES
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.plan.plan import Plan
from moe.planning.prediction.positions import plan_positions
from moe.planning.prediction.predict import gang_costs, predict
from moe.planning.search.chunked import SEARCHED, for_schedule, searchable
from moe.planning.search.interleave import interleave, spans_by_stage
from moe.planning.search.make import make_plan
from moe.planning.search.pins import Pins
from moe.planning.search.search import Question, search
from tests.plans import FINE, SMOLLM2, device, inventory
from tests.questions import draw_model

CASES = [
    ("interleaved-1f1b", 1),
    ("interleaved-1f1b", 2),
    ("interleaved-1f1b", 3),
    ("zero-bubble", 1),
    ("zero-bubble", 2),
    ("zbv", 2),
]
WORK = Workload(sequence_length=64, micro_batch=1, micro_batches=6)


def cuts(layers: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to give each part one of the layers or more, in order."""
    for edges in combinations(range(1, layers), parts - 1):
        yield tuple(stop - start for start, stop in pairwise((0, *edges, layers)))


def of_lengths(
    config: ModelConfig, plan: Plan, lengths: tuple[int, ...], there: Inventory, work: Workload
) -> Plan:
    """Return the gangs of a plan with chunks of these lengths, recomputing as little as fits."""
    spans = spans_by_stage(lengths, len(plan.stages), plan.folded)
    bare = [
        replace(stage, layers=own[0], more=own[1:], recompute=(), seconds=0.0)
        for stage, own in zip(plan.stages, spans, strict=True)
    ]
    shell = replace(plan, stages=tuple(bare))
    costs = gang_costs(config, shell, there, work)
    positions = plan_positions(shell, work)
    found = (
        replace(stage, recompute=cost.leanest(stage.spans, position).recompute)
        for stage, cost, position in zip(shell.stages, costs, positions, strict=True)
    )
    return replace(shell, stages=tuple(found))


def fits(plan: Plan, config: ModelConfig, there: Inventory, work: Workload) -> bool:
    return max(stage.fullness for stage in predict(config, plan, there, work).stages) <= 1


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("schedule", "chunks"), CASES)
def test_near_the_best_of_every_cut(schedule: str, chunks: int, seed: int) -> None:
    random = Random(seed)
    config = draw_model(random, random.randint(2 * chunks, 8))
    work = replace(WORK, schedule=schedule)
    speeds = [1.0, random.choice([1.0, 2.0, 3.7])]
    there = Inventory(tuple(device(f"d{n}", speed=speed) for n, speed in enumerate(speeds)))
    plan = make_plan(config, there, 2, 1, work, chunks)
    step = predict(config, plan, there, work).step_seconds
    every = [
        predict(config, of_lengths(config, plan, lengths, there, work), there, work).step_seconds
        for lengths in cuts(config.layers, 2 * chunks)
    ]
    assert min(every) * (1 - 1e-9) <= step <= 1.1 * min(every)


@pytest.mark.parametrize(("schedule", "chunks"), CASES)
def test_a_plan_is_no_slower_than_what_it_began_with(schedule: str, chunks: int) -> None:
    work, there = replace(WORK, schedule=schedule, micro_batches=12), inventory(4)
    found = search(Question(FINE, there, searchable(work), 12, Pins(4, 1, 1))).plan
    begun = interleave(found, chunks, schedule == "zbv", FINE)
    made = for_schedule(FINE, found, there, work, chunks)
    took = predict(FINE, begun, there, work).step_seconds
    takes = predict(FINE, made, there, work)
    assert takes.step_seconds <= took * (1 + 1e-12)
    assert [stage.seconds for stage in made.stages] == list(takes.stage_seconds)
    assert [stage.ranks for stage in made.stages] == [stage.ranks for stage in found.stages]
    assert (made.chunks, made.folded) == (chunks, schedule == "zbv")


@pytest.mark.parametrize("schedule", SEARCHED)
def test_what_the_search_knows_is_left_to_it(schedule: str) -> None:
    work = replace(WORK, schedule=schedule)
    assert searchable(work) is work
    found = search(Question(SMOLLM2, inventory(3), work, 6)).plan
    assert for_schedule(SMOLLM2, found, inventory(3), work) is found


def test_fewer_micro_batches_than_stages_are_searched_under_gpipe() -> None:
    work = replace(WORK, schedule="zero-bubble", micro_batches=2)
    assert searchable(work, 3).schedule == "gpipe"
    assert searchable(work, 2).schedule == "1f1b"
    made = make_plan(SMOLLM2, inventory(3), 3, 1, work)
    assert predict(SMOLLM2, made, inventory(3), work).step_seconds > 0


@pytest.mark.parametrize(("schedule", "chunks"), [("interleaved-1f1b", 2), ("zbv", 2)])
def test_what_does_not_fit_is_recomputed_until_not_even_that_does(
    schedule: str, chunks: int
) -> None:
    config = replace(FINE, layers=12, tie_embeddings=False)
    work = replace(WORK, schedule=schedule, sequence_length=512, micro_batch=4, micro_batches=8)
    plenty = make_plan(config, inventory(2), 2, 1, work, chunks)
    need = max(each.total for each in predict(config, plenty, inventory(2), work).rank_bytes)
    assert not any(stage.recompute for stage in plenty.stages)
    counts = []
    for part in (1.0, 0.85, 0.7):
        there = inventory(2, memory_bytes=PROCESS_BYTES + int(part * (need - PROCESS_BYTES)))
        plan = make_plan(config, there, 2, 1, work, chunks)
        assert fits(plan, config, there, work)
        counts.append(sum(len(stage.recompute) for stage in plan.stages))
    assert counts == sorted(counts)
    assert counts[0] == 0 < counts[-1]
    scarce = inventory(2, memory_bytes=PROCESS_BYTES + (need - PROCESS_BYTES) // 4)
    with pytest.raises(PlanError, match=f"under {schedule} with 2 spans of layers a stage, stage"):
        make_plan(config, scarce, 2, 1, work, chunks)


def test_a_v_fits_where_1f1b_does_not() -> None:
    """With embedding and head both on the larger device the smaller one needs to hold neither."""
    config = replace(SMOLLM2, layers=12, tie_embeddings=False)
    small = device("a/1", memory_bytes=PROCESS_BYTES + 3 * 10**8)
    there, work = Inventory((device("a/0"), small)), replace(WORK, schedule="zbv")
    with pytest.raises(PlanError, match=r"rank 1 \(stage 1\) needs 1\.\d+ GB"):
        make_plan(config, there, 2, 1, replace(work, schedule="1f1b"))
    plan = make_plan(config, there, 2, 1, work, 2)
    assert fits(plan, config, there, work)
    assert [stage.ranks[0].device for stage in plan.stages] == ["a/0", "a/1"]


def test_too_few_layers_for_so_many_runs_are_refused() -> None:
    config = replace(SMOLLM2, layers=5)
    with pytest.raises(PlanError, match="5 layers, too few for 2 stages of 3 spans of layers each"):
        make_plan(config, inventory(2), 2, 1, replace(WORK, schedule="interleaved-1f1b"), 3)
    plan = make_plan(config, inventory(2), 2, 1, replace(WORK, schedule="zbv"), 2)
    assert sum(len(stage.layer_numbers) for stage in plan.stages) == 5


def test_chunks_that_the_schedule_has_not_are_refused_before_any_search() -> None:
    with pytest.raises(PlanError, match="1f1b needs one span of layers a stage"):
        make_plan(SMOLLM2, inventory(2), 2, 1, WORK, 2)
    with pytest.raises(PlanError, match="zbv needs 2 spans of layers a stage"):
        make_plan(SMOLLM2, inventory(2), 2, 1, replace(WORK, schedule="zbv"))

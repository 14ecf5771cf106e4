"""The search inside a shape against a constraint solver: the same problem, stated once more.

CP-SAT is given the cuts, the order of unlike units, tables of what each may cost at each position,
and the start of every piece of work under 1F1B; it proves its optimum. Costs are those of real
models, rounded to whole microseconds, so both optima are the same number.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from ortools.sat.python import cp_model

from moe.config.share import whole
from moe.planning.counts.fixed import PROCESS_BYTES
from moe.planning.counts.memory import Position, rank_bytes
from moe.planning.counts.workload import Workload
from moe.planning.devices.inventory import Inventory
from moe.planning.devices.links import Link
from moe.planning.search.assemble import pipeline, unit_costs
from moe.planning.search.pipeline import Pipeline, UnitKind
from moe.planning.search.question import Question
from moe.planning.search.shapes import Shape, floor
from moe.planning.stages.gang import GangCosts, StageCost
from moe.planning.stages.member import Span
from moe.planning.stages.units import Unit, form_gangs, form_units
from tests.plans import FINE, SMOLLM2, device, with_experts

assert FINE.moe is not None
MIXED = replace(FINE, moe=replace(FINE.moe, dense_layers=(0, 3)))


def whole_microseconds(cost: StageCost) -> StageCost:
    """Return the cost in whole microseconds."""
    seconds = (cost.forward, cost.backward, cost.reduce, cost.update)
    forward, backward, reduce, update = (float(round(1e6 * each)) for each in seconds)
    return StageCost(forward, backward, reduce, update, cost.fullness, cost.recompute)


class WholeCosts(GangCosts):
    """Costs of a gang, in whole microseconds."""

    def stage(self, layers: Span, position: Position, room: float = 1.0) -> StageCost:
        return whole_microseconds(super().stage(layers, position, room))

    def alike(self, layers: Span, position: Position, room: float = 1.0) -> StageCost:
        return self.stage(layers, position, room)


def in_microseconds(problem: Pipeline) -> Pipeline:
    """Return the problem with every time in whole microseconds, its floor one a layer lower."""
    kinds = []
    for kind in problem.kinds:
        costs = WholeCosts.__new__(WholeCosts)
        costs.__dict__.update(vars(kind.costs))
        kinds.append(UnitKind(costs, kind.units))

    def hop(one: Unit, other: Unit) -> float:
        return float(round(1e6 * problem.hop(one, other)))

    def tied(first: Unit, last: Unit) -> float:
        return float(round(1e6 * problem.tied(first, last)))

    least = replace(
        problem.floor,
        before=tuple(1e6 * before - layer for layer, before in enumerate(problem.floor.before)),
        head=1e6 * problem.floor.head,
        forward=1e6 * problem.floor.forward,
    )
    return replace(problem, kinds=tuple(kinds), hop=hop, tied=tied, floor=least)


def order_of_1f1b(stage: int, stages: int, micro_batches: int) -> list[tuple[str, int]]:
    """Return what a stage does one after the other: warm up, one forward one backward, run out."""
    ahead = stages - 1 - stage
    order = [("F", number) for number in range(ahead)]
    for number in range(micro_batches - ahead):
        order += [("F", ahead + number), ("B", number)]
    return order + [("B", number) for number in range(micro_batches - ahead, micro_batches)]


def proved_optimum(problem: Pipeline, count: int) -> int | None:
    """Return the least step that the solver proves, in microseconds; None if it proves none."""
    model = cp_model.CpModel()
    units = [(number, unit) for number, kind in enumerate(problem.kinds) for unit in kind.units]
    stages, layers = len(problem.positions), problem.layers
    most = 10**9
    cuts = [model.new_int_var(0, layers, "") for _ in range(stages + 1)]
    model.add(cuts[0] == 0)
    model.add(cuts[-1] == layers)
    used = [model.new_int_var(0, len(units) - 1, "") for _ in range(stages)]
    model.add_all_different(used)
    names = ("forward", "backward", "reduce", "update")
    times = [{name: model.new_int_var(0, most, "") for name in names} for _ in range(stages)]
    for stage, position in enumerate(problem.positions):
        rows = []
        for number, (kind, _) in enumerate(units):
            for start in range(layers):
                for stop in range(start + 1, layers + 1):
                    cost = problem.kinds[kind].costs.stage((start, stop), position)
                    if cost.fullness <= 1:
                        own = (int(getattr(cost, name)) for name in names)
                        rows.append((number, start, stop, *own))
        row = [used[stage], cuts[stage], cuts[stage + 1], *times[stage].values()]
        model.add_allowed_assignments(row, rows)
    ways = [_ways(model, problem, units, pair) for pair in pairwise(used)]
    forward = [each["forward"] + way for each, way in zip(times, [0, *ways], strict=True)]
    backward = [each["backward"] + way for each, way in zip(times, [*ways, 0], strict=True)]
    end = model.new_int_var(0, most, "")
    starts = [_schedule(model, stage, forward, backward, count) for stage in range(stages)]
    for stage in range(stages):
        for number in range(count):
            if stage:
                before = starts[stage - 1]["F", number] + forward[stage - 1]
                model.add(starts[stage]["F", number] >= before)
            if stage + 1 < stages:
                after = starts[stage + 1]["B", number] + backward[stage + 1]
                model.add(starts[stage]["B", number] >= after)
        last = starts[stage]["B", count - 1] + backward[stage]
        model.add(end >= last + times[stage]["reduce"])
    update = model.new_int_var(0, most, "")
    model.add_max_equality(update, [each["update"] for each in times])
    model.minimize(end + update)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 2
    solver.parameters.max_time_in_seconds = 60
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.INFEASIBLE)
    return round(solver.objective_value) if status == cp_model.OPTIMAL else None


def _ways(
    model: cp_model.CpModel,
    problem: Pipeline,
    units: Sequence[tuple[int, Unit]],
    pair: tuple[cp_model.IntVar, cp_model.IntVar],
) -> cp_model.IntVar:
    """Return the time between two neighbours, by who they are."""
    way = model.new_int_var(0, 10**9, "")
    rows = [
        (one, other, int(problem.hop(units[one][1], units[other][1])))
        for one in range(len(units))
        for other in range(len(units))
        if one != other
    ]
    model.add_allowed_assignments([*pair, way], rows)
    return way


def _schedule(
    model: cp_model.CpModel,
    stage: int,
    forward: Sequence[cp_model.LinearExpr],
    backward: Sequence[cp_model.LinearExpr],
    count: int,
) -> dict[tuple[str, int], cp_model.IntVar]:
    """Return when a stage starts each piece of its work: in the order of 1F1B."""
    order = order_of_1f1b(stage, len(forward), count)
    starts = {each: model.new_int_var(0, 10**9, "") for each in order}
    for before, after in pairwise(order):
        seconds = forward[stage] if before[0] == "F" else backward[stage]
        model.add(starts[after] >= starts[before] + seconds)
    return starts


def draw_problem(seed: int) -> tuple[Pipeline, int]:
    """Draw a pipeline of 5 to 30 layers over 2 to 6 stages, on unlike devices with tight memory."""
    random = Random(seed)
    stages = random.choice([2, 3, 3, 4, 4, 5, 6])
    config = random.choice([SMOLLM2, with_experts(SMOLLM2, 4), MIXED])
    layers = random.randint(*{2: (12, 30), 3: (10, 22), 4: (8, 15)}.get(stages, (stages, 11)))
    config = replace(config, layers=layers, tie_embeddings=False)
    micro_batch, count = random.choice([1, 2]), random.randint(stages, stages + 3)
    workload = Workload(512, micro_batch, count)
    need = rank_bytes(config, whole(config), Position(stages), workload).total - PROCESS_BYTES
    speeds = random.choice([(1.0,), (1.0, 2.0), (0.7, 1.0, 2.5)])
    room = random.choice([2.5, 1.7, 1.3]) / stages
    devices = tuple(
        device(
            f"d{number}",
            random.choice("ab"),
            speed=random.choice(speeds),
            memory_bytes=PROCESS_BYTES + int(need * room * random.uniform(0.8, 1.2)),
        )
        for number in range(stages)
    )
    links = (Link(("*", "*"), 10.0 ** random.uniform(7, 10)), Link(("*",), 1e9, 1e-4))
    there = Inventory(devices, links)
    question = Question(config, there, workload, micro_batch * count)
    units = form_units(form_gangs(there, 1), 1, stages)
    costs = [unit_costs(config, there, workload, unit) for unit in units]
    least = floor(config, costs, [1] * len(units))
    return pipeline(question, Shape(1, 1, stages, micro_batch), units, least), count


@pytest.mark.parametrize("seed", range(36))
def test_the_answer_is_the_proved_optimum_of_a_constraint_solver(seed: int) -> None:
    drawn, count = draw_problem(seed)
    problem = in_microseconds(drawn)
    answer = problem.solve()
    assert answer is None or answer.gap == 0
    assert (answer and answer.seconds) == proved_optimum(problem, count)

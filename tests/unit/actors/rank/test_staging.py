"""Shares that move between ranks are those that a checkpoint would have given, to the bit."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.commands import StepReport
from actors.crew.gather import gather
from actors.faults.armed import Armed
from moe.config.fault import Fault, FaultKind
from moe.config.model import ModelConfig
from moe.config.products import always
from moe.config.run import RunConfig
from moe.errors import RankLost
from moe.nn.processor import processor
from moe.nn.product import chosen
from moe.planning.moves.messages import resize
from moe.planning.moves.seating import Seating
from moe.planning.plan.plan import Plan
from tests import exports, plans, runs
from tests.examples import examples
from tests.moving import check_equal, met, resizing, saved, staying, workload_of
from tests.ranks import SECONDS, Ranks, Team, single_threaded
from tests.routed import routed
from tests.training import stepped

DEEP: dict[str, Any] = {
    "experts": 5,
    "shared_size": 40,
    "shared_gate": True,
    "dense_layers": (0,),
    "score": "sigmoid",
    "balance_bias": True,
}
"""DeepSeekMoE's shapes, with a bias on the choice."""

BIASED = {"balance": {"coefficient": {"type": "bias", "rate": 0.05, "value": 0.1}}}
OTHERWISE = {"balance": {"loss": "switch", "scope": "global-batch", "coefficient": {"beta": 0.5}}}


def same_seats(old: Plan, new: Plan) -> Seating:
    """Return the seating where every process of the old plan keeps the number of its rank."""
    return staying(dict(zip(new.seats, old.seats, strict=False)))


def trained(ranks: Ranks, plan: Plan, model: Path, run: RunConfig, steps: int = 2) -> Team:
    team = ranks.started(plan, model, run, runs.LENGTH)
    for step in range(steps):
        stepped(team, step)
    return team


def check_resized(
    ranks: Ranks, team: Team, config: ModelConfig, plan: Plan, seating: Seating, at: Path
) -> None:
    """Move a team of two steps to another plan; compare with one built from its checkpoint."""
    checkpoint = saved(team, at, 2)
    change = resizing(ranks, team, config, plan, seating)
    reports = change.moved()
    parts, total = change.resize.parts, change.resize.difference.bytes
    assert [each.sent_bytes for each in reports] == [part.sent_bytes for part in parts]
    assert [each.received_bytes for each in reports] == [part.received_bytes for part in parts]
    assert sum(each.sent_bytes for each in reports) == total
    after = change.committed(2)
    found, report = after.held(), stepped(after, 2)
    later = after.held()
    fresh = ranks.started(plan, checkpoint, team.run, runs.LENGTH, resume=True)
    check_equal(found, fresh.held())
    theirs = stepped(fresh, 2)
    assert (report.loss, report.gradient_norm) == (theirs.loss, theirs.gradient_norm)
    check_equal(later, fresh.held())


class Shape(NamedTuple):
    """The layers of each stage, the key-value heads of each member of a gang, the replicas."""

    layers: tuple[int, ...]
    heads: tuple[int, ...] = (3,)
    replicas: int = 1

    def plan(self, config: ModelConfig) -> Plan:
        rest = len(self.heads) - 1
        experts = (config.experts - rest, *(1 for _ in range(rest)))
        return runs.repeated(runs.plan(config, self.layers, self.heads, experts), self.replicas)


CHANGES = {
    "replicas up": (Shape((3,)), Shape((3,), replicas=2)),
    "replicas down": (Shape((3,), replicas=2), Shape((3,))),
    "stages cut anew": (Shape((2, 1)), Shape((1, 1, 1))),
    "gang narrower": (Shape((3,), (2, 1)), Shape((3,))),
    "gang wider, uneven": (Shape((3,)), Shape((3,), (1, 1, 1))),
    "all at once": (Shape((2, 1), (2, 1)), Shape((3,), (1, 2), 2)),
}
CASES = [(change, "fp32") for change in CHANGES] + [
    ("all at once", "bf16"),
    ("gang narrower", "bf16"),
]


@pytest.mark.parametrize(("change", "precision"), CASES)
def test_a_share_that_moved_is_that_of_a_checkpoint(
    change: str, precision: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3, **DEEP)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, train={"precision": precision}, **BIASED)
    old, new = (shape.plan(config) for shape in CHANGES[change])
    team = trained(ranks, old, model, run)
    check_resized(ranks, team, config, new, same_seats(old, new), tmp_path / "saved")


def test_experts_that_change_ranks_move_alone(ranks: Ranks, tmp_path: Path) -> None:
    config = routed(3, **DEEP)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, **BIASED)
    old = Shape((3,), (2, 1)).plan(config)
    new = runs.placing(old, {1: ((0, 4, 2), (1, 3)), 2: ((0, 1, 2, 3), (4,))})
    team = trained(ranks, old, model, run)
    seating = same_seats(old, new)
    moves = resize(config, old, new, workload_of(run), seating).difference.moves
    roles = {(move.range.part.role.layer, move.range.part.role.expert) for move in moves}
    assert roles == {(1, 4), (1, 1), (1, 3)}
    check_resized(ranks, team, config, new, seating, tmp_path / "saved")


@settings(
    max_examples=examples(12),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_plan_becomes_any_other_whoever_stays(
    data: st.DataObject, ranks: Ranks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    config = replace(routed(3, experts=5), tie_embeddings=data.draw(st.booleans()))
    model = exports.export(config, folder / "model")
    run = runs.run_config(model, train={"global_batch": 12}, **OTHERWISE)
    small = plans.plans(config).filter(lambda plan: plan.ranks <= 2)
    old, new = (
        runs.repeated(data.draw(small), data.draw(st.sampled_from([1, 2]))) for _ in range(2)
    )
    order = data.draw(st.permutations(list(old.seats)))
    taken = data.draw(st.permutations(list(new.seats)))[: data.draw(st.integers(0, 4))]
    stays = dict(zip(taken, order, strict=False))
    team = trained(ranks, old, model, run)
    check_resized(ranks, team, config, new, staying(stays), folder / "saved")


def started(ranks: Ranks, tmp_path: Path) -> tuple[ModelConfig, Team]:
    """Return two stages of two replicas after two steps."""
    config = routed(3, experts=5, shared_size=13)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model)
    return config, trained(ranks, Shape((2, 1), replicas=2).plan(config), model, run)


def undisturbed(ranks: Ranks, team: Team) -> list[StepReport]:
    """Return the reports of the next steps of a run that nothing disturbs."""
    assert team.run is not None
    again = trained(ranks, team.plan, team.run.model.path, team.run)
    return [replace(stepped(again, step), seconds=0.0, peak_bytes=()) for step in (2, 3)]


def check_goes_on(ranks: Ranks, team: Team, epoch: int) -> None:
    """Check that the ranks of an old plan train on as if nobody had tried to resize them."""
    crew = ranks.crew_of(team.plan.seats, range(len(team.plan.seats)))
    gather(crew, {seat: crew.tell(seat, "forget") for seat in crew.seats}, "forgetting", SECONDS)
    old = met(crew, team.plan, team.run, epoch)
    found = [replace(stepped(old, step), seconds=0.0, peak_bytes=()) for step in (2, 3)]
    assert found == undisturbed(ranks, team)


def test_a_share_that_is_forgotten_leaves_the_old_one(ranks: Ranks, tmp_path: Path) -> None:
    config, team = started(ranks, tmp_path)
    new = Shape((1, 1, 1)).plan(config)
    change = resizing(ranks, team, config, new, same_seats(team.plan, new))
    change.moved()
    staged = [change.crew.tell(seat, "status").result(SECONDS).staged for seat in change.crew.seats]
    assert staged == [part.new for part in change.resize.parts]
    check_goes_on(ranks, team, 2)


@pytest.mark.parametrize("kind", ["kill", "hang", "raise"])
def test_a_new_rank_that_fails_as_it_receives_leaves_the_old_plan_running(
    kind: FaultKind, ranks: Ranks, tmp_path: Path
) -> None:
    """It has come, so all others send and receive. Its neighbours are freed, and theirs."""
    config, team = started(ranks, tmp_path)
    new = Shape((1, 1, 1), replicas=2).plan(config)
    change = resizing(ranks, team, config, new, same_seats(team.plan, new))
    victim = next(part.number for part in change.resize.parts if part.old is None)
    (tmp_path / "marks").mkdir()
    fault = Armed(Fault(kind, victim, 2, "resize"), tmp_path / "marks" / "0")
    change.crew.tell(change.crew.seats.seat(victim), "arm", [fault]).result(SECONDS)
    answers = change.told(seconds=2.0 if kind == "hang" else SECONDS)
    left = [answer for number, answer in enumerate(answers.values()) if number != victim]
    assert all(isinstance(each.exception(0.5 * SECONDS), RankLost) for each in left)
    assert fault.spent
    ranks.process(change.numbers[victim]).kill()
    check_goes_on(ranks, team, 2)


def test_ranks_that_wait_for_one_that_never_comes_are_freed_by_an_abort(
    ranks: Ranks, tmp_path: Path
) -> None:
    config, team = started(ranks, tmp_path)
    new = Shape((1, 1, 1)).plan(config)
    change = resizing(ranks, team, config, new, same_seats(team.plan, new))
    absent = change.crew.seats.seat(len(change.numbers) - 1)
    answers = change.told(without=absent)
    for seat in answers:
        while not change.crew.tell(seat, "status").result(SECONDS).busy:
            time.sleep(0.01)
        change.crew.tell(seat, "abort")
    for answer in answers.values():
        with pytest.raises(RankLost, match="was given up"):
            answer.result(5.0)
    check_goes_on(ranks, team, 2)


def test_new_ranks_multiply_by_the_rules_of_the_run_once_they_are_taken(
    ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3)
    model = exports.export(config, tmp_path / "model")
    team = trained(ranks, Shape((3,)).plan(config), model, runs.run_config(model), 1)
    team.all("rules", always(processor(), "mkl"))
    new = Shape((2, 1)).plan(config)
    change = resizing(ranks, team, config, new, same_seats(team.plan, new), step=1)
    fresh = change.crew.seats.seat(1)
    before = change.crew.tell(fresh, "rules", always(processor(), "onednn")).result(SECONDS)
    change.moved()
    assert change.crew.tell(fresh, "rules").result(SECONDS) == before
    after = change.committed(2)
    assert after.all("rules") == [always(processor(), "mkl")] * 2
    after.all("rules", chosen({}))


def test_a_rank_that_moved_nothing_has_nothing_to_become(ranks: Ranks, tmp_path: Path) -> None:
    _, team = started(ranks, tmp_path)
    with pytest.raises(RankLost, match="holds no share of another plan"):
        team.all("become")


def test_ranks_that_stand_apart_do_not_move(ranks: Ranks, tmp_path: Path) -> None:
    config, team = started(ranks, tmp_path)
    team.crew.tell(team.crew.seats.seat(1), "stand_at", 1).result(SECONDS)
    change = resizing(ranks, team, config, team.plan, same_seats(team.plan, team.plan))
    with pytest.raises(RankLost, match="has done 1 steps; a resize after 2 takes its copy"):
        change.moved()


@pytest.mark.parametrize(
    ("shape", "precision"), [(Shape((2, 1), (2, 1), 2), "bf16"), (Shape((1, 1, 1)), "fp32")]
)
def test_a_lost_rank_gives_from_its_copy_and_survivors_go_back_to_theirs(
    shape: Shape, precision: str, ranks: Ranks, tmp_path: Path
) -> None:
    """All have done a step since the copies, one has died in it, and fewer go on."""
    config = routed(3, **DEEP)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, train={"precision": precision}, **BIASED)
    team = trained(ranks, shape.plan(config), model, run)
    checkpoint = saved(team, tmp_path / "saved", 2)
    seats = list(team.plan.seats)
    holders = dict(zip(seats, [*seats[1:], seats[0]], strict=True))
    team.all("copy", 2)
    team.all("exchange_copies", 2, holders)
    stepped(team, 2)
    lost = seats[0]
    ranks.process(0).kill()
    new = Shape((1, 2)).plan(config)
    copied = {seat: seat for seat in seats[1:]} | {lost: holders[lost]}
    stays = dict(zip(new.seats, reversed(seats[1:]), strict=False))
    seating = Seating(stays, frozenset({lost}), {}, {}, copied)
    change = resizing(ranks, team, config, new, seating)
    assert sum(each.sent_bytes for each in change.moved()) == change.resize.difference.bytes
    after = change.committed(2)
    found, report = after.held(), stepped(after, 2)
    fresh = ranks.started(new, checkpoint, run, runs.LENGTH, resume=True)
    check_equal(found, fresh.held())
    theirs = stepped(fresh, 2)
    assert (report.loss, report.gradient_norm) == (theirs.loss, theirs.gradient_norm)


@pytest.mark.parametrize("holds", ["old", "new"])
def test_ranks_between_two_plans_follow_the_one_that_holds(
    holds: str, ranks: Ranks, tmp_path: Path
) -> None:
    """The driver died when some had become of the new plan and others not."""
    config, team = started(ranks, tmp_path)
    new = Shape((1, 1, 1)).plan(config)
    change = resizing(ranks, team, config, new, same_seats(team.plan, new))
    change.moved()
    seats = list(change.crew.seats)
    become = seats[: len(change.plan.seats)] if holds == "new" else seats[:1]
    gather(change.crew, {seat: change.crew.tell(seat, "become") for seat in become}, "", SECONDS)
    plan = change.plan if holds == "new" else single_threaded(team.plan)
    told = {seat: change.crew.tell(seat, "follow", plan) for seat in seats}
    gather(change.crew, told, "following", SECONDS)
    said = [change.crew.tell(seat, "status").result(SECONDS) for seat in become]
    assert not any(status.between or status.staged for status in said)
    if holds == "old":
        check_goes_on(ranks, team, 2)
    else:
        assert [status.seat for status in said] == list(new.seats)

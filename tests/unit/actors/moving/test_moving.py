"""Shares that move between ranks are those that a checkpoint would have given, to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.config.model import ModelConfig
from moe.config.run import RunConfig
from moe.planning.plan.plan import Plan
from moe.planning.plan.seats import Seat
from tests import exports, plans, runs
from tests.examples import examples
from tests.moving import check_equal, resizing, saved
from tests.ranks import Ranks, Team
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


def same_seats(old: Plan, new: Plan) -> dict[Seat, Seat]:
    """Return who stays where every process of the old plan keeps the number of its rank."""
    return dict(zip(new.seats, old.seats, strict=False))


def trained(ranks: Ranks, plan: Plan, model: Path, run: RunConfig, steps: int = 2) -> Team:
    team = ranks.started(plan, model, run, runs.LENGTH)
    for step in range(steps):
        stepped(team, step)
    return team


def check_resized(
    ranks: Ranks, team: Team, config: ModelConfig, plan: Plan, stays: dict[Seat, Seat], at: Path
) -> None:
    """Move a team of two steps to another plan; compare with one built from its checkpoint."""
    checkpoint = saved(team, at, 2)
    change = resizing(ranks, team, config, plan, stays)
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


CHANGES: dict[str, tuple[Any, Any]] = {
    "replicas up": (((3,),), ((3,), None, None, 2)),
    "replicas down": (((3,), None, None, 2), ((3,),)),
    "stages cut anew": (((2, 1),), ((1, 1, 1),)),
    "gang narrower": (((3,), (2, 1)), ((3,), (3,))),
    "gang wider, uneven": (((3,),), ((3,), (1, 1, 1))),
    "all at once": (((2, 1), (2, 1)), ((3,), (1, 2), None, 2)),
}


def planned(
    config: ModelConfig, layers: Any, heads: Any = None, _: Any = None, copies: int = 1
) -> Plan:
    experts = None
    if heads is not None and config.experts:
        rest = len(heads) - 1
        experts = (config.experts - rest, *(1 for _ in range(rest)))
    return runs.repeated(runs.plan(config, layers, heads, experts), copies)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_share_that_moved_is_that_of_a_checkpoint(
    change: str, precision: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3, **DEEP)
    model = exports.export(config, tmp_path / "model")
    run = runs.run_config(model, train={"precision": precision}, **BIASED)
    old, new = (planned(config, *shape) for shape in CHANGES[change])
    team = trained(ranks, old, model, run)
    check_resized(ranks, team, config, new, same_seats(old, new), tmp_path / "saved")


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
    check_resized(ranks, trained(ranks, old, model, run), config, new, stays, folder / "saved")

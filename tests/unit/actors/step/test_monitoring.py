"""What ranks record of their experts: the same under any plan, in the steps that were asked for."""

from pathlib import Path

import pytest

from actors.engine.reports import merge
from moe.checkpoint.reader import Checkpoint
from moe.config.run import BalanceSection
from moe.nn.build import build
from moe.nn.sketch import alike
from moe.planning.plan.plan import Plan
from tests import exports, runs, tiny
from tests.ranks import Ranks
from tests.routed import routed
from tests.training import stepped


@pytest.mark.parametrize("split", ["one rank", "a gang", "stages and replicas"])
def test_similarity_is_recorded_alike_under_any_plan(
    split: str, ranks: Ranks, tmp_path: Path
) -> None:
    config = routed(3, experts=5)
    model = exports.export(config, tmp_path / "model")
    plans: dict[str, Plan] = {
        "one rank": runs.plan(config, (3,)),
        "a gang": runs.plan(config, (3,), (2, 1), (3, 2)),
        "stages and replicas": runs.repeated(runs.plan(config, (1, 2), (1, 2), (5, 0)), 2),
    }
    checkpoint = Checkpoint.open(model)
    decoder = build(checkpoint.config, checkpoint.read)
    run = runs.run_config(model, monitor={"every": 2}, train={"global_batch": 12})
    team = ranks.started(plans[split], model, run, runs.LENGTH)
    first, second, third = (stepped(team, step) for step in range(3))
    for layer, report in first.layers.items():
        before = alike(decoder.mixture(layer))
        assert before is not None
        assert report.similarity == pytest.approx(before.mean, abs=1e-5)
        assert report.closest == pytest.approx(before[1:], abs=1e-5)
        assert second.layers[layer].similarity is None
        assert third.layers[layer].similarity not in (None, report.similarity)


def test_a_dense_model_is_traced_and_has_no_experts_to_look_at(
    ranks: Ranks, tmp_path: Path
) -> None:
    dense = tiny.saved(tiny.llama(), tmp_path / "dense")
    run = runs.run_config(dense, monitor={"every": 2}, balance={"loss": "skywork"})
    config = Checkpoint.open(dense).config
    plain = run.model_copy(update={"balance": BalanceSection()})
    plain.check_model(config)
    team = ranks.started(runs.plan(config, (1, 2)), dense, plain, runs.LENGTH)
    report = merge(team.step(runs.batch(config, plain, 0)), 80, 1.0)
    assert len(report.timeline) == 2
    assert report.layers == {}

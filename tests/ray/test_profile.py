"""A profile of this machine tells the planner about the devices that Ray finds on it."""

from pathlib import Path

import pytest

from actors.engine import over_ray
from actors.profiling.machine import measure
from actors.profiling.measure import Measuring
from actors.profiling.messages import link_of
from actors.profiling.profile import profile_of
from actors.state.sources import ModelSource
from cluster.probe import probe
from cluster.session import Session
from moe.checkpoint.reader import Checkpoint
from moe.planning.counts.workload import Workload
from moe.planning.prediction.predict import predict
from moe.planning.search.make import make_plan
from tests import runs, tiny

pytestmark = pytest.mark.ray


@pytest.mark.long
def test_a_plan_from_measured_seconds_trains(ray_session: Session, tmp_path: Path) -> None:
    model = tiny.saved(tiny.mixtral(), tmp_path / "model")
    config = Checkpoint.open(model).config
    run = runs.run_config(model, train={"global_batch": 4, "micro_batch": 1})
    found = measure(Measuring(config, runs.LENGTH, (1,), ranks=2, threads=1, seconds=0.01))
    profile = profile_of(
        Measuring(config, runs.LENGTH, (1,), 2, 1, 0.01), found, "raymoe profile, a test"
    )
    link = link_of([each.wire for each in found if each.wire])
    inventory = probe().measured([profile], [link])
    assert {inventory.pace(each).source for each in inventory.devices} == {"raymoe profile, a test"}
    workload = Workload(runs.LENGTH, 1, 4)
    plan = make_plan(config, inventory, 2, 1, workload)
    blocks = {part.part: part for part in profile.parts}
    stage = predict(config, plan, inventory, workload).stages[0]
    layers = plan.stages[0].layers[1] - plan.stages[0].layers[0]
    assert stage.forward == pytest.approx(layers * blocks["moe"].forward)
    engine = over_ray.train(run, plan, ModelSource(model), runs.LENGTH)
    try:
        report = engine.train_step(runs.batch(config, run, 0))
    finally:
        engine.shutdown()
    assert report.loss > 0

"""Any plan with any number of replicas reads, to the bit, what any other has written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.checkpoint.manifest import load_manifest
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.spread import writers
from moe.config.tensors import answers_for, held_by, tensors
from tests import plans, saves
from tests.examples import examples


@settings(max_examples=examples(30))
@given(data=st.data(), config=saves.models())
def test_weights_and_moments_of_any_plan_are_those_of_any_other(
    data: st.DataObject, config: plans.ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pair")
    small = plans.plans(config).filter(lambda plan: plan.ranks <= 8)
    first, second = data.draw(small), data.draw(small)
    before, after = (
        saves.Cuts(data.draw(st.integers(1, 3)), data.draw(st.integers(0, 99))) for _ in range(2)
    )
    whole = saves.Whole.of(config)
    at = saves.write(whole, first, before, folder / "saved", folder)
    saves.check(at, whole, second, after)
    assert Checkpoint.open(at).shards.names == load_manifest(at).tensors.keys()


@settings(max_examples=examples(50))
@given(data=st.data(), config=saves.models(), replicas=st.integers(1, 4))
def test_every_weight_has_one_writer_and_the_work_is_even(
    data: st.DataObject, config: plans.ModelConfig, replicas: int
) -> None:
    plan = data.draw(plans.plans(config))
    written: list[str] = []
    for stage in range(len(plan.stages)):
        gang = [plan.share(seat) for seat in plan.seats.of_stage(stage)]
        chosen = writers(config, gang, replicas)
        written += chosen
        for share in gang:
            own = [
                part
                for part in held_by(config, share)
                if answers_for(config, share, part) and (part.dim is None or share.leader)
            ]
            load = [
                sum(_whole(config, part.name) for part in own if chosen[part.name] == each)
                for each in range(replicas)
            ]
            largest = max((_whole(config, part.name) for part in own), default=0)
            assert max(load) - min(load) <= largest
    assert sorted(written) == sorted(tensor.name for tensor in tensors(config))


def _whole(config: plans.ModelConfig, name: str) -> int:
    return next(tensor.elements for tensor in tensors(config) if tensor.name == name)

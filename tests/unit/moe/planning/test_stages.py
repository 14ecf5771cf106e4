"""The layer split against brute force."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.errors import PlanError
from moe.planning.stages import StageCosts, split_layers

Cut = tuple[tuple[int, int], ...]


def every_cut(layers: int, stages: int) -> list[Cut]:
    return [
        tuple(pairwise((0, *inner, layers))) for inner in combinations(range(1, layers), stages - 1)
    ]


def seconds(stages: list[StageCosts], cut: Cut) -> list[float]:
    return [stage.seconds(*span) for stage, span in zip(stages, cut, strict=True)]


def rank(stages: list[StageCosts], cut: Cut) -> tuple[float, float, list[int]]:
    """Slowest first, then spread, then short early stages; exact for whole numbers."""
    times = seconds(stages, cut)
    sizes = [stop - start for start, stop in cut]
    return max(times), sum(time * time for time in times), sizes


@st.composite
def cases(draw: st.DrawFn, cost: st.SearchStrategy[float]) -> list[StageCosts]:
    layers = draw(st.integers(1, 9))
    alike = draw(st.booleans())
    model = draw(st.lists(cost, min_size=layers, max_size=layers))
    stages = []
    for _ in range(draw(st.integers(1, layers))):
        own = model if alike else draw(st.lists(cost, min_size=layers, max_size=layers))
        stages.append(StageCosts(tuple(own), draw(cost)))
    return stages


@settings(max_examples=500, deadline=None)
@given(cases(st.integers(0, 9).map(float)))
def test_equals_brute_force_ties_included(stages: list[StageCosts]) -> None:
    every = every_cut(len(stages[0].layers), len(stages))
    assert split_layers(stages) == min(every, key=lambda cut: rank(stages, cut))


@settings(max_examples=500, deadline=None)
@given(cases(st.floats(1e-6, 1e6)))
def test_no_cut_is_faster(stages: list[StageCosts]) -> None:
    best = min(max(seconds(stages, cut)) for cut in every_cut(len(stages[0].layers), len(stages)))
    assert max(seconds(stages, split_layers(stages))) <= best + 1e-9 * sum(
        max(stage.layers) for stage in stages
    )


@given(
    layers=st.integers(1, 12), stages=st.integers(1, 12), cost=st.sampled_from([0.1, 1 / 3, 7.0])
)
def test_equal_layers_are_split_evenly(layers: int, stages: int, cost: float) -> None:
    if stages > layers:
        with pytest.raises(PlanError, match=f"plan needs {stages} stages but the model has"):
            split_layers([StageCosts((cost,) * layers)] * stages)
        return
    cut = split_layers([StageCosts((cost,) * layers)] * stages)
    sizes = [stop - start for start, stop in cut]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes)


def test_a_stage_twice_as_fast_holds_twice_the_layers() -> None:
    slow, fast = StageCosts((2.0,) * 12), StageCosts((1.0,) * 12)
    assert split_layers([slow, fast]) == ((0, 4), (4, 12))


def test_a_large_model_is_split_at_once() -> None:
    layers = tuple(1.0 + layer % 7 for layer in range(128))
    cut = split_layers([StageCosts(layers, stage % 3) for stage in range(24)])
    assert cut[0][0] == 0
    assert cut[-1][1] == 128


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "asked for a plan of no stages"),
        ([StageCosts((1.0, 1.0)), StageCosts((1.0,))], "stage 1 has costs of 1 layers"),
        ([StageCosts((1.0, float("nan")))], "stage 0 has a cost that is negative or not finite"),
        ([StageCosts((1.0,), -1.0)], "negative or not finite"),
    ],
)
def test_faults_are_named(stages: list[StageCosts], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        split_layers(stages)

"""Evaluation by the ranks of a plan against evaluation by the plain decoder in one process."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from actors.commands import Answering
from moe.checkpoint.reader import Checkpoint
from moe.errors import CheckpointError, RankLost
from moe.planning.plan.plan import Plan
from pipelines.corpus.shards import TokenShards
from pipelines.models.evaluate import EvaluateOptions, Evaluation, evaluate, evaluate_on
from pipelines.models.scoring.engines import Where
from pipelines.models.scoring.pieces import Piece
from pipelines.models.scoring.ranks import RankMeter
from pipelines.models.scoring.windows import Window
from pipelines.serving.generation.local import LocalEngine
from tests import material, runs, tiny
from tests.ranks import Ranks, single_threaded

CUTS = {
    "one": ((3,),),
    "stages": ((1, 2),),
    "gangs": ((2, 1), (2, 1), (1, 3)),
}
OPTIONS = EvaluateOptions(rows=5, batch=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.make(tmp_path_factory.mktemp("scored"))


def plan(folder: Path, *cuts: tuple[int, ...]) -> Plan:
    return single_threaded(runs.plan(Checkpoint.open(folder / "model").config, *cuts))


def on(ranks: Ranks, folder: Path, options: EvaluateOptions, *cuts: tuple[int, ...]) -> Evaluation:
    there = plan(folder, *cuts)
    where = Where(there, crew=ranks.crew(there.seats))
    return evaluate_on(folder / "model", folder / "tokens", options, where)


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    assert found.tokens == expected.tokens
    assert found.bytes == expected.bytes
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (found.recipe_loss or 0.0) == pytest.approx(expected.recipe_loss or 0.0, rel=1e-5)
    assert found.layers.keys() == expected.layers.keys()
    for number, layer in expected.layers.items():
        figures: dict[str, Any] = asdict(layer)
        assert asdict(found.layers[number]) == {
            name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in figures.items()
        }


@pytest.mark.parametrize("cuts", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("window", [None, Window(12, 5)])
def test_every_plan_measures_what_one_process_does(
    ranks: Ranks, folder: Path, cuts: tuple[tuple[int, ...], ...], window: Window | None
) -> None:
    options = EvaluateOptions(rows=5, batch=2, window=window)
    expected = evaluate(folder / "model", folder / "tokens", options)
    assert_equal(on(ranks, folder, options, *cuts), expected)


def test_an_engine_in_this_process_measures_the_same(folder: Path) -> None:
    found = evaluate_on(folder / "model", folder / "tokens", OPTIONS, Where())
    assert_equal(found, evaluate(folder / "model", folder / "tokens", OPTIONS))


def test_a_rank_that_is_lost_is_replaced_and_nothing_is_counted_twice(
    ranks: Ranks, folder: Path
) -> None:
    there = plan(folder, (1, 2))
    crew = ranks.crew(there.seats)
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if not killed:
            killed.append(done)
            crew.kill(there.seats.seat(1))

    where = Where(there, crew=crew)
    found = evaluate_on(folder / "model", folder / "tokens", OPTIONS, where, progress)
    assert killed
    assert_equal(found, evaluate(folder / "model", folder / "tokens", OPTIONS))


class Failing(LocalEngine):
    """An engine whose ranks are lost in every batch."""

    def finish(self, flight: Any) -> Any:
        raise RankLost("a rank was lost")


def test_ranks_that_are_lost_again_and_again_are_given_up(folder: Path) -> None:
    shards = TokenShards.open(folder / "tokens", "held_out")
    batch = shards.batch([0])
    piece = Piece(batch.tokens, batch.labels, batch.labels)
    meter = RankMeter(Failing(folder / "model", Answering(8)), 1)
    with pytest.raises(RankLost, match="a rank was lost"):
        next(meter.measure([piece]))


def test_a_model_of_nan_is_refused(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    broken = material.diverging(folder, tmp_path / "broken")
    there = plan(folder, (1, 2))
    where = Where(there, crew=ranks.crew(there.seats))
    with pytest.raises(CheckpointError, match="are not numbers"):
        evaluate_on(broken, folder / "tokens", OPTIONS, where)


def test_a_dense_model_has_no_routers(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    words = Checkpoint.open(folder / "model").config.vocab_size
    dense = tiny.saved(tiny.llama(vocab_size=words), tmp_path / "dense")
    there = single_threaded(runs.plan(Checkpoint.open(dense).config, (1, 2)))
    where = Where(there, crew=ranks.crew(there.seats))
    found = evaluate_on(dense, folder / "tokens", OPTIONS, where)
    assert not found.layers
    assert found.bytes is None
    assert_equal(found, evaluate(dense, folder / "tokens", OPTIONS))

"""The serving engine over processes: what it generates, and when it is not healthy."""

import os
import signal
from pathlib import Path

import pytest
import transformers

from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.reader import Checkpoint
from moe.config.sampling import Sampling
from moe.errors import RankDied, RequestError
from moe.nn.draw import Draw
from tests import runs, tiny
from tests.ranks import Ranks, single_threaded


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def engine(ranks: Ranks, model: Path) -> ServingEngine:
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, (1, 2), (2, 1), (3, 1)))
    crew = ranks.crew(plan.seats)
    return ServingEngine.serve(crew, "serve", plan, model, Deadlines(group=20.0))


def test_generation_equals_transformers(engine: ServingEngine, model: Path) -> None:
    prompt = tiny.tokens(97, 1, 7)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    expected = theirs.generate(
        prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    for sequence in ("one", "one"):
        fed, ours = prompt[0].tolist(), []
        for _ in range(12):
            sampled = engine.infer(sequence, fed, Draw(Sampling(), 0))
            ours.append(sampled.token)
            fed = [sampled.token]
        engine.release(sequence)
        assert ours == expected[0, 7:].tolist()
    assert engine.healthy()


@pytest.mark.parametrize("token", [-1, 97])
def test_a_token_outside_the_vocabulary_is_refused_and_costs_nothing(
    token: int, engine: ServingEngine
) -> None:
    with pytest.raises(RequestError, match=rf"token {token} .* vocabulary of 97 tokens \(0 to 96"):
        engine.infer("one", [5, token], Draw(Sampling(), 0))
    assert engine.healthy()
    engine.infer("one", [0, 96], Draw(Sampling(), 0))
    engine.release("one")


def test_an_engine_is_not_healthy_without_one_of_its_ranks(
    engine: ServingEngine, ranks: Ranks
) -> None:
    assert engine.healthy()
    os.kill(ranks.pid(2), signal.SIGKILL)
    with pytest.raises(RankDied, match="rank 2 died during inference"):
        engine.infer("one", [1, 2], Draw(Sampling(), 0))
    assert not engine.healthy()

"""The serving engine over processes: what it answers, and what becomes of it without a rank."""

import os
import signal
from pathlib import Path

import pytest
import torch

from actors.commands import Answering, Batch, Drawing, Feed
from actors.deadlines import Deadlines
from actors.engine.serving import ServingEngine
from moe.checkpoint.reader import Checkpoint
from moe.checkpoint.remote_code.modeling_raymoe import RaymoeForCausalLM
from moe.config.sampling import Sampling
from moe.errors import RankDied, RequestError
from moe.nn.inference.rows import BLOCK
from pipelines.serving.batching.batcher import Batcher, Room
from pipelines.serving.batching.sequence import Wanted
from tests import exports, runs, tiny
from tests.generated import expected, generated, prompts
from tests.ranks import Ranks, single_threaded
from tests.routed import routed

BLOCKS = 24
HOW = Answering(BLOCKS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tiny.mixtral(), tmp_path_factory.mktemp("model") / "model")


def started(
    ranks: Ranks, model: Path, *cuts: tuple[int, ...], how: Answering = HOW
) -> ServingEngine:
    plan = single_threaded(runs.plan(Checkpoint.open(model).config, *cuts))
    crew = ranks.crew(plan.seats)
    return ServingEngine.serve(crew, "serve", plan, model, Deadlines(group=20.0), how)


@pytest.fixture
def engine(ranks: Ranks, model: Path) -> ServingEngine:
    return started(ranks, model, (1, 2), (2, 1), (3, 1))


def pids(engine: ServingEngine) -> list[int]:
    return [status.pid for status in engine.statuses()]


@pytest.mark.parametrize("cuts", [((3,),), ((3,), (2, 1), (3, 1)), ((1, 2), (2, 1), (3, 1))])
def test_batches_equal_transformers(
    cuts: tuple[tuple[int, ...], ...], ranks: Ranks, model: Path
) -> None:
    engine = started(ranks, model, *cuts)
    room = Room(BLOCKS, running=4, depth=2, ahead=len(cuts[0]) == 1)
    wanted = [Wanted(prompt, 12, Sampling()) for prompt in prompts()]
    for wish, text in zip(wanted, generated(engine, room, wanted), strict=True):
        assert text == expected(model, wish.prompt, 12)
    assert engine.healthy()


@pytest.mark.parametrize("token", [-1, 97])
def test_a_token_outside_the_vocabulary_is_refused_and_costs_nothing(
    token: int, engine: ServingEngine
) -> None:
    def batch(number: int, *tokens: int) -> Batch:
        feed = Feed(1, tokens, 0, (0,), draws=True)
        return Batch(number, (feed,), {1: Drawing(Sampling(), tokens)})

    with pytest.raises(RequestError, match=rf"token {token} .* vocabulary of 97 tokens \(0 to 96"):
        engine.begin(batch(1, 5, token))
    assert engine.healthy()
    engine.finish(engine.begin(batch(2, 0, 96)))


@pytest.mark.parametrize("victim", [0, 2, 3])
def test_a_lost_rank_is_replaced_alone_and_sequences_go_on(
    victim: int, engine: ServingEngine, ranks: Ranks, model: Path
) -> None:
    room = Room(BLOCKS, running=4, depth=2)
    batcher = Batcher(room)
    wanted = {batcher.add(Wanted(prompt, 12, Sampling())): prompt for prompt in prompts()}
    texts: dict[int, list[int]] = {number: [] for number in wanted}
    before = pids(engine)
    rounds, mended = 0, None
    while batcher.waiting or batcher.running:
        batch = batcher.next(24)
        assert batch is not None
        flight = engine.begin(batch)
        rounds += 1
        if rounds == 8:
            os.kill(ranks.pid(victim), signal.SIGKILL)
        try:
            output = engine.finish(flight)
        except RankDied as error:
            assert error.args[0].startswith(f"rank {victim} died during batch")  # noqa: PT017
            assert not engine.healthy()
            mended = engine.mend()
            batcher.restart()
            continue
        for outcome in batcher.take(batch, output):
            if outcome.token is not None:
                texts[outcome.number].append(outcome.token.token)
            if len(texts[outcome.number]) == 12:
                batcher.end(outcome.number)
    assert mended is not None
    assert mended.replaced == (victim,)
    assert engine.healthy()
    changed = [one != other for one, other in zip(before, pids(engine), strict=True)]
    assert changed == [rank == victim for rank in range(4)]
    for number, prompt in wanted.items():
        assert texts[number] == expected(model, prompt, 12)


@pytest.mark.parametrize("cuts", [((3,), (2, 1)), ((1, 2), (1, 1, 1))])
def test_merged_experts_answer_as_transformers_does(
    cuts: tuple[tuple[int, ...], ...], ranks: Ranks, tmp_path: Path
) -> None:
    """In few blocks, so that sequences give theirs up and are computed again; some begin alike."""
    moe = {"segment_tokens": 6, "top_k": 1, "expert_size": 40, "dense_layers": (1,)}
    model = exports.export(routed(**moe), tmp_path / "model")
    engine = started(ranks, model, *cuts, how=Answering(8))
    room = Room(8, running=5, depth=2, ahead=len(cuts[0]) == 1, merged=True)
    long = prompts()[1]
    first = Wanted(long, 12, Sampling())
    (answer,) = generated(engine, room, [first])
    again = (*long, *answer, 7, 8)
    wanted = [first, Wanted(again, 9, Sampling())]
    wanted += [Wanted(prompt, 12, Sampling()) for prompt in (*prompts(), long[:17])]
    with torch.no_grad():
        theirs = RaymoeForCausalLM.from_pretrained(model).eval()
    for wish, text in zip(wanted, generated(engine, room, wanted), strict=True):
        given = torch.tensor([wish.prompt])
        out = theirs.generate(
            given,
            max_new_tokens=wish.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert text == out[0, len(wish.prompt) :].tolist()


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_packed_weights_and_narrow_cache(weights: str, ranks: Ranks, model: Path) -> None:
    how = Answering(BLOCKS, weights, "bf16")  # type: ignore[arg-type]
    packed = started(ranks, model, (3,), (2, 1), (3, 1), how=how)
    room = Room(BLOCKS, running=5, depth=2, ahead=True)
    wanted = [Wanted(prompt, 6, Sampling()) for prompt in prompts()]
    together = generated(packed, room, wanted)
    assert all(len(text) == 6 for text in together)
    assert together[0] == generated(packed, room, wanted[:1])[0]
    assert all(each.cache_bytes < BLOCKS * BLOCK * 10_000 for each in packed.answerable)

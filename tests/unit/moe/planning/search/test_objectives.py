"""The other objectives against every plan: the least memory, the most tokens held in serving."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from moe.errors import PlanError
from moe.planning.prediction.predict import predict
from moe.planning.search.question import Question
from moe.planning.search.search import Found, search
from tests.every_plan import Whole, every_plan
from tests.questions import draw_question

SAME = 1e-9
BLOCK = 40


def compare(question: Question, value: Callable[[Whole], float], any_recompute: bool) -> bool:
    """Hold the search against every plan: the least value, then the least step."""
    every = list(every_plan(question, any_recompute))
    try:
        found = search(question)
    except PlanError:
        assert not every
        return False
    best = min(value(each) for each in every)
    assert found.best.value == pytest.approx(best, rel=SAME)
    alike = [each for each in every if value(each) <= best + abs(best) * 1e-12]
    assert found.best.seconds <= min(each.seconds for each in alike) * (1 + SAME)
    check_plan(question, found)
    return True


def check_plan(question: Question, found: Found) -> None:
    predicted = predict(question.config, found.plan, question.inventory, found.workload)
    assert predicted.step_seconds == pytest.approx(found.best.seconds, rel=SAME)
    fullness = max(stage.fullness for stage in predicted.stages)
    assert fullness == pytest.approx(found.best.fullness, rel=SAME)
    assert fullness <= 1


@pytest.mark.parametrize("block", range(5))
def test_no_plan_is_leaner_than_the_leanest(block: int) -> None:
    found = 0
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        question = replace(draw_question(4 * 10**6 + seed, 4, 3), objective="memory")
        found += compare(question, lambda each: each.fullness, any_recompute=True)
    assert found > BLOCK // 2


@pytest.mark.parametrize("block", range(5))
def test_no_plan_holds_more_tokens(block: int) -> None:
    found = 0
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        question = draw_question(5 * 10**6 + seed, 6, 4, training=False)
        question = replace(question, objective="tokens")
        found += compare(question, lambda each: -each.tokens, any_recompute=False)
    assert found > BLOCK // 2


def test_memory_and_step_are_other_plans() -> None:
    unlike = 0
    for seed in range(60):
        question = draw_question(4 * 10**6 + seed, 4, 3)
        try:
            quick, lean = (search(replace(question, objective=name)) for name in ("step", "memory"))
        except PlanError:
            continue
        assert lean.best.fullness <= quick.best.fullness * (1 + SAME)
        assert quick.best.seconds <= lean.best.seconds * (1 + SAME)
        unlike += quick.plan != lean.plan
    assert unlike > 10


def test_an_unknown_objective_and_tokens_in_training_are_refused() -> None:
    question = draw_question(0)
    with pytest.raises(PlanError, match="the objective is 'speed'"):
        search(replace(question, objective="speed"))
    with pytest.raises(PlanError, match="tokens held in serving but the workload is training"):
        search(replace(question, objective="tokens"))
